"""The oracle of posting codecs: blocks read byte by byte, estimates in plain numpy and float64.

The bytes are those that `vecstore.layout` documents; nothing here imports them or the engine. A
coded row is its centroid plus a multiple of its code x, both turned (rotated at random, or as
product quantisation learned it). With ``r`` the turned residual and ``u = |r|^2 / <r, x>`` an
estimate is the distance to ``c + u x`` less that point's own squared distance from the row
(RaBitQ, SIGMOD 2024, section 3.2), since ``<q - c, u x>`` is unbiased for ``<q - c, r>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.naive import rotate

F64 = NDArray[np.float64]
BLOCK = 32
EPSILON = 1.9
COSINE_MIN = 0.05  # a code that points away from its residual is worth nothing
PLANE_STEPS, BYTE_STEPS = 15, 127  # of a query's largest coordinate
SIGN_ERROR = np.sqrt(np.pi / 2 - 1)  # of signs, relative to the residual
SLACK, SLACK_LEAST = 1e-4, 1e-6  # of distances to stored values, for float32 sums
SUM_ERROR = 2e-5  # of the products themselves, in the product of the lengths
FLOAT_ERROR = 1e-6  # relative, of a sum of products in float32


@lru_cache(maxsize=16)
def _rotation(signs: bytes, rounds: int) -> F64:
    """The random rotation as a matrix: rotated = row @ matrix."""
    flips = np.frombuffer(signs, np.float32).reshape(rounds, -1)
    return rotate(np.eye(flips.shape[1]), flips)


@lru_cache(maxsize=64)
def _rotated(rows: bytes, dim: int, signs: bytes, rounds: int) -> F64:
    """Rotated rows; the tests of all codecs rotate the same ones."""
    return np.frombuffer(rows).reshape(-1, dim) @ _rotation(signs, rounds)[:dim]


@dataclass
class Run:
    """All places of a run, the empty ones included.

    Of values, `x` are the values, `f_err` is their f_err, and the other factors are NaN.
    """

    x: F64  # (places, width) centred codes
    f_add: F64
    f_rs: F64
    f_err: F64
    numbers: NDArray[np.uint32]
    signs: Run | None = None  # of codes of several planes: their sign bits and factors alone

    def __getitem__(self, places: Any) -> Run:
        columns = (self.f_add, self.f_rs, self.f_err, self.numbers)
        return Run(self.x[places], *(column[places] for column in columns))


@dataclass(frozen=True)
class Shape:
    """What the name of a codec says."""

    name: str
    dim: int

    @property
    def kind(self) -> str:
        plain = {"int8": "bytes", "int4": "halves", "float16": "values", "float32": "values"}
        return plain.get(self.name) or ("signs" if self.name.startswith("rabitq") else "parts")

    @property
    def number(self) -> int:
        """Bits, or parts."""
        found = re.search(r"\d+$", self.name)
        assert found
        return int(found[0])

    @property
    def padded(self) -> int:
        return -(-self.dim // 64) * 64

    @property
    def part_dim(self) -> int:
        return -(-self.dim // self.number)

    @property
    def width(self) -> int:
        """Dimensions of a code."""
        widths = {"parts": self.number * self.part_dim, "values": self.dim}
        return widths.get(self.kind, self.padded)

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of a block, without its factors and row numbers."""
        if self.kind == "parts":
            return -(-self.number * BLOCK // 64) * 64
        bits = 1 if self.kind == "signs" else self.number
        return self.width * bits * BLOCK // 8

    @property
    def block_bytes(self) -> int:
        return self.code_bytes + 4 * BLOCK * (2 if self.kind == "values" else 4)

    @property
    def extra_bytes(self) -> int:
        """Bytes of a row behind the blocks."""
        planes = self.number - 1 if self.kind == "signs" else 0
        return planes * self.padded // 8 + 12 if planes else 0


def _bits(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bits of words (..., 8 bytes each), the lowest first."""
    return np.unpackbits(np.ascontiguousarray(data), axis=-1, bitorder="little")


def read_run(shape: Shape, data: NDArray[np.uint8], codebook: Any = None) -> Run:
    """Read the blocks of a run and what stands behind them."""
    blocks = len(data) // (shape.block_bytes + BLOCK * shape.extra_bytes)
    held = data[: blocks * shape.block_bytes].reshape(blocks, shape.block_bytes)
    codes = np.ascontiguousarray(held[:, : shape.code_bytes])
    rest = np.ascontiguousarray(held[:, shape.code_bytes :])
    lines = 2 if shape.kind == "values" else 4  # of 32 floats or numbers
    numbers = rest.view(np.uint32).reshape(blocks, lines, BLOCK)[:, -1].ravel()
    floats = rest.view(np.float32).reshape(blocks, lines, BLOCK).astype(np.float64)
    columns = [floats[:, line].ravel() for line in range(lines - 1)]
    places = blocks * BLOCK
    if shape.kind == "values":
        kind = np.float16 if shape.number == 16 else np.float32
        by_dim = codes.view(kind).reshape(blocks, shape.dim, BLOCK)
        x = by_dim.transpose(0, 2, 1).reshape(places, shape.dim).astype(np.float64)
        unused = np.full(places, np.nan)
        return Run(x, unused, unused, columns[0], numbers)
    if shape.kind == "parts":
        index = codes[:, : shape.number * BLOCK].reshape(blocks, shape.number, BLOCK)
        words = np.asarray(codebook, np.float64)  # (parts, part dim, 256)
        parts = [words[part][:, index[:, part].ravel()].T for part in range(shape.number)]
        return Run(np.concatenate(parts, axis=1), *columns, numbers)
    if shape.kind == "bytes":
        grouped = codes.reshape(blocks, shape.padded // 4, BLOCK, 4)
        level = grouped.transpose(0, 2, 1, 3).reshape(places, shape.padded)
        return Run(level - 127.5, *columns, numbers)
    if shape.kind == "halves":
        grouped = codes.reshape(blocks, shape.padded // 8, BLOCK, 4)
        both = np.concatenate([grouped & 15, grouped >> 4], axis=-1)
        level = both.transpose(0, 2, 1, 3).reshape(places, shape.padded)
        return Run(level - 7.5, *columns, numbers)
    words = shape.padded // 64
    sign = _bits(codes.reshape(blocks, words, BLOCK, 8)).transpose(0, 2, 1, 3)
    signs = Run(sign.reshape(places, shape.padded) - 0.5, *columns, numbers)
    if not shape.extra_bytes:
        return signs
    behind = data[blocks * shape.block_bytes :].reshape(places, shape.extra_bytes)
    planes = _bits(behind[:, :-12].reshape(places, shape.number - 1, words, 8))
    level = signs.x + 0.5
    for plane in range(shape.number - 1):
        level = 2 * level + planes[:, plane].reshape(places, shape.padded)
    own = np.ascontiguousarray(behind[:, -12:]).view(np.float32).astype(np.float64)
    return Run(level - (2**shape.number - 1) / 2, *own.T, numbers, signs)


@dataclass
class Oracle:
    """A trained codec; its arrays are the engine's, its arithmetic is its own."""

    shape: Shape
    metric: str
    centre: Any
    signs: Any
    codebook: Any = None
    matrix: Any = None
    error_scale: float = 1.0

    def see(self, rows: Any) -> F64:
        """Rows as the index sees them: normalised under cosine."""
        rows = np.asarray(rows, np.float64)
        if self.metric != "cosine":
            return rows
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def turn(self, seen: Any) -> F64:
        """Turn rows (n, dim), or one, as the index sees them."""
        centred = np.asarray(seen, np.float64) - self.centre
        dim, width = self.shape.dim, self.shape.width
        if self.shape.kind != "parts":
            signs = np.ascontiguousarray(self.signs, np.float32)
            turned = _rotated(centred.tobytes(), dim, signs.tobytes(), len(signs))
            return turned.reshape(*centred.shape[:-1], width)
        if self.matrix is not None:
            return np.asarray(centred @ np.float64(self.matrix).T)
        return np.pad(centred, [(0, 0)] * (centred.ndim - 1) + [(0, width - dim)])

    def turn_back(self, turned: F64) -> F64:
        """Invert `turn`, leaving out what lies in no dimension of rows."""
        flat = turned[:, : self.shape.dim]
        if self.shape.kind != "parts":
            signs = np.ascontiguousarray(self.signs, np.float32)
            flat = turned @ _rotation(signs.tobytes(), len(signs))[: self.shape.dim].T
        elif self.matrix is not None:
            flat = turned @ np.float64(self.matrix)
        return np.asarray(flat + self.centre)

    def read(self, data: NDArray[np.uint8]) -> Run:
        return read_run(self.shape, data, self.codebook)

    def factors(self, rows: Any, centroid: Any, x: F64) -> tuple[F64, F64, F64]:
        """f_add, f_rs, f_err of rows with codes x (ALGORITHMS: F_add, F_rs, F_err)."""
        seen, c = self.see(rows), np.asarray(centroid, np.float64)
        square, ratio, spread = self._code(seen, c, x)
        c_dot_x = x @ self.turn(c)
        bound = np.sqrt(square) * EPSILON * np.sqrt(spread / max(1, x.shape[1] - 1))
        bound *= self.error_scale
        if self.metric == "ip":
            return -((seen - c) @ c) + ratio * c_dot_x, -ratio, bound
        scale = 2.0 if self.metric == "l2" else 1.0
        f_add = scale * (square / 2 + ratio * c_dot_x)
        return f_add, -scale * ratio, scale * bound

    def _code(self, seen: F64, c: F64, x: F64) -> tuple[F64, F64, F64]:
        """``|r|^2``, the factor u of the code, and the squared tangent of its angle to r."""
        residual = self.turn(seen) - self.turn(c)
        square = (residual**2).sum(axis=1)
        dot = (residual * x).sum(axis=1)
        length = (x**2).sum(axis=1)
        good = dot > COSINE_MIN * np.sqrt(square * length)
        safe = np.where(good, dot, 1.0)
        ratio = np.where(good, square / safe, 0.0)
        tangent = np.where(good, np.maximum(0, square * length / safe**2 - 1), square > 0)
        return square, ratio, tangent

    def round_queries(self, queries: Any) -> tuple[F64, F64, F64]:
        """Turned queries, as products with codes see them too, and the steps of the rounding."""
        turned = self.turn(self.see(queries))
        by_bytes = self.shape.kind in ("bytes", "halves")
        steps = BYTE_STEPS if by_bytes else PLANE_STEPS if self.shape.name == "rabitq1" else 0
        if not steps:
            return turned, turned, np.zeros((len(turned), 1))
        step = np.abs(turned).max(axis=1, keepdims=True) / steps
        return turned, np.floor(turned / np.where(step > 0, step, 1) + 0.5) * step, step

    def products(self, queries: Any, x: F64) -> tuple[F64, F64]:
        """Products of queries with codes, and what one coordinate rounded otherwise changes."""
        _, rounded, step = self.round_queries(queries)
        return rounded @ x.T, step * float(np.abs(x).max(initial=0))

    def estimate(self, queries: Any, centroid: Any, rows: Any, run: Run) -> tuple[F64, F64]:
        """Distances to the unbiased reconstructions, less these' own errors.

        Returns
        -------
        estimates, tolerance : float64 (queries, rows)
            The tolerance covers float32 sums and two coordinates of the query rounded otherwise.
        """
        q, c, seen = self.see(queries), np.asarray(centroid, np.float64), self.see(rows)
        tolerance = self.float_error(queries, centroid, rows)
        if self.shape.kind == "values":
            return self.distances(q, run.x), tolerance
        square, ratio, _ = self._code(seen, c, run.x)
        dot, flip = self.products(queries, run.x)
        inner = ratio * (dot - run.x @ self.turn(c))
        tolerance = tolerance + 2 * 2 * ratio * flip  # l2 has 2 <q - c, r>
        if self.metric == "ip":
            return -(q @ c)[:, None] - (seen - c) @ c - inner, tolerance
        scale = 2.0 if self.metric == "l2" else 1.0
        apart = ((q - c) ** 2).sum(axis=1, keepdims=True)
        return scale / 2 * (apart + square) - scale * inner, tolerance

    def from_factors(self, queries: Any, centroid: Any, run: Run) -> F64:
        """The same from the stored factors: f_add + g_add + f_rs <x, q>."""
        g_add = self.distances(self.see(queries), np.asarray(centroid, np.float64)[None])
        return run.f_add + g_add + run.f_rs * self.products(queries, run.x)[0]

    def bounds(self, queries: Any, centroid: Any, run: Run, grid_error: float) -> F64:
        """Error bounds of estimates, (queries, rows), from the stored f_err.

        The query's own rounding, to planes or bytes, is of variance step^2 / 12 in each coordinate.
        """
        grid_error = SIGN_ERROR if self.shape.name == "rabitq1" else grid_error
        q, c = self.see(queries), np.asarray(centroid, np.float64)
        if self.shape.kind == "values":
            near = np.abs(self.distances(q, run.x))
            reach = {"l2": np.sqrt(near), "cosine": np.sqrt(2 * near)}
            length = reach.get(self.metric, np.linalg.norm(q, axis=1, keepdims=True))
            return np.asarray(run.f_err * length + SLACK * near + SLACK_LEAST)
        square = ((q - c) ** 2).sum(axis=1, keepdims=True)
        if self.shape.kind in ("bytes", "halves") or self.shape.name == "rabitq1":
            _, _, step = self.round_queries(queries)
            square = square + (step / grid_error) ** 2 * (self.shape.padded - 1) / 12
        return np.asarray(run.f_err * np.sqrt(square))

    def distances(self, q: F64, seen: F64) -> F64:
        """Distances of queries to rows, both as the index sees them, (queries, rows)."""
        if self.metric == "ip":
            return np.asarray(-(q @ seen.T))
        scale = 1.0 if self.metric == "l2" else 0.5
        return scale * np.array([((seen - one) ** 2).sum(axis=1) for one in q])

    def float_error(self, queries: Any, centroid: Any, rows: Any) -> F64:
        """What float32 sums may be off by, (queries, rows)."""
        length = np.linalg.norm(self.see(queries), axis=1, keepdims=True)
        frame = np.linalg.norm(np.float64(centroid)) + np.linalg.norm(np.float64(self.centre))
        total = length + frame + np.linalg.norm(self.see(rows), axis=1)
        return np.asarray(FLOAT_ERROR * total**2)

    def reconstruct(self, rows: Any, centroid: Any, run: Run) -> F64:
        """The rows nearest to the encoded ones that their codes can say, (n, dim)."""
        if self.shape.kind == "values":
            return run.x
        c = self.turn(np.asarray(centroid, np.float64))
        scale = np.ones(len(run.x))
        if self.shape.kind != "parts":
            residual = self.turn(self.see(rows)) - c
            scale = (residual * run.x).sum(axis=1) / (run.x**2).sum(axis=1)
        return self.turn_back(c + scale[:, None] * run.x)


# --- the best code there is ---------------------------------------------------------------------


def best_cosine(residual: Any, bits: int) -> float:
    """Cosine of a residual with the nearest direction of the grid of `bits` bits.

    Magnitudes ``floor(t |r|) + 1/2`` change at the break points t = level / |r_i| only, and one of
    these codes is the best (extended RaBitQ, SIGMOD 2025, section 3.2): all of them are tried.
    """
    a = np.abs(np.asarray(residual, np.float64))
    a /= np.linalg.norm(a)
    top = 2 ** (bits - 1) - 1
    breaks = np.arange(1, top + 1)[:, None] / np.maximum(a, 1e-30)
    x = np.full(len(a), 0.5)
    best = float(x @ a / np.linalg.norm(x))
    for i in np.argsort(breaks, axis=None) % len(a):
        x[i] += 1
        best = max(best, float(x @ a / np.linalg.norm(x)))
    return best
