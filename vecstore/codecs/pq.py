"""Training of product quantisation, by faiss.

Jegou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011; the learned rotation
is that of Ge et al., "Optimized Product Quantization", CVPR 2013.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
CODEWORDS = 256
ROWS_MIN = 256
ROTATION_ROUNDS = 8
ITERATIONS = 12


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


def _quantizer(width: int, parts: int, seed: int) -> faiss.ProductQuantizer:
    quantizer = faiss.ProductQuantizer(width, parts, 8)
    quantizer.cp.niter = ITERATIONS
    quantizer.cp.seed = seed + 1
    quantizer.cp.min_points_per_centroid = 1
    return quantizer


def train_parts(residuals: F32, parts: int, turned: bool, seed: int) -> tuple[F32, F32 | None]:
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
    """
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
    return np.ascontiguousarray(centroids.transpose(0, 2, 1), dtype=np.float32), matrix
