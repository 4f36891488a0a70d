"""What every compressor offers: train within a budget, encode, open, look up, decode.

A compressor is stateless. `train` chooses the largest setting whose file fits the budget and
learns what that setting needs; the encoder it returns makes a `Payload`; a `Reader` is opened from
the payload alone, so that nothing outside the counted bytes can help to decode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.channel import BenchError
from bench.compression.container import Layout, Payload, stored_bytes

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

DECODE_ROWS = 16_384


class OverBudgetError(BenchError):
    """Even the smallest setting of a method is larger than the budget."""


class Encoder(Protocol):
    """A trained compressor.

    Attributes
    ----------
    setting : str
        What was chosen, for people.
    """

    @property
    def setting(self) -> str: ...

    def encode(self, base: Floats) -> Payload:
        """Compress the table (n, d) that the encoder was trained for."""
        ...


class Reader(ABC):
    """A compressed table, opened.

    Parameters
    ----------
    payload : Payload
    """

    def __init__(self, payload: Payload) -> None:
        self.shape = payload.shape

    @abstractmethod
    def lookup(self, rows: Rows) -> Floats:
        """Decode some rows.

        Parameters
        ----------
        rows : ndarray (m,) int64
            Row numbers, in any order.

        Returns
        -------
        ndarray (m, d) float32
        """

    def decode(self) -> Floats:
        """Decode the whole table.

        Returns
        -------
        ndarray (n, d) float32
        """
        out = np.empty(self.shape, np.float32)
        for start in range(0, len(out), DECODE_ROWS):
            stop = min(start + DECODE_ROWS, len(out))
            out[start:stop] = self.lookup(np.arange(start, stop))
        return out


class Compressor(Protocol):
    """A method of the study.

    Attributes
    ----------
    name : str
    about : str
        One line for people.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """Choose the largest setting that fits, and learn what it needs.

        Parameters
        ----------
        base : ndarray (n, d) float32
        budget_bytes : int
            Upper bound of the payload's `nbytes`.
        seed : int
            The same seed gives the same payload.

        Raises
        ------
        OverBudgetError
            No setting fits.
        """
        ...

    def open(self, payload: Payload) -> Reader:
        """Reader of a payload that this method made."""
        ...


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number of low … high that fits, where all below a fitting one fit too.

    Returns None when not even ``low`` fits.
    """
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def require_fit(method: str, shape: tuple[int, int], layout: Layout, budget_bytes: int) -> None:
    """Raise `OverBudgetError` unless a file of this layout fits the budget."""
    needed = stored_bytes(method, shape, layout)
    if needed > budget_bytes:
        raise OverBudgetError(f"{method} needs {needed:,} bytes at least, not {budget_bytes:,}.")


def sample(base: Floats, rows: int, seed: int) -> Floats:
    """At most ``rows`` rows of a table, drawn without replacement, in their order.

    Parameters
    ----------
    base : ndarray (n, d) float32

    Returns
    -------
    ndarray (min(n, rows), d) float32
    """
    if len(base) <= rows:
        return base
    drawn = np.random.default_rng(seed).choice(len(base), rows, replace=False)
    return np.ascontiguousarray(base[np.sort(drawn)])


def entries(payload: Payload, prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose name begins with a prefix, by the rest of their name."""
    return {
        name.removeprefix(prefix): array
        for name, array in payload.arrays.items()
        if name.startswith(prefix)
    }
