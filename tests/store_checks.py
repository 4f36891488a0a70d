"""What the engine's tests share: sound stores, small limits, other processes, faults on demand."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import vecstore
from tests.naive import Model
from vecstore import balance, check_tenants, clustering, directory, division, reshaping, write
from vecstore.collection import Collection

E = TypeVar("E", bound=BaseException)
ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def sound_store(
    path: Path, mode: str = "w", maintenance: str = "inline"
) -> Iterator[vecstore.Store]:
    """Open a store; when the block went well, every invariant must hold, open and reopened.

    Maintenance is done within calls, unless asked for otherwise: tests look at what it has done.
    """
    with vecstore.open(path, mode=mode, maintenance=maintenance) as store:
        yield store
        assert store.check() == []
    with vecstore.open(path, mode="r") as store:
        assert store.check() == []


def small_limits(
    patch: pytest.MonkeyPatch, *, bulk: int = 40, log: int = 25, posting: int = 8, pages: int = 0
) -> None:
    """Make few rows enough for everything that an index does.

    A call of `bulk` rows is a bulk load, more than `log` fresh rows are flushed, a posting aims at
    `posting` rows and never has more than five times as many, and a tenant with twice as many has
    more than one; with `pages`, so many centroids already make two levels.
    """
    patch.setattr(write, "BULK_ROWS_MIN", bulk)
    patch.setattr(write, "LOG_ROWS_MAX", log)
    patch.setattr(division, "LIST_BYTES_MAX", 48 * posting)
    patch.setattr(division, "RUN_ROWS_MAX", 2 * posting)
    patch.setattr(division, "COPIES_ROWS_MIN", 0)
    patch.setattr(balance, "POSTING_ENTRIES_MAX", 4 * posting)
    patch.setattr(balance, "POSTING_ENTRIES_MIN", posting)
    for module in (division, reshaping, check_tenants):
        patch.setattr(module, "POSTING_ROWS_MAX", 5 * posting)
    train_cell = clustering.train_cell

    def small_cell(x: Any, seed: int, *_: Any) -> Any:
        return train_cell(x, seed, 2 * posting, posting)

    patch.setattr(clustering, "train_cell", small_cell)
    if pages:
        patch.setattr(directory, "ONE_PASS_CENTROIDS_MAX", pages)
        patch.setattr(directory, "PAGE_CENTROIDS", max(2, pages // 2))


def failure(call: Callable[[], Any], kind: type[E]) -> E | None:
    """Call; return the error of this kind that was raised, or None."""
    try:
        call()
    except kind as error:
        return error
    return None


def make_store(path: Path) -> None:
    """A store with one collection "docs" of two rows, ids 1 and 2."""
    with sound_store(path) as store:
        store.collection("docs", dim=4).upsert([1, 2], np.eye(4)[:2])


def normal(n: int, dim: int, seed: int = 0) -> Any:
    """Random vectors, float32 (n, dim)."""
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def contents(docs: Collection, ids: Any) -> dict[Any, tuple[Any, Any, Any]]:
    """Everything stored under the given ids that exist: vector, metadata, document."""
    hits = [hit for hit in docs.get(list(ids)) if hit is not None]
    known = [hit.id for hit in hits]
    vectors = docs.vectors(known).tolist() if known else []
    return {
        hit.id: (tuple(vector), hit.metadata, hit.document)
        for hit, vector in zip(hits, vectors, strict=True)
    }


def assert_equals(docs: Collection, model: Model) -> None:
    """Hold a collection against its oracle, row by row and by queries."""
    assert docs.count() == len(model.rows)
    found = contents(docs, model.rows)
    assert found == {
        key: (tuple(row.vector.tolist()), row.metadata, row.document)
        for key, row in model.rows.items()
    }
    for query in normal(5, model.dim, seed=1):
        wanted = [key for key, _ in model.query(query, 20)]
        assert [hit.id for hit in docs.query(query, k=20, recall=1.0)] == wanted
        every = {hit.id for hit in docs.query(query, k=1_000, recall=0.5)}
        assert every == model.rows.keys()


def python(code: str, *args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own; it must end well unless `check=False`."""
    options.setdefault("check", True)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *(f"{arg}" for arg in args)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        **{**options, "check": False},
    )
    if options["check"]:
        assert result.returncode == 0, result.stderr
    return result


def start_python(code: str, *args: Any) -> subprocess.Popen[str]:
    """Start code in a process of its own, with pipes to talk to it."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *(f"{arg}" for arg in args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        bufsize=1,
    )


def flip_byte(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 0xFF]))
