"""Training of product quantisation, by faiss.

Jegou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011; the learned rotation
is that of Ge et al., "Optimized Product Quantization", CVPR 2013.

What a code loses is no Gaussian vector: data has fewer dimensions than its vectors, and the loss
and the queries lie in the same ones.  So the error bound of `vecstore.kernels.factors`, which
holds for losses that point anywhere, is scaled by what the sample shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels.factors import COSINE_MIN, EPSILON

F32 = NDArray[np.float32]
CODEWORDS = 256
ROWS_MIN = 256
LOSS_MIN = 1e-4
"""Relative loss of a row that is its own codeword and tells nothing of others."""
ROTATION_ROUNDS = 8
ITERATIONS = 12
BOUND_SHARE = 0.943
"""Of errors that a bound should cover: as many as 1.9 standard deviations do."""
BOUND_ROWS = 1_024
BOUND_ROWS_MIN = 32
BOUND_NEAR = 16
"""Rows nearest in direction: postings that are read are those that queries lie near, and in a
neighbourhood losses weigh more than on the average."""


def _padded(residuals: F32, width: int, seed: int) -> F32:
    """Residuals in `width` dimensions, repeated with a little noise until there are enough."""
    wide = np.zeros((max(len(residuals), ROWS_MIN), width), np.float32)
    wide[: len(residuals), : residuals.shape[1]] = residuals
    missing = len(wide) - len(residuals)
    if missing and len(residuals):
        rng = np.random.default_rng(seed)
        again = residuals[rng.integers(0, len(residuals), missing)]
        noise = rng.standard_normal(again.shape).astype(np.float32)
        wide[len(residuals) :, : residuals.shape[1]] = again + 1e-3 * again.std() * noise
    return wide


def _quantizer(width: int, parts: int, seed: int) -> Any:
    import faiss  # a store that is only read needs none of it

    quantizer = faiss.ProductQuantizer(width, parts, 8)
    quantizer.cp.niter = ITERATIONS
    quantizer.cp.seed = seed + 1
    quantizer.cp.min_points_per_centroid = 1
    return quantizer


def error_scale(residuals: F32, decoded: F32) -> float:
    """Factor of the error bounds for codes whose losses do not point anywhere.

    A distance is off by the product of the loss with the query less the centroid, both of known
    length.  The cosine between them is what has to be guessed: that of each row's loss with other
    rows, or with those that point where the row does, whichever is larger.  The latter lie in the
    same few dimensions, but along the row itself, where queries near it lie, there is no loss.

    Parameters
    ----------
    residuals, decoded : float32 (n, width)
        Rows and their codes, turned alike.

    Returns
    -------
    float
        Cosine that `BOUND_SHARE` of them are within, in that of a random direction; at least 1.
    """
    wide = residuals.shape[1]
    rows, codes = residuals.astype(np.float64), decoded.astype(np.float64)
    square, dot = (rows**2).sum(axis=1), (rows * codes).sum(axis=1)
    good = dot > COSINE_MIN * np.sqrt(square * (codes**2).sum(axis=1))
    rows, codes, square, dot = rows[good], codes[good], square[good], dot[good]
    losses = rows - (square / dot)[:, None] * codes
    lost = np.sqrt((losses**2).sum(axis=1))
    kept = lost > LOSS_MIN * np.sqrt(square)
    if kept.sum() < BOUND_ROWS_MIN:
        return 1.0
    unit = rows / np.sqrt(square)[:, None]
    losses = losses[kept] / lost[kept][:, None]
    with np.errstate(invalid="ignore"):  # a flag that BLAS may set, of finite products
        alike, cosines = unit[kept] @ unit.T, np.abs(losses @ unit.T)
    alike[np.arange(len(alike)), np.flatnonzero(kept)] = -1.0
    near = np.argpartition(-alike, BOUND_NEAR, axis=1)[:, :BOUND_NEAR]
    groups = cosines, np.take_along_axis(cosines, near, axis=1)
    reached = max(float(np.quantile(group, BOUND_SHARE)) for group in groups)
    return max(1.0, reached * float(np.sqrt(max(1, wide - 1))) / float(EPSILON))


def train_parts(
    residuals: F32, parts: int, turned: bool, seed: int
) -> tuple[F32, F32 | None, float]:
    """Train a codebook for each part, and the rotation before if it is wanted.

    Parameters
    ----------
    residuals : float32 (n, dim)
    parts : int
    turned : bool
    seed : int

    Returns
    -------
    codebook : float32 (parts, part dim, 256)
    matrix : float32 (parts * part dim, dim), or None
        The rotation.
    scale : float
        See `error_scale`.
    """
    import faiss

    dim = residuals.shape[1]
    part_dim = -(-dim // parts)
    x = _padded(residuals, parts * part_dim, seed)
    matrix = None
    if turned:
        opq = faiss.OPQMatrix(x.shape[1], parts)
        opq.niter = ROTATION_ROUNDS
        opq.pq = _quantizer(x.shape[1], parts, seed)
        opq.train(x)
        square = faiss.vector_to_array(opq.A).reshape(x.shape[1], x.shape[1])
        matrix = np.ascontiguousarray(square[:, :dim], dtype=np.float32)
        x = np.ascontiguousarray(x @ square.T, dtype=np.float32)
    quantizer = _quantizer(x.shape[1], parts, seed)
    quantizer.train(x)
    centroids = faiss.vector_to_array(quantizer.centroids).reshape(parts, CODEWORDS, part_dim)
    picks = np.random.default_rng(seed).permutation(len(residuals))[:BOUND_ROWS]
    sample = np.ascontiguousarray(x[np.sort(picks)])
    scale = error_scale(sample, quantizer.decode(quantizer.compute_codes(sample)))
    return np.ascontiguousarray(centroids.transpose(0, 2, 1), dtype=np.float32), matrix, scale
