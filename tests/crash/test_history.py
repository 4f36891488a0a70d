"""The history itself, undisturbed: whatever reads in between, or not, every state is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.crash import lives, work
from tests.crash.server import Server


def follow(path: str, calls: int, every: int, durability: str) -> int:
    """Make calls and compare all that can be read, now and then."""
    states = work.states(calls)
    with vecstore.open(path, durability=durability) as store:
        for number in range(calls):
            work.apply(store, number)
            lives.committed(store, number, durability)
            if number % every == 0:
                assert work.contents(store) == states[number + 1], f"after call {number}"
        assert store.check() == []
    with vecstore.open(path, mode="r") as store:
        assert work.contents(store) == states[calls]
    return calls


@pytest.mark.parametrize("durability", ["commit", "batch"])
@pytest.mark.parametrize("every", [11])
def test_history(server: Server, tmp_path: Path, every: int, durability: str) -> None:
    assert server.run(follow, str(tmp_path / "store"), 60, every, durability).get() == 60


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["commit", "batch"])
@pytest.mark.parametrize("every", [1, 3, 50])
def test_long_history(server: Server, tmp_path: Path, every: int, durability: str) -> None:
    assert server.run(follow, str(tmp_path / "store"), 400, every, durability).get() == 400


def test_refused_call_of_a_batch_hides_nothing(tmp_path: Path) -> None:
    """It leaves an empty transaction, whose number the next commit has once more."""
    with vecstore.open(tmp_path / "store", durability="batch") as store:
        docs = store.collection("docs", dim=2)
        docs.upsert([1], np.ones((1, 2)))
        store._environment._batch.flush()  # type: ignore[union-attr]
        with pytest.raises(vecstore.DuplicateIdError):
            docs.add([1], np.ones((1, 2)))
        assert docs.count() == 1
        docs.upsert(range(5_000), np.ones((5_000, 2)))
        assert docs.count() == 5_000


def test_delete_of_a_batch_before_another_commit(tmp_path: Path) -> None:
    """What a batch did after it was last read counts when later transactions were committed."""
    with vecstore.open(tmp_path / "store", durability="batch") as store:
        docs = store.collection("docs", dim=2, tenants=True)
        own = docs.tenant("a")
        own.upsert([1, 2], np.eye(2))
        assert own.count() == 2
        own.delete([1])
        store._environment._batch.flush()  # type: ignore[union-attr]
        docs.set_quota("b", rows=1)
        assert [hit.id for hit in own.query([0.0, 0.0])] == [2]
