"""Exact distances in float32, by address; raw rows are decoded on the way.

"l2" is the squared Euclidean distance, "cosine" 1 - cosine of two vectors of which the first
has norm 1 already, "ip" the negated inner product: smaller is closer in all three.
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import load_f32
from vecstore.kernels.raw import row_scale, row_value
from vecstore.kernels.view import COSINE, L2, RAW_FLOAT16, RAW_FLOAT32, RAW_INT8

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@kernel
def squared_l2(a, b, dim):
    """Squared Euclidean distance of two float32 vectors."""
    total = _ZERO
    for i in range(dim):
        d = load_f32(a, i) - load_f32(b, i)
        total += d * d
    return total


@kernel
def inner_product(a, b, dim):
    """Inner product of two float32 vectors."""
    total = _ZERO
    for i in range(dim):
        total += load_f32(a, i) * load_f32(b, i)
    return total


@kernel
def _raw_distance(form, metric, query, row, dim):
    scale, offset = row_scale(form, row)
    dot = _ZERO
    if metric == L2:
        for i in range(dim):
            d = load_f32(query, i) - row_value(form, row, scale, offset, i)
            dot += d * d
        return dot
    if metric == COSINE:
        norm = _ZERO
        for i in range(dim):
            value = row_value(form, row, scale, offset, i)
            dot += load_f32(query, i) * value
            norm += value * value
        cosine = dot / np.sqrt(norm)
        return max(_ZERO, min(np.float32(2.0), _ONE - cosine))
    for i in range(dim):
        dot += load_f32(query, i) * row_value(form, row, scale, offset, i)
    return -dot


@kernel
def exact_distance(form, metric, query, row, dim):
    """Distance as users see it, of a prepared query and a raw row in one of its forms."""
    if form == RAW_FLOAT32:
        return _raw_distance(RAW_FLOAT32, metric, query, row, dim)
    if form == RAW_FLOAT16:
        return _raw_distance(RAW_FLOAT16, metric, query, row, dim)
    return _raw_distance(RAW_INT8, metric, query, row, dim)


@kernel
def centroid_distance(metric, query, centroid, dim):
    """Distance to a centroid in the unit of `exact_distance`: the estimate's additive part."""
    if metric == L2:
        return squared_l2(query, centroid, dim)
    if metric == COSINE:
        return np.float32(0.5) * squared_l2(query, centroid, dim)
    return -inner_product(query, centroid, dim)


@kernel
def euclidean(metric, query, distance, centroid, dim):
    """Euclidean distance to a centroid whose `centroid_distance` is known; scales the bound."""
    if metric == L2:
        return np.sqrt(distance)
    if metric == COSINE:
        return np.sqrt(np.float32(2.0) * distance)
    return np.sqrt(squared_l2(query, centroid, dim))
