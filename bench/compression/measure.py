"""One method on one table at one budget: true bytes, error, recall, and throughput of one thread.

Whatever is measured after encoding is read back from the serialised bytes.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.compression.container import read_payload
from bench.compression.contract import DECODE_ROWS, Compressor, Floats, OverBudgetError, Reader
from bench.data import Data

Result = TypeVar("Result")

#: A budget admits so much of itself more, and so many bytes at least: else the header would bar
#: float16 from 50 %.
ALLOWANCE = 0.001
ALLOWANCE_BYTES_MIN = 512
DEFLATE_LEVEL = 6
LOOKUP_BATCH = 256
_LOOKUP_SECONDS = 1.0
_LOOKUP_BATCHES_MAX = 400
_REPEAT_SECONDS = 1.5
_REPEATS_MAX = 5


@dataclass(frozen=True)
class Table:
    """A dataset in memory, with what recall needs.

    Attributes
    ----------
    name, metric : str
    base : ndarray (n, d) float32
    queries : ndarray (q, d) float32
    kth : ndarray (q,) float64
        True distance of each query's k-th neighbour.
    k : int
    """

    name: str
    metric: str
    base: Floats
    queries: Floats
    kth: NDArray[np.float64]
    k: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        return (self.base.shape[0], self.base.shape[1])

    @property
    def raw_bytes(self) -> int:
        """Bytes of the rows as float32: what budgets are shares of."""
        return int(self.base.size) * 4

    def budget_bytes(self, budget: float) -> int:
        """Bytes that a share of float32 allows, the allowance for headers included."""
        plain = budget * self.raw_bytes
        return int(plain + max(ALLOWANCE * plain, ALLOWANCE_BYTES_MIN))


def prepare(data: Data, queries: int, k: int) -> Table:
    """Read a dataset into memory; its first ``queries`` held-out queries are used."""
    base = np.array(data.base, dtype=np.float32, order="C")
    asked = np.array(data.queries[:queries], dtype=np.float32)
    nearest = data.neighbors[: len(asked), :k]
    kth = metrics.true_distances(base, asked, nearest, data.metric)[:, -1]
    return Table(data.name, data.metric, base, asked, kth, nearest.shape[1])


def found_counts(table: Table, decoded: Floats) -> NDArray[np.int64]:
    """How many of each query's k true neighbours exact search over decoded rows finds.

    Ties at the k-th true distance count (`bench.metrics.found_mask`).

    Parameters
    ----------
    decoded : ndarray (n, d) float32

    Returns
    -------
    ndarray (q,) int64
    """
    kind = faiss.METRIC_L2 if table.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    rows, asked = decoded, table.queries
    if table.metric == "cosine":
        rows, asked = decoded.copy(), asked.copy()
        faiss.normalize_L2(rows)
        faiss.normalize_L2(asked)
    _, ids = faiss.knn(asked, rows, table.k, metric=kind)
    found = metrics.found_mask(table.base, table.queries, ids, table.kth, table.metric)
    return np.asarray(np.minimum(found.sum(axis=1), table.k), dtype=np.int64)


def relative_error(base: Floats, decoded: Floats) -> float:
    """Frobenius norm of the difference over that of the table, in float64.

    Parameters
    ----------
    base, decoded : ndarray (n, d) float32
    """
    lost = whole = 0.0
    for start in range(0, len(base), DECODE_ROWS):
        part = base[start : start + DECODE_ROWS].astype(np.float64)
        whole += float((part**2).sum())
        part -= decoded[start : start + DECODE_ROWS]
        lost += float((part**2).sum())
    return float(np.sqrt(lost / whole)) if whole else 0.0


class _Clock:
    """Wall-clock and CPU seconds since its making."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter_ns(), time.process_time_ns()

    def seconds(self) -> tuple[float, float]:
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        return (wall - self._wall) / 1e9, (cpu - self._cpu) / 1e9


def _timed(call: Callable[[], Result]) -> tuple[Result, list[tuple[float, float]]]:
    """Result, and the times of each of up to five calls, fewer when they are long."""
    times: list[tuple[float, float]] = []
    while True:
        clock = _Clock()
        result = call()
        times.append(clock.seconds())
        if len(times) == _REPEATS_MAX or sum(wall for wall, _ in times) >= _REPEAT_SECONDS:
            return result, times


def _lookups(reader: Reader, seed: int) -> tuple[int, tuple[float, float]]:
    """Rows looked up at random in batches of 256, and the time that it took."""
    draw = np.random.default_rng(seed)
    batches = draw.integers(0, reader.shape[0], (_LOOKUP_BATCHES_MAX, LOOKUP_BATCH))
    reader.lookup(batches[-1])
    clock, count = _Clock(), 0
    for batch in batches:
        reader.lookup(batch)
        count += len(batch)
        if clock.seconds()[0] >= _LOOKUP_SECONDS:
            break
    return count, clock.seconds()


def measure(method: Compressor, table: Table, budget: float, seed: int) -> dict[str, Any]:
    """Compress a table within a budget and measure the result.

    Parameters
    ----------
    method : Compressor
    table : Table
    budget : float
        Share of the float32 bytes, in (0, 1].
    seed : int

    Returns
    -------
    dict
        JSON values. ``status`` is "ok" or "over budget" (then only ``reason`` follows). ``bytes``
        is the length of the serialised payload, ``deflated_bytes`` that of the same through
        DEFLATE. ``found`` [i] is the number of queries with i true neighbours found. Times are
        pairs of wall-clock and CPU seconds; ``encode_s`` and ``decode_s`` list the repetitions.
        ``load`` is the machine's load average before and after.
    """
    cell: dict[str, Any] = {"dataset": table.name, "method": method.name, "budget": budget}
    load = os.getloadavg()[0]
    clock = _Clock()
    try:
        encoder = method.train(table.base, table.budget_bytes(budget), seed)
    except OverBudgetError as error:
        return {**cell, "status": "over budget", "reason": str(error)}
    cell["train_s"] = clock.seconds()
    payload, cell["encode_s"] = _timed(lambda: encoder.encode(table.base))
    content = payload.tobytes()
    del payload
    reader = method.open(read_payload(content))
    decoded, cell["decode_s"] = _timed(reader.decode)
    cell["lookup_rows"], cell["lookup_s"] = _lookups(reader, seed)
    found = np.bincount(found_counts(table, decoded), minlength=table.k + 1)
    return {
        **cell,
        "status": "ok",
        "setting": encoder.setting,
        "bytes": len(content),
        "deflated_bytes": len(zlib.compress(content, DEFLATE_LEVEL)),
        "relative_error": relative_error(table.base, decoded),
        "found": found.tolist(),
        "load": [load, os.getloadavg()[0]],
    }
