"""Compiling every kernel ahead of the first query."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np

from vecstore.config import BULK_ROWS_MIN
from vecstore.store import open_store

_DIM = 8


def warmup(progress: Callable[[str, int, int], None] | None = None) -> float:
    """Compile and cache all kernels by using each once on a small store.

    Parameters
    ----------
    progress : callable, optional
        Called as `progress(stage, done, total)`.

    Returns
    -------
    float
        Seconds taken: tens on the first run of a machine, under one afterwards.
    """
    report = progress or (lambda stage, done, total: None)
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    base = rng.normal(size=(BULK_ROWS_MIN, _DIM)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, open_store(f"{folder}/warmup") as store:
        docs = store.collection("warmup", dim=_DIM)
        report("build kernels", 0, 2)
        docs.load(base, metadata=[{"n": n} for n in range(len(base))])
        report("search kernels", 1, 2)
        docs.upsert([BULK_ROWS_MIN], base[:1])
        docs.query(base[0])
        docs.query(base[0], recall=1.0)
        for where in ({"n": 1}, {"n": {"$lt": 1_000}}, {"n": {"$in": [1, 2], "$ne": 1, "$gt": 0}}):
            docs.query(base[0], where=where)
        docs.vectors([0])
        report("search kernels", 2, 2)
    return time.perf_counter() - start
