"""Speed of the block kernels, of encoding, and of a plain read for comparison."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from vecstore.codecs import Codec
from vecstore.config import BLOCK_ROWS
from vecstore.kernels import view as v
from vecstore.kernels.cache import FAST_MATH
from vecstore.kernels.estimate import estimate_block
from vecstore.kernels.query import make_query
from vecstore.kernels.scratch import Scratch

CACHED_BYTES = 256 << 10
STREAMED_BYTES = 1 << 30
REPEATS = 5
AHEAD_BYTES = 2_048
ROWS = 4_096


@numba.njit(nogil=True, fastmath=FAST_MATH, error_model="numpy")  # type: ignore[untyped-decorator]
def _scan(view: Any, scratch: Any, start: Any, blocks: Any, rounds: Any) -> Any:
    """Estimate the blocks that stand at `start`, over and over, asking for those ahead."""
    total = np.uint32(0)
    for _ in range(rounds):
        for b in range(blocks):
            block = start + b * view[v.BLOCK_BYTES]
            mask = estimate_block(
                view,
                scratch,
                block,
                block + AHEAD_BYTES,
                np.float32(0.0),
                np.float32(1.0),
                np.float32(-1e30),
                scratch[v.ESTIMATES],
            )
            total = np.uint32(total + mask)
    return total


@numba.njit(nogil=True, fastmath=FAST_MATH)  # type: ignore[untyped-decorator]
def _read(words: Any) -> Any:
    total = np.uint64(0)
    for i in range(words.shape[0]):
        total += words[i]
    return total


def _best(call: Any) -> float:
    """Least seconds of several calls: what the machine can do when left alone."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def bandwidth() -> float:
    """Bytes per second that one thread reads from memory."""
    words = np.ones(STREAMED_BYTES // 8, np.uint64)
    _read(words[:8])
    return STREAMED_BYTES / _best(lambda: _read(words))


def _aligned(size: int) -> NDArray[np.uint8]:
    raw = np.zeros(size + 64, np.uint8)
    return raw[-raw.ctypes.data % 64 :][:size]


def scan_speed(codec: Codec, dim: int) -> tuple[float, float]:
    """Nanoseconds per row of the block kernel, from the cache and from memory."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, dim)).astype(np.float32)
    model = codec.train(x)
    view = model.view()
    scratch = Scratch(view)
    target: Any = (ctypes.c_float * dim).from_address(int(scratch.table[v.QUERY]))
    target[:] = x[0].tolist()
    make_query(view, scratch.table)
    size = codec.block_bytes(dim)
    blocks = max(1, CACHED_BYTES // size)
    rows = x[: min(ROWS, blocks * BLOCK_ROWS)]
    run = model.encode(rows, x.mean(axis=0))
    blocks = min(blocks, -(-len(rows) // BLOCK_ROWS))
    cached = _aligned(blocks * size)
    cached[:] = run[: len(cached)]
    place = int(cached.ctypes.data)
    _scan(view, scratch.table, place, 1, 1)
    rounds = max(1, 4_000_000 // (blocks * BLOCK_ROWS * dim // 16))
    near = _best(lambda: _scan(view, scratch.table, place, blocks, rounds))
    many = STREAMED_BYTES // size
    streamed = _aligned(many * size)
    for start in range(0, len(streamed), len(cached)):
        part = streamed[start : start + len(cached)]
        part[:] = cached[: len(part)]
    far = _best(lambda: _scan(view, scratch.table, int(streamed.ctypes.data), many, 1))
    return near / rounds / blocks / BLOCK_ROWS * 1e9, far / many / BLOCK_ROWS * 1e9


def encode_rate(codec: Codec, dim: int) -> float:
    """Rows per second that one thread encodes."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, dim)).astype(np.float32)
    model = codec.train(x)
    centroid = x.mean(axis=0)
    model.encode(x[:BLOCK_ROWS], centroid)
    return ROWS / _best(lambda: model.encode(x, centroid))
