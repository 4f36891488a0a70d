"""The factors that turn a product with a code into an estimate of a distance, and its bound.

Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for
Approximate Nearest Neighbor Search", SIGMOD 2024, sections 3.1 to 3.3, in the factored form of
"Practical and Asymptotically Optimal Quantization ..." (SIGMOD 2025): for a residual
``r = o - c`` and its code ``x``, both rotated,

    <q - c, r>  ~  |r|^2 / <r, x> * <q - c, x>

which is unbiased, and off by at most ``|r| |q - c| e0 sqrt((|r|^2|x|^2/<r,x>^2 - 1)/(d - 1))``
with high probability.  The form does not ask how x was found, so every coded posting uses it:
signs, grids of 2 to 8 bits, product quantisation (whose residuals are not rotated at random, so
that its bound is scaled by a measured factor, see `vecstore.codecs.pq`).

We depart in one point: query coordinates are rounded to two's complement of 5 or 8 bits, not at
random to 4 unsigned ones, which spares the popcount of the code itself.
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import inner_product
from vecstore.kernels.view import COSINE, IP

EPSILON = np.float32(1.9)
"""Width of the error bound in standard deviations (RaBitQ, section 3.2.2)."""
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
COSINE_MIN = np.float32(0.05)
"""A code that points away from its residual says nothing and is not scaled up."""


@kernel
def factors(metric, prepared, centroid, dim, square, dot, cross, norm, width):
    """Factors of one row.

    Parameters
    ----------
    metric : int64
    prepared, centroid : int64
        Addresses of float32 (dim,): the row and the posting's centroid, as the index sees them.
    dim : int64
    square, dot, cross, norm : float32
        ``|r|^2``, ``<r, x>``, ``<c, x>`` and ``|x|^2``, where c is relative to the centre.
    width : int64
        Dimensions of the code.

    Returns
    -------
    (float32, float32, float32)
        f_add, f_rs and f_err.
    """
    f_add = _ZERO
    f_rs = _ZERO
    f_err = _ZERO
    if square > _ZERO:
        spread = np.float32(1.0)
        if dot > COSINE_MIN * np.sqrt(square) * np.sqrt(norm):
            ratio = square / dot
            spread = max(_ZERO, ratio * norm / dot - np.float32(1.0))
            f_add = ratio * cross
            f_rs = -ratio
        f_err = np.sqrt(square) * EPSILON * np.sqrt(spread / np.float32(max(1, width - 1)))
    if metric == IP:
        f_add -= inner_product(prepared, centroid, dim) - inner_product(centroid, centroid, dim)
    else:
        scale = np.float32(1.0) if metric == COSINE else np.float32(2.0)
        f_add = scale * (_HALF * square + f_add)
        f_rs *= scale
        f_err *= scale
    return f_add, f_rs, f_err


@kernel
def code_scale(metric, f_rs, f_err, norm, width):
    """Factor that turns a code into the residual nearest to the encoded one, ``<r, x> / |x|^2``.

    It follows from what searches need: f_rs holds ``|r|^2 / <r, x>`` and f_err the difference
    of its squared length from ``|r|^2``.
    """
    kappa = np.float32(1.0) if metric in (COSINE, IP) else np.float32(2.0)
    ratio = -f_rs / kappa
    if not ratio > _ZERO:
        return _ZERO
    error = f_err / (kappa * EPSILON)
    return ratio - error * error * np.float32(max(1, width - 1)) / (ratio * norm)
