"""Forms of raw rows: what a vector keeps of itself where it stands whole, once.

Rows are encoded once, when a write is accepted or its extent is written, and copied as bytes from
then on: a row's distances and its vector never change again.  Kernels decode them
(`vecstore.kernels.raw`).

Invariants
----------
* A vector that `RawForm.check` accepts comes back finite and, under cosine, with a direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.config import Metric
from vecstore.errors import InvalidArgumentError, InvalidVectorError
from vecstore.kernels import raw
from vecstore.kernels.view import RAW_FLOAT16, RAW_FLOAT32, RAW_INT8

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
_STEP_ROWS = 1_024
"""Rows encoded at a time, which bounds what the work on them takes."""


def _put_float16(rows: F32, out: U8) -> None:
    """Round to the nearest, ties to even."""
    size = 2 * rows.shape[1]
    out[:, :size] = rows.astype(np.float16).view(np.uint8)


def _put_int8(rows: F32, out: U8) -> None:
    """Divide the range of each row into 255 steps; steps of one where all values are whole.

    So the least and the largest value stay, up to the rounding of float32, and whole numbers
    that span no more than 255, such as image descriptors, stay as they are.
    """
    head = np.empty(len(rows), layout.INT8_HEAD)
    low = rows.min(axis=1)
    span = rows.max(axis=1) - low
    whole = (span <= 255) & (rows == np.rint(rows)).all(axis=1)
    scale = np.where(whole, np.float32(1), span / np.float32(255))
    head["scale"], head["offset"] = scale, low
    codes = rows - low[:, None]
    codes /= np.where(scale > 0, scale, np.float32(1))[:, None]
    np.rint(codes, out=codes)
    begin = layout.INT8_HEAD.itemsize
    out[:, :begin] = head.view(np.uint8).reshape(len(rows), begin)
    out[:, begin : begin + rows.shape[1]] = np.minimum(codes, 255)


@dataclass(frozen=True)
class RawForm:
    """A way to store raw rows.

    Attributes
    ----------
    name : str
        As users write it and collections store it.
    number : int
        As kernels know it.
    row_bytes : callable
        Bytes of one row, by dimension; a multiple of 4.
    put : callable, optional
        `put(rows, out)` encodes float32 (n, dim) into zeroed uint8 (n, row bytes); None where
        the bytes of float32 are stored as they are.
    largest : float
        Magnitude that a value may have at most.
    lost : float
        Under cosine, the largest magnitude of a row must be more than this.
    """

    name: str
    number: int
    row_bytes: Callable[[int], int]
    put: Callable[[F32, U8], None] | None
    largest: float
    lost: float

    def encode(self, rows: F32) -> U8:
        """Encode rows that `check` accepted: float32 (n, dim) to uint8 (n, row bytes)."""
        n, dim = rows.shape
        rows = np.ascontiguousarray(rows)
        if self.put is None:
            return rows.view(np.uint8).reshape(n, self.row_bytes(dim))
        out = np.zeros((n, self.row_bytes(dim)), np.uint8)
        for start in range(0, n, _STEP_ROWS):
            self.put(rows[start : start + _STEP_ROWS], out[start : start + _STEP_ROWS])
        return out

    def check(self, rows: F32, metric: int, first: int) -> None:
        """Refuse finite rows that this form cannot hold; `first` is the number of their first."""
        if self.put is None or not len(rows):
            return
        size = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        wrong = np.flatnonzero(size > self.largest)
        if len(wrong):
            raise InvalidVectorError(
                f"Vector in row {first + int(wrong[0])} has a value of magnitude "
                f"{size[wrong[0]]:g}; raw={self.name!r} holds at most {self.largest:,.0f}. Use a "
                f"collection with raw='float32'; nothing was written."
            )
        wrong = np.flatnonzero(size <= self.lost)
        if metric == Metric.COSINE and len(wrong):
            raise InvalidVectorError(
                f"Vector in row {first + int(wrong[0])} has no value of more than "
                f"{size[wrong[0]]:g}, which raw={self.name!r} rounds to zero; cosine distance "
                f"needs a direction. Use a collection with raw='float32'; nothing was written."
            )


FORMS = {
    form.name: form
    for form in (
        RawForm("float32", RAW_FLOAT32, layout.float32_row_bytes, None, np.inf, 0.0),
        RawForm("float16", RAW_FLOAT16, layout.float16_row_bytes, _put_float16, 65_504.0, 2.0**-25),
        # Far within float32, so that squared lengths stay in its range whatever rounding does.
        RawForm("int8", RAW_INT8, layout.int8_row_bytes, _put_int8, 1e15, 1e-18),
    )
}
DEFAULT = "float32"
assert layout.INT8_HEAD.itemsize == raw.INT8_HEAD


def find_form(name: str) -> RawForm:
    """Return the form called `name`."""
    form = FORMS.get(name) if isinstance(name, str) else None
    if form is None:
        known = ", ".join(repr(known) for known in FORMS)
        raise InvalidArgumentError(f"raw is {name!r}; use one of {known}.")
    return form
