"""Grants: what is seen, how it follows its owner, when it ends, and that it ends at once.

Rows are granted wherever they may stand, in the row log or in an index of each shape, and to
tenants with rows of their own or none; a revoked row is looked for by every verb and every reader.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, python, sound_store, start_python
from tests.tenant_checks import (
    DIM,
    ORIGIN,
    SHAPES,
    fill,
    flush,
    hold_empty,
    hold_unknown,
    shown,
    shown_ids,
)
from tests.test_disk_full import FullDisk
from vecstore.collection import Collection

ONE = np.ones(DIM, np.float32)


every_shape = pytest.mark.parametrize("shape", SHAPES)
flushed_or_not = pytest.mark.parametrize("flushed", [False, True], ids=["pending", "indexed"])


def share(docs: Collection, shape: str, flushed: bool) -> tuple[Any, Any, list[int], list[int]]:
    """Tenants "a" and "b" of a shape, and what "a" has and what of it it granted to "b"."""
    ids = fill(docs, "a", shape)
    fill(docs, "b", shape, first=500, seed=1)
    a, b = docs.tenant("a"), docs.tenant("b")
    granted = ids[1:8]
    assert a.grant(granted, to="b") == len(granted)
    if flushed:
        flush(docs)
    return a, b, ids, granted


@every_shape
@flushed_or_not
def test_a_granted_row_shows(docs: Collection, shape: str, flushed: bool) -> None:
    a, b, ids, granted = share(docs, shape, flushed)
    own, other = shown(a), shown(b)
    assert sorted(own) == [(i, "a") for i in ids]
    assert {key: row for key, row in other.items() if key[1] == "a"} == {
        (i, "a"): own[i, "a"] for i in granted
    }
    assert len(other) == SHAPES[shape] + len(granted)
    assert shown(docs.tenant("a", "b")) == shown(docs.tenant("b", "a")) == own | other
    assert b.count(where={"of": "a"}) == len(granted)
    assert a.grant(granted, to="b") == 0, "it sees them already"
    assert a.grant([*granted, 8, 12_345, 8], to="b") == 1, "unknown ones are skipped"
    assert shown_ids(docs.tenant("c")) == []
    assert a.grant(granted[:2], to="c") == 2
    assert len(shown(docs.tenant("a", "b", "c"))) == len(own | other)
    assert shown(docs.tenant("c", "b")) == shown(b)


@every_shape
@flushed_or_not
@pytest.mark.parametrize("n", [1, 60], ids=["small", "bulk"])
def test_grants_follow_upserts(docs: Collection, shape: str, flushed: bool, n: int) -> None:
    a, b, ids, granted = share(docs, shape, flushed)
    a.grant(granted[:3], to="c")
    for turn in range(2):
        new = [*granted[2:4], *range(800, 800 + n)]
        vectors = normal(len(new), DIM, seed=20 + turn)
        a.upsert(new, vectors, [{"turn": turn, "n": i} for i in new])
        own = shown(a)
        seen = {key: row for key, row in shown(b).items() if key[1] == "a"}
        assert seen == {(i, "a"): own[i, "a"] for i in granted}
        assert seen[granted[2], "a"] == (tuple(vectors[0]), {"turn": turn, "n": granted[2]})
        assert shown(docs.tenant("c")) == {(i, "a"): own[i, "a"] for i in granted[:3]}
        assert b.count(where={"turn": turn}) == 2
        assert b.count(where={"of": "a"}) == len(granted) - 2
        if flushed:
            flush(docs)
            assert {key: row for key, row in shown(b).items() if key[1] == "a"} == seen
    assert len(own) == len(ids) + n


def by_id(a: Any, ids: list[int]) -> None:
    assert a.delete(ids) == len(ids)


def by_where(a: Any, ids: list[int]) -> None:
    assert a.delete(where={"n": {"$in": ids}}) == len(ids)


def by_both(a: Any, ids: list[int]) -> None:
    assert a.delete([*ids, 0], where={"n": {"$ne": 0}}) == len(ids)


def by_revocation(a: Any, ids: list[int]) -> None:
    assert a.revoke(ids, from_="b") == len(ids)


@every_shape
@flushed_or_not
@pytest.mark.parametrize("end", [by_id, by_where, by_both, by_revocation])
def test_grants_end(
    docs: Collection, shape: str, flushed: bool, end: Callable[[Any, list[int]], None]
) -> None:
    a, b, ids, granted = share(docs, shape, flushed)
    before, own = shown(b), shown(a)
    gone, kept = granted[:4], granted[4:]
    end(a, gone)
    left = {key: row for key, row in before.items() if key[0] not in gone}
    for _ in range(2):
        assert shown(b) == left
        hold_unknown(b, gone)
        assert b.count(where={"of": "a"}) == len(kept)
        assert b.query(ORIGIN, where={"n": {"$in": gone}}) == []
        assert a.revoke(gone, from_="b") == b.delete(gone) == 0
        assert shown_ids(a) == (ids if end is by_revocation else sorted({*ids} - {*gone}))
        flush(docs)
        docs.compact()
    if end is not by_revocation:
        a.upsert(gone, normal(4, DIM, seed=30), [{"n": i, "of": "a"} for i in gone])
        assert shown(b) == left, "new rows of old names are nobody else's"
    else:
        assert shown(a) == own
    b.upsert(gone, normal(4, DIM, seed=31))
    assert len(shown(b)) == len(left) + 4, "the ids are free for rows of its own"
    assert b.delete(gone) == 4


@every_shape
@flushed_or_not
@pytest.mark.parametrize(
    ("when", "settle"),
    [
        ("never", flush),
        ("revoked", flush),
        ("granted", Collection.compact),
        ("both", flush),
        ("both", Collection.compact),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_revoke_and_grant_again(
    docs: Collection, shape: str, flushed: bool, when: str, settle: Callable[[Collection], None]
) -> None:
    """Whether or not the index is brought up to date while the rows are revoked, or granted."""
    a, b, _, granted = share(docs, shape, flushed)
    before = shown(b)
    own = {key: row for key, row in before.items() if key[1] == "b"}
    for _ in range(2):
        assert a.revoke(granted, from_="b") == len(granted)
        assert shown(b) == own
        if when in ("revoked", "both"):
            settle(docs)
            assert shown(b) == own
        assert a.grant(granted, to="b") == len(granted)
        for again in range(2 if when in ("granted", "both") else 1):
            if again:
                settle(docs)
            assert shown(b) == before
            assert b.count(where={"of": "a"}) == len(granted)


@every_shape
def test_grant_again_to_one_who_saw_nothing_else(docs: Collection, shape: str) -> None:
    """What others do is indexed while the grantee sees nothing; then it sees the same again."""
    ids = fill(docs, "a", shape)
    a, b = docs.tenant("a"), docs.tenant("b")
    for _ in range(2):
        assert a.grant(ids, to="b") == len(ids)
        flush(docs)
        assert a.revoke(ids, from_="b") == len(ids)
        flush(docs)
        hold_empty(b, ids)
        assert a.grant(ids, to="b") == len(ids)
        assert shown(b) == shown(a)
        flush(docs)
        assert shown(b) == shown(a)
        assert a.revoke(ids, from_="b") == len(ids)


# --- what is refused ----------------------------------------------------------------------------


@every_shape
@flushed_or_not
@pytest.mark.parametrize("n", [1, 60], ids=["small", "bulk"])
def test_a_grantee_only_reads(docs: Collection, shape: str, flushed: bool, n: int) -> None:
    a, b, _, granted = share(docs, shape, flushed)
    before = shown(a), shown(b)
    one = granted[0]
    extra = list(range(800, 800 + n))
    calls: list[Callable[[], Any]] = [
        lambda: b.upsert([*extra, one], normal(n + 1, DIM)),
        lambda: b.delete([500, one]),
        lambda: b.delete(where={"of": "a"}),
        lambda: b.delete(where={"n": {"$gte": 0}}),
        lambda: b.delete([500, one], where={"n": {"$gte": 0}}),
        lambda: b.grant([500, one], to="c"),
        lambda: b.grant([one], to="a"),
        lambda: docs.load(normal(n + 1, DIM), [*extra, one], tenants=["c"] * n + ["b"]),
    ]
    for call in calls:
        with pytest.raises(vecstore.ReadOnlyError, match=rf"id {one} is granted to tenant 'b' of"):
            call()
    with pytest.raises(vecstore.DuplicateIdError, match=f"Id {one} exists already in tenant 'b'"):
        b.add([*extra, one], normal(n + 1, DIM))
    assert b.revoke(granted, from_="a") == b.revoke(granted, from_="c") == 0
    assert docs.tenant("c").revoke(granted, from_="b") == 0
    assert (shown(a), shown(b)) == before
    assert "c" not in docs.tenants()
    assert b.delete([500], where={"of": "b"}) == 1
    assert shown(a) == before[0]


@every_shape
@flushed_or_not
def test_a_grant_is_ended_by_its_owner_only(docs: Collection, shape: str, flushed: bool) -> None:
    """Not by another who sees the row, nor by one who has an id of the same name."""
    a, b, _, granted = share(docs, shape, flushed)
    c, d = docs.tenant("c"), docs.tenant("d")
    assert a.grant(granted, to="c") == len(granted)
    d.upsert(granted, normal(len(granted), DIM, seed=40))
    if flushed:
        flush(docs)
    before = shown(b), shown(c), shown(d)
    for view, other in ((b, "c"), (c, "b"), (d, "b"), (d, "c"), (b, "a"), (c, "a"), (d, "a")):
        assert view.revoke(granted, from_=other) == 0
    assert (shown(b), shown(c), shown(d)) == before
    assert a.revoke(granted, from_="c") == len(granted)
    assert (shown(b), shown(c), shown(d)) == (before[0], {}, before[2])


@every_shape
@flushed_or_not
def test_collisions(docs: Collection, shape: str, flushed: bool) -> None:
    """Neither a row of its own nor one of a third tenant gives way to a grant."""
    a, b, ids, granted = share(docs, shape, flushed)
    c = docs.tenant("c")
    c.upsert([0, granted[0]], [ONE, ONE])
    b.upsert([ids[0]], [ONE])
    before = shown(a), shown(b), shown(c)
    calls: list[tuple[Callable[[], Any], int]] = [
        (lambda: c.grant([granted[0]], to="b"), granted[0]),
        (lambda: a.grant([ids[8], ids[0]], to="b"), ids[0]),
        (lambda: c.grant([0], to="b"), 0),
        (lambda: docs.load([ONE] * 2, [901, 0], tenants=["d", ["d", "b"]]), 0),
        (lambda: docs.load([ONE] * 41, [*range(901, 942)], tenants=[["d", "b"]] * 41), 901),
    ]
    b.upsert([901], [ONE])
    before = before[0], shown(b), before[2]
    for call, taken in calls:
        with pytest.raises(
            vecstore.DuplicateIdError, match=f"'b' of .* has a row with id {taken} already; noth"
        ):
            call()
        assert (shown(a), shown(b), shown(c)) == before
    assert "d" not in docs.tenants()


def test_to_whom_not(docs: Collection) -> None:
    a = docs.tenant("a")
    a.upsert([1], [ONE])
    for verb in (a.grant, a.revoke):
        with pytest.raises(vecstore.InvalidArgumentError, match="is 'a', the owner; name another"):
            verb([1], "a")
    for ids in (["x"], "x", [None], [1.5], [-1], None):
        with pytest.raises(vecstore.InvalidArgumentError, match=r"[Ii]d"):
            a.grant(ids, to="b")
        with pytest.raises(vecstore.InvalidArgumentError, match=r"[Ii]d"):
            a.revoke(ids, from_="b")
    assert a.grant([], to="b") == a.revoke([], from_="b") == 0
    assert a.grant(1, to="b") == 1
    assert a.revoke(1, from_="b") == 1


@pytest.mark.parametrize("moment", range(1, 6))
def test_revoke_on_a_full_disk(
    docs: Collection, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The grantee's index is to be made anew, and cannot be: the grants have ended all the same."""
    ids = fill(docs, "a", "tree")
    a, b = docs.tenant("a"), docs.tenant("b")
    a.grant(ids, to="b")
    flush(docs)
    disk = FullDisk(monkeypatch)
    disk.at(moment)
    assert a.revoke(ids[:50], from_="b") == 50
    assert disk.passed > moment, "the disk was never full"
    assert docs.stats()["maintenance"] != "up to date"
    disk.at(-1)
    assert shown_ids(b) == ids[50:]
    assert a.revoke(ids[50:51], from_="b") == 1
    assert docs.stats()["maintenance"] == "up to date"
    assert shown_ids(b) == ids[51:]


# --- every reader, from the commit on -----------------------------------------------------------

OTHER_PROCESS = """
import sys, numpy, vecstore
store = vecstore.open(sys.argv[1], mode="r")
b = store.collection("docs").tenant("b")
for line in sys.stdin:
    zero = numpy.zeros(8)
    found = [
        {hit.id for hit in b.query(zero, k=999, recall=1.0)},
        {hit.id for hit in b.query(zero, k=999)},
        {hit.id for hit in b.query(zero, k=999, where={"n": {"$gte": 0}})},
        {i for i in b.search([zero], k=999).ids[0].tolist() if i >= 0},
        {hit.id for hit in b.get(range(999)) if hit},
    ]
    assert all(ids == found[0] for ids in found), found
    assert len(b) == b.count(where={"n": {"$gte": 0}}) == len(found[0])
    print(*sorted(found[0]), flush=True)
"""


@pytest.mark.parametrize(
    ("shape", "flushed"), [*((shape, True) for shape in SHAPES), (list(SHAPES)[-1], False)]
)
def test_readers_with_warm_caches(tmp_path: Path, shape: str, flushed: bool) -> None:
    """A writer, another reader of the process and another process: none shows a revoked row."""
    path = tmp_path / "store"
    with sound_store(path) as store, vecstore.open(path, mode="r") as second:
        docs = store.collection("docs", dim=DIM, tenants=True)
        a, b, _, granted = share(docs, shape, flushed)
        views = [b, second.collection("docs").tenant("b"), docs.tenant("b", "zzz")]
        process = start_python(OTHER_PROCESS, path)
        assert process.stdin is not None
        assert process.stdout is not None

        def hold(extra: list[int]) -> None:
            wanted = sorted([*range(500, 500 + SHAPES[shape]), *extra])
            for view in views:
                assert shown_ids(view) == wanted
            print("?", file=process.stdin, flush=True)
            assert process.stdout is not None
            assert [*map(int, process.stdout.readline().split())] == wanted

        hold(granted)
        a.revoke(granted[:3], from_="b")
        hold(granted[3:])
        a.grant(granted[:1], to="b")
        hold([granted[0], *granted[3:]])
        a.delete(granted[3:5])
        hold([granted[0], *granted[5:]])
        a.upsert(granted[:6], normal(6, DIM), [{"n": 1}] * 6)
        hold([granted[0], *granted[5:]])
        docs.drop_tenant("a")
        hold([])
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        process.stdout.close()


def test_a_revoked_row_is_gone_for_a_process_that_starts_later(tmp_path: Path) -> None:
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        a, _, _, granted = share(docs, "tree", True)
        a.revoke(granted, from_="b")
        code = """
            import sys, vecstore
            with vecstore.open(sys.argv[1], mode="r") as store:
                b = store.collection("docs").tenant("b")
                assert {hit.tenant for hit in b.query([0.0] * 8, k=999)} == {"b"}
                assert b.get(list(range(8))) == [None] * 8
                assert store.check() == []
        """
        python(code, tmp_path / "store")
