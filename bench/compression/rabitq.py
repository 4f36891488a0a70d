"""RaBitQ of 1 to 8 bits, as vecstore stores it: runs of 32-row blocks coded against centroids.

Gao and Long (SIGMOD 2024), Gao et al. (SIGMOD 2025); coding and decoding are `vecstore.codecs`.
Rows are clustered into about one list for 512, so that residuals are short. Everything that a run
holds counts: codes of dimensions padded to a multiple of 64, the factors from which a search
estimates distances (16 bytes a row with its number, 12 more beyond one bit), and empty places of
the last block; centroids and list lengths beside them. Opening for lookup turns the row numbers
into a place for each row, four bytes a row in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.compression.container import Layout, Payload, stored_bytes
from bench.compression.contract import (
    DECODE_ROWS,
    Encoder,
    Floats,
    OverBudgetError,
    Reader,
    Rows,
    sample,
)
from vecstore.codecs import Codec, Model, find_codec
from vecstore.config import BLOCK_ROWS, Metric

LIST_ROWS = 512
_BITS = range(8, 0, -1)
_KMEANS_ITERATIONS = 10
_POINTS_PER_LIST = 64
_NUMBER_BYTES = 4 * BLOCK_ROWS
#: Kernels that scan runs want them on this boundary.
_ALIGN = 64


def _layout(shape: tuple[int, int], model: Model, lists: int, blocks: int) -> Layout:
    dim = shape[1]
    return {
        "bits": ("|u1", (1,)),
        "centre": ("<f4", (dim,)),
        "signs": ("|i1", model.signs.shape),
        "centroids": ("<f4", (lists, dim)),
        "lengths": ("<u4", (lists,)),
        "runs": ("|u1", (blocks * model.codec.run_block_bytes(dim),)),
    }


def _assign(rows: Floats, centroids: Floats) -> Rows:
    """Nearest centroid of each row (n,)."""
    out = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), DECODE_ROWS):
        part = slice(start, start + DECODE_ROWS)
        out[part] = faiss.knn(rows[part], centroids, 1)[1][:, 0]
    return out


def _blocks(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return -(-lengths // BLOCK_ROWS)


@dataclass(frozen=True)
class Rabitq:
    """RaBitQ with as many bits a dimension as fit."""

    name: str = "rabitq"
    about: str = "RaBitQ codes of 1 to 8 bits against centroids"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        shape = (base.shape[0], base.shape[1])
        one_bit = find_codec("rabitq1").row_bytes(shape[1]) * shape[0]
        if one_bit > budget_bytes:
            raise OverBudgetError(f"{self.name}: 1-bit codes take {one_bit:,.0f} bytes.")
        lists = max(1, shape[0] // LIST_ROWS)
        drawn = sample(base, _POINTS_PER_LIST * lists, seed)
        kmeans = faiss.Kmeans(
            shape[1],
            lists,
            niter=_KMEANS_ITERATIONS,
            seed=seed + 1,
            min_points_per_centroid=1,
            max_points_per_centroid=_POINTS_PER_LIST,
        )
        kmeans.train(drawn)
        centroids = np.asarray(kmeans.centroids, dtype=np.float32)
        lengths = np.bincount(_assign(base, centroids), minlength=lists)
        blocks = int(_blocks(lengths).sum())
        for bits in _BITS:
            model = find_codec(f"rabitq{bits}").train(drawn, metric="l2", seed=seed)
            layout = _layout(shape, model, lists, blocks)
            if stored_bytes(self.name, shape, layout) <= budget_bytes:
                warm = model.encode(drawn[:1], centroids[0])  # compiles the kernels
                model.decode(warm, centroids[0], 1)
                return _RabitqEncoder(self.name, bits, model, centroids)
        raise OverBudgetError(f"{self.name}: 1-bit codes exceed {budget_bytes:,} bytes.")

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _RabitqReader(payload)


@dataclass(frozen=True)
class _RabitqEncoder:
    name: str
    bits: int
    model: Model
    centroids: Floats

    @property
    def setting(self) -> str:
        return f"{self.bits} bits, {len(self.centroids)} lists"

    def encode(self, base: Floats) -> Payload:
        shape = (base.shape[0], base.shape[1])
        nearest = _assign(base, self.centroids)
        order = np.argsort(nearest, kind="stable")
        lengths = np.bincount(nearest, minlength=len(self.centroids))
        runs = []
        for centroid, rows in zip(
            self.centroids, np.split(order, np.cumsum(lengths)[:-1]), strict=True
        ):
            run = self.model.encode(base[rows], centroid)
            numbers = _numbers(run, self.model.codec, shape[1])
            numbers.flat[: len(rows)] = rows
            runs.append(run)
        arrays: dict[str, NDArray[Any]] = {
            "bits": np.array([self.bits], np.uint8),
            "centre": self.model.centre,
            "signs": self.model.signs.astype(np.int8),
            "centroids": self.centroids,
            "lengths": lengths.astype(np.uint32),
            "runs": np.concatenate(runs),
        }
        return Payload(self.name, shape, arrays)


def _numbers(run: NDArray[np.uint8], codec: Codec, dim: int) -> NDArray[np.uint32]:
    """Row numbers (blocks, 32) of a run, as a view: the end of each block."""
    size = codec.block_bytes(dim)
    blocks = len(run) // codec.run_block_bytes(dim)
    return run[: blocks * size].reshape(blocks, size)[:, -_NUMBER_BYTES:].view("<u4")


class _RabitqReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        arrays, dim = payload.arrays, payload.shape[1]
        codec = find_codec(f"rabitq{arrays['bits'][0]}")
        signs = arrays["signs"].astype(np.float32)
        self._model = Model(codec, Metric.parse("l2"), arrays["centre"].copy(), signs)
        self._centroids = np.array(arrays["centroids"])
        self._lengths = arrays["lengths"].astype(np.int64)
        self._runs = np.empty(arrays["runs"].size + _ALIGN, np.uint8)
        self._runs = self._runs[-self._runs.ctypes.data % _ALIGN :][: arrays["runs"].size]
        self._runs[:] = arrays["runs"]
        ends = np.cumsum(_blocks(self._lengths))
        self._first = ends - _blocks(self._lengths)
        self._run_bytes = codec.run_block_bytes(dim)
        self._place = np.empty(payload.shape[0], np.uint32)
        for number, length in enumerate(self._lengths):
            rows = _numbers(self._run(number), codec, dim).reshape(-1)[:length]
            start = self._first[number] * BLOCK_ROWS
            self._place[rows] = np.arange(start, start + length)

    def _run(self, number: int) -> NDArray[np.uint8]:
        start = self._first[number] * self._run_bytes
        size = -(-self._lengths[number] // BLOCK_ROWS) * self._run_bytes
        return self._runs[start : start + size]

    def decode(self) -> Floats:
        out = np.empty(self.shape, np.float32)
        for number, length in enumerate(self._lengths):
            run = self._run(number)
            rows = _numbers(run, self._model.codec, self.shape[1]).reshape(-1)[:length]
            out[rows] = self._model.decode(run, self._centroids[number], int(length))
        return out

    def lookup(self, rows: Rows) -> Floats:
        """Each row is decoded from a run of its block alone."""
        codec, dim = self._model.codec, self.shape[1]
        size, extra = codec.block_bytes(dim), codec.extra_bytes(dim) * BLOCK_ROWS
        out = np.empty((len(rows), dim), np.float32)
        place = self._place[rows].astype(np.int64)
        block = place // BLOCK_ROWS
        lists = np.searchsorted(self._first, block, side="right") - 1
        for line, (number, at) in enumerate(zip(lists, block, strict=True)):
            run, within = self._run(number), at - self._first[number]
            behind = len(run) // self._run_bytes * size + within * extra
            alone = np.concatenate(
                [run[within * size : (within + 1) * size], run[behind : behind + extra]]
            )
            count = int(place[line]) % BLOCK_ROWS + 1
            out[line] = self._model.decode(alone, self._centroids[number], count)[-1]
        return out
