"""A trained codec: what encoding, estimating and decoding need, and the three as array calls.

Searches and builds use `Model.view` with kernels of their own; `encode`, `estimate` and `decode`
serve where codes are wanted without an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vecstore.codecs.grid import grid_scale
from vecstore.codecs.pq import train_parts
from vecstore.config import BLOCK_ROWS, SQUARE_MAX
from vecstore.errors import InvalidVectorError
from vecstore.kernels import view as v
from vecstore.kernels.decode import decode_run
from vecstore.kernels.encode import encode_runs
from vecstore.kernels.estimate import estimate_run
from vecstore.kernels.rotation import ROUNDS
from vecstore.kernels.scratch import Scratch
from vecstore.layout import padded_dim

if TYPE_CHECKING:
    from vecstore.codecs.contract import Codec

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """A codec and what it learned.

    Attributes
    ----------
    codec : Codec
    metric : int
    centre : float32 (dim,)
        Subtracted from rows and queries before they are rotated.
    signs : float32 (rounds, padded dim)
        Of the random rotation.
    codebook : float32 (parts, part dim, 256), optional
    matrix : float32 (parts * part dim, dim), optional
        Learned rotation.
    error_scale : float
        What error bounds of product quantisation are, in those of codes that are turned at random.
    """

    codec: Codec
    metric: int
    centre: F32
    signs: F32
    codebook: F32 | None = None
    matrix: F32 | None = None
    error_scale: float = 1.0

    @property
    def dim(self) -> int:
        """Dimensions of a row."""
        return len(self.centre)

    def fill(self, view: I64) -> None:
        """Write this part of a kernel view; the model must outlive it."""
        codec, dim = self.codec, self.dim
        view[v.DIM] = dim
        view[v.PADDED] = padded_dim(dim)
        view[v.METRIC] = self.metric
        view[v.CODEC] = codec.kind
        view[v.BITS] = codec.bits
        view[v.STEPS] = codec.steps(dim)
        view[v.BLOCK_BYTES] = codec.block_bytes(dim)
        view[v.EXTRA_BYTES] = codec.extra_bytes(dim)
        view[v.CENTRE] = self.centre.ctypes.data
        view[v.SIGNS] = self.signs.ctypes.data
        if codec.kind in (v.RABITQ, v.INT8, v.INT4):
            scale, error = grid_scale(padded_dim(dim), codec.bits)
            view[v.GRID_SCALE] = int(scale.view(np.uint32))
            view[v.GRID_ERROR] = int(error.view(np.uint32))
        if self.codebook is not None:
            view[v.PARTS] = codec.parts
            view[v.PART_DIM] = codec.part_dim(dim)
            view[v.CODEBOOK] = self.codebook.ctypes.data
            view[v.MATRIX] = 0 if self.matrix is None else self.matrix.ctypes.data
            view[v.ERROR_SCALE] = int(np.float32(self.error_scale).view(np.uint32))

    def view(self) -> I64:
        """Begin a kernel view with this model's part."""
        view = np.zeros(v.VIEW_FIELDS, np.int64)
        self.fill(view)
        return view

    def encode(self, x: F32, centroid: F32) -> U8:
        """Encode rows against one centroid.

        Parameters
        ----------
        x : float32 (n, dim)
        centroid : float32 (dim,)

        Returns
        -------
        uint8
            One run: blocks of 32 rows, numbered from 0, and what stands behind them.
        """
        x, centroids = _rows(x), _rows(centroid)
        blocks = -(-len(x) // BLOCK_ROWS)
        data = np.zeros(blocks * self.codec.run_block_bytes(self.dim) + 64, np.uint8)
        data = data[-data.ctypes.data % 64 :][: len(data) - 64]
        encode_runs(
            self.view(),
            centroids,
            np.zeros(1, np.int64),
            True,
            np.array([0, len(x)]),
            x.ctypes.data + 4 * self.dim * np.arange(len(x)),
            np.arange(len(x), dtype=np.uint32),
            0,
            1,
            np.zeros(1, np.int64),
            int(data.ctypes.data),
        )
        return data

    def estimate(
        self, queries: F32, data: U8, centroid: F32, bound: float = 1.0
    ) -> tuple[F32, F32]:
        """Estimate the distances of queries to the rows of a run.

        Parameters
        ----------
        queries : float32 (n, dim)
        data : uint8
            From `encode`, at an address that is a multiple of 64.
        centroid : float32 (dim,)
        bound : float
            Share of the error bound.

        Returns
        -------
        estimates, errors : float32 (n, places)
            Places are 32 per block; empty ones have +inf.

        Raises
        ------
        InvalidVectorError
            A query holds NaN or infinity, is too long, or has no direction under cosine.
        """
        queries, centroids = _rows(queries), _rows(centroid)
        blocks = len(data) // self.codec.run_block_bytes(self.dim)
        estimates = np.empty((len(queries), blocks * BLOCK_ROWS), np.float32)
        errors = np.empty_like(estimates)
        view = self.view()
        scratch = Scratch(view)
        refused = estimate_run(
            view,
            scratch.table,
            queries,
            int(centroids.ctypes.data),
            int(data.ctypes.data),
            blocks,
            np.float32(bound),
            estimates,
            errors,
        )
        if refused >= 0:
            raise _refusal(queries[refused], int(refused))
        return estimates, errors

    def decode(self, data: U8, centroid: F32, count: int) -> F32:
        """Decode the first `count` rows of a run, as the index sees them (length one for cosine).

        Returns
        -------
        float32 (count, dim)
        """
        centroids = _rows(centroid)
        blocks = len(data) // self.codec.run_block_bytes(self.dim)
        out = np.empty((count, self.dim), np.float32)
        decode_run(self.view(), int(centroids.ctypes.data), int(data.ctypes.data), blocks, out)
        return out


def _refusal(query: F32, number: int) -> InvalidVectorError:
    """Error for a query that cannot be prepared."""
    if np.square(query, dtype=np.float64).sum() <= SQUARE_MAX:
        return InvalidVectorError(
            f"Query {number} has length zero in float32; cosine distance needs a direction."
        )
    return InvalidVectorError(
        f"Query {number} is not finite (NaN, infinity, or too long for float32)."
    )


def _rows(x: F32) -> F32:
    return np.atleast_2d(np.ascontiguousarray(x, np.float32))


def draw_signs(dim: int, seed: int) -> F32:
    """Draw the random signs of a rotation, float32 (rounds, padded dim)."""
    flips = np.random.default_rng(seed).integers(0, 2, (ROUNDS, padded_dim(dim)))
    return np.asarray(1 - 2 * flips, dtype=np.float32)


def train_model(codec: Codec, metric: int, seed: int, centre: F32, residuals: F32) -> Model:
    """Train a codec.

    Parameters
    ----------
    codec : Codec
    metric : int
        As in `vecstore.config.Metric`.
    seed : int
    centre : float32 (dim,)
        Mean of the centroids.
    residuals : float32 (n, dim)
        Rows less their centroids, as the index sees them; only product quantisation learns from
        them.
    """
    signs = draw_signs(len(centre), seed)
    if not codec.parts:
        return Model(codec, metric, centre, signs)
    parts = train_parts(residuals, codec.parts, codec.turned, seed)
    return Model(codec, metric, centre, signs, *parts)
