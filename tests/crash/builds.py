"""A load that is cut short: what a child does, and what it counts."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal
from vecstore import build, checkpoint, clustering, division, rawrows

ROWS, DIM, K = 6_000, 8, 10
QUERIES = 60


def few_are_many(patch: pytest.MonkeyPatch) -> None:
    """Make some thousand rows a long build of many pieces."""
    patch.setattr(checkpoint, "KEPT_ROWS_MIN", 1_000)
    patch.setattr(checkpoint, "PIECE_ROWS", 1_500)
    patch.setattr(division, "WHALE_ROWS", 1_000)
    patch.setattr(division, "COPIES_ROWS_MIN", 0)
    patch.setattr(clustering, "CELL_LEAVES", 4)
    patch.setattr(clustering, "BLOCK_BYTES", 32 << 10)
    patch.setattr(rawrows, "EXTENT_BYTES_MIN", 32 << 10)


def counted(patch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the work of each stage from now on."""
    counts = dict.fromkeys(("cells", "leaves", "homes", "rows", "postings"), 0)

    def count(module: Any, name: str, stage: str) -> None:
        original = getattr(module, name)

        def counting(*args: Any, **named: Any) -> Any:
            counts[stage] += 1
            return original(*args, **named)

        patch.setattr(module, name, counting)

    count(clustering, "train_cell", "leaves")
    count(clustering, "choose_homes", "homes")
    count(build, "write_rows", "rows")
    count(build, "write_postings", "postings")
    nearest = clustering.nearest

    def counting_cells(x: Any, centroids: Any, k: int = 1) -> Any:
        counts["cells"] += len(x) > 1_000 and k == 1
        return nearest(x, centroids, k)

    patch.setattr(clustering, "nearest", counting_cells)
    return counts


def base() -> Any:
    """The rows that are loaded."""
    return normal(ROWS, DIM, seed=3)


def load(path: str, told: str, stop: int = -1, ids: str = "int") -> dict[str, int]:
    """Load the rows and tell of every report; the process ends itself at report `stop`.

    Returns
    -------
    dict
        Calls that each stage took.
    """
    patch = pytest.MonkeyPatch()
    few_are_many(patch)
    descriptor = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    reports = 0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal reports
        os.write(descriptor, f"{stage} {done} {total}\n".encode())
        if reports == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        reports += 1

    with vecstore.open(path) as store:
        docs = store.collection("docs", dim=DIM)
        names = [f"row {i}" for i in range(ROWS)] if ids == "str" else None
        counts = counted(patch)
        docs.load(base(), names, progress=report)
    return counts


def look(path: str) -> tuple[list[str], int, float, bool, list[str]]:
    """What a store holds after a load or a part of one, once a writer has cleared up.

    Returns
    -------
    violations, rows, recall, whether all vectors are as given, files that nothing names
    """
    x = base()
    with vecstore.open(path, maintenance="off") as store:
        found = [f"{one}" for one in store.check()]
        docs = store.collection("docs")
        rows, stats = len(docs), docs.stats()
        files = sorted(file.name for file in (Path(path) / "extents").iterdir())
        if not rows:
            return found, rows, 0.0, False, files
        exact = docs.search(x[:QUERIES], k=K, recall=1.0).ids
        quick = docs.search(x[:QUERIES], k=K, recall=0.9).ids
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(exact, quick, strict=True)])
        names = (
            list(range(rows))
            if isinstance(exact[0][0], np.integer)
            else [f"row {i}" for i in range(rows)]
        )
        same = bool(np.array_equal(docs.vectors(names), x))
        left = files[stats["extents"] :] if len(files) > stats["extents"] else []
        return found, rows, float(recall), same, left


def violations(path: str) -> list[str]:
    """What `check` says, once a writer has cleared up."""
    with vecstore.open(path, maintenance="off") as store:
        return [f"{one}" for one in store.check()]
