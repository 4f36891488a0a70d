"""The data a run works on: a set of the `datasets` package, or synthetic rows of any number.

Synthetic sets are called ``synthetic-<rows>x<dim>`` with an optional ``-l2``, ``-cosine`` or
``-ip``. Sets of one dimension are prefixes of each other, so growth curves compare like with like.
"""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import datasets
from bench.channel import BenchError

GROUND_TRUTH_K = 100
_SYNTHETIC = re.compile(r"synthetic-(\d+)x(\d+)(?:-(l2|cosine|ip))?")
_BLOCK_ROWS = 65_536
_LATENT_DIM = 24
_CLUSTERS = 1_000
_QUERIES = 1_000


@dataclass(frozen=True)
class Data:
    """Rows, held-out queries and their exact neighbours.

    Attributes
    ----------
    base : memmap (n, d) float32
    queries : ndarray (q, d) float32
    neighbors : ndarray (q, up to 100) int64
        Row numbers of the exact nearest, nearest first.
    """

    name: str
    metric: str
    base: NDArray[np.float32]
    queries: NDArray[np.float32]
    neighbors: NDArray[np.int64]

    def source(self) -> dict[str, Any]:
        """Arguments with which another process maps the same rows (``np.memmap``)."""
        base: Any = self.base
        filename = getattr(base, "filename", None)
        if filename is None or base.dtype != np.float32 or not base.flags.c_contiguous:
            raise BenchError(
                f"Rows of dataset {self.name!r} are no C-contiguous float32 memory map; "
                "the build process reads them from a file, so save them as one."
            )
        shape = tuple(int(n) for n in base.shape)
        offset = int(base.offset)
        return {"filename": str(filename), "dtype": "float32", "shape": shape, "offset": offset}


def cache_root() -> Path:
    """Where data is cached: ``VECSTORE_DATA``, else the user's cache directory."""
    chosen = os.environ.get("VECSTORE_DATA")
    return Path(chosen) if chosen else Path.home() / ".cache" / "vecstore" / "data"


def load(name: str) -> Data:
    """Load a dataset by name, making it first where necessary.

    Raises
    ------
    BenchError
        There is no such set, or it is not prepared; the message says how.
    """
    if name.startswith("synthetic-"):
        return _synthetic(name)
    try:
        found = datasets.load(name)
    except datasets.UnknownDataset as error:
        raise BenchError(f"{error} Synthetic ones: synthetic-<rows>x<dim>[-<metric>].") from error
    except datasets.DatasetError as error:
        raise BenchError(str(error)) from error
    return Data(name, found.metric, found.base, found.queries, found.neighbors)


def _draw(seed: int, block: int, rows: int, dim: int) -> NDArray[np.float32]:
    """Rows of a mixture of Gaussians on a 24-dimensional subspace, with a little noise."""
    shared = np.random.default_rng(seed)
    centers = shared.standard_normal((_CLUSTERS, _LATENT_DIM), np.float32)
    spread = shared.standard_normal((_LATENT_DIM, dim), np.float32)
    draw = np.random.default_rng((seed, block))
    latent = centers[draw.integers(0, _CLUSTERS, rows)]
    latent += 0.6 * draw.standard_normal((rows, _LATENT_DIM), np.float32)
    noise = 0.1 * draw.standard_normal((rows, dim), np.float32)
    return np.asarray(latent @ spread + noise, dtype=np.float32)


def _exact(
    base: NDArray[np.float32], queries: NDArray[np.float32], metric: str
) -> NDArray[np.int64]:
    """Exact neighbours by faiss, block by block."""
    faiss = importlib.import_module("faiss")
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    asked = np.array(queries)
    if metric == "cosine":
        faiss.normalize_L2(asked)
    k = min(GROUND_TRUTH_K, len(base))
    heap = faiss.ResultHeap(len(asked), k, keep_max=kind == faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(base), _BLOCK_ROWS):
        rows = np.array(base[start : start + _BLOCK_ROWS])
        if metric == "cosine":
            faiss.normalize_L2(rows)
        distances, ids = faiss.knn(asked, rows, min(k, len(rows)), metric=kind)
        heap.add_result(distances, ids + start)
    heap.finalize()
    return np.asarray(heap.I, dtype=np.int64)


def _synthetic(name: str) -> Data:
    match = _SYNTHETIC.fullmatch(name)
    if match is None or int(match[1]) < 1 or int(match[2]) < 1:
        raise BenchError(f"{name!r} is not of the form synthetic-<rows>x<dim>[-l2|-cosine|-ip].")
    rows, dim, metric = int(match[1]), int(match[2]), match[3] or "l2"
    folder = cache_root() / name
    truth = folder / "truth.npz"
    queries = _draw(dim, 2**31, _QUERIES, dim)
    if not truth.exists():
        folder.mkdir(parents=True, exist_ok=True)
        base = np.lib.format.open_memmap(folder / "base.npy", "w+", np.float32, (rows, dim))
        for block, start in enumerate(range(0, rows, _BLOCK_ROWS)):
            # a block is always drawn whole: that makes smaller sets prefixes of larger ones
            base[start : start + _BLOCK_ROWS] = _draw(dim, block, _BLOCK_ROWS, dim)[: rows - start]
        base.flush()
        np.savez_compressed(truth, neighbors=_exact(base, queries, metric))
    mapped: NDArray[np.float32] = np.load(folder / "base.npy", mmap_mode="r")
    with np.load(truth) as stored:
        return Data(name, metric, mapped, queries, stored["neighbors"])
