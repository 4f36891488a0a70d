"""Prepared sets on disk: writing one from its parts, and loading it as a `Dataset`.

Files of a set: base, queries, neighbors, distances (``.npy``); the columns it has, once plain for
the base and once with the prefix ``query_`` (``.npy`` for numbers, ``.json`` for strings);
``tenant_names.json``; and the manifest.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets import cache, ground
from datasets.errors import DatasetCorrupt, DatasetMissing
from datasets.recipe import Column, Metric, Parts, Recipe, Report


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared set; arrays are read-only memory maps.

    Attributes
    ----------
    name : str
    metric : {"l2", "cosine"}
        l2 is the squared Euclidean distance, cosine is one minus the cosine.
    base : ndarray, shape (n, d), float32, C-contiguous
    queries : ndarray, shape (1000, d), float32
        Held out: no query is a row of `base`, though some have the same values as one.
    neighbors : ndarray, shape (1000, 100), int64
        Exact nearest rows of `base`, nearest first, ties in order of row.
    distances : ndarray, shape (1000, 100), float32
    labels, query_labels : ndarray, int32, or None
        Class of each row.
    tenants, query_tenants : ndarray, int32, or None
        Index into `tenant_names`.
    words, query_words : sequence of str, or None
        The word (GloVe) or the headword (WordNet) of each row.
    texts, query_texts : sequence of str, or None
        What was embedded.
    tenant_names : sequence of str, or None
    """

    name: str
    metric: Metric
    base: NDArray[np.float32]
    queries: NDArray[np.float32]
    neighbors: NDArray[np.int64]
    distances: NDArray[np.float32]
    labels: NDArray[np.int32] | None = None
    query_labels: NDArray[np.int32] | None = None
    tenants: NDArray[np.int32] | None = None
    query_tenants: NDArray[np.int32] | None = None
    words: Sequence[str] | None = None
    query_words: Sequence[str] | None = None
    texts: Sequence[str] | None = None
    query_texts: Sequence[str] | None = None
    tenant_names: Sequence[str] | None = None


def require(name: str) -> str:
    """Return `name` if that set is prepared.

    Raises
    ------
    DatasetMissing
        Naming the command that prepares it.
    """
    if cache.read_manifest(cache.folder(name)) is None:
        raise DatasetMissing(name, str(cache.root()))
    return name


def load(name: str) -> Dataset:
    """Open a prepared set.

    Raises
    ------
    DatasetMissing
        Naming the command that prepares it.
    DatasetCorrupt
        If a file is absent or has another size than recorded (`verify` also reads them).
    """
    where = cache.folder(name)
    manifest = cache.read_manifest(where)
    if manifest is None:
        raise DatasetMissing(name, str(cache.root()))
    if wrong := cache.problems(where, manifest, hashes=False):
        raise DatasetCorrupt(name, wrong)
    values: dict[str, Any] = {Path(file).stem: _read(where / file) for file in manifest["files"]}
    return Dataset(name=name, metric=manifest["metric"], **values)


def write(recipe: Recipe, report: Report) -> None:
    """Make a set from its recipe, with ground truth, replacing what was there."""
    began = time.perf_counter()
    parts = recipe.make(report)
    where = cache.folder(recipe.name)
    cache.clear(where)
    for name, column in _files(parts):
        _save(where, name, column)
    base = np.load(where / "base.npy", mmap_mode="r")
    truth = ground.exact_neighbors(base, parts.queries, recipe.metric, report=report)
    report("checking", 0, 2)
    if wrong := ground.disagreements(base, parts.queries, recipe.metric, truth):
        raise AssertionError(f"{recipe.name}: {'; '.join(wrong)}")
    _save(where, "neighbors", truth[0])
    _save(where, "distances", truth[1])
    report("checking", 1, 2)
    facts = {
        "name": recipe.name,
        "metric": recipe.metric,
        "shape": list(base.shape),
        "sources": list(parts.sources),
        **repeats(base, parts.queries),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - began, 1),
    }
    cache.write_manifest(where, facts)
    report("checking", 2, 2)


def verify(name: str) -> list[str]:
    """Read every file of a set; list what is wrong, empty when all is well.

    Sizes and SHA-256 are compared with the manifest, shapes with each other, and the ground
    truth of a sample of queries with a recomputation in float64.
    """
    where = cache.folder(require(name))
    manifest = cache.read_manifest(where)
    assert manifest is not None
    if wrong := cache.problems(where, manifest):
        return wrong
    data = load(name)
    wrong = _misshapen(data)
    truth = (data.neighbors, data.distances)
    return wrong or ground.disagreements(data.base, data.queries, data.metric, truth, sample=2)


def repeats(base: NDArray[np.float32], queries: NDArray[np.float32]) -> dict[str, int]:
    """Count base rows equal to an earlier one, and queries equal to some base row."""
    seen = {_digest(row) for row in base}
    return {
        "repeated_base_rows": len(base) - len(seen),
        "queries_equal_to_a_base_row": sum(_digest(row) in seen for row in queries),
    }


def _digest(row: NDArray[np.float32]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _files(parts: Parts) -> Iterator[tuple[str, Column]]:
    yield "base", parts.base
    yield "queries", parts.queries
    yield from parts.columns.items()
    for name, column in parts.query_columns.items():
        yield f"query_{name}", column
    if parts.tenant_names:
        yield "tenant_names", parts.tenant_names


def _save(where: Path, name: str, column: Column) -> None:
    if isinstance(column, np.ndarray):
        cache.save_array(where / f"{name}.npy", column)
    else:
        cache.save_json(where / f"{name}.json", list(column))


def _read(path: Path) -> Column:
    if path.suffix == ".npy":
        array: NDArray[Any] = np.load(path, mmap_mode="r")
        return array
    strings: list[str] = cache.load_json(path)
    return strings


def _misshapen(data: Dataset) -> list[str]:
    rows, width = data.base.shape
    count = len(data.queries)
    wrong: list[str] = []
    expected: dict[str, tuple[int, ...]] = {
        "queries": (count, width),
        "neighbors": (count, ground.NEIGHBOR_COUNT),
        "distances": (count, ground.NEIGHBOR_COUNT),
    }
    for name in ("labels", "tenants", "words", "texts"):
        expected[name], expected[f"query_{name}"] = (rows,), (count,)
    for name, shape in expected.items():
        column = getattr(data, name)
        actual = getattr(column, "shape", None) or (None if column is None else (len(column),))
        if actual is not None and actual != shape:
            wrong.append(f"{name} has shape {actual}, expected {shape}")
    return wrong
