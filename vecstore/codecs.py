"""Posting codecs: what a block of 32 rows holds, and which kernel branch reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vecstore.errors import InvalidArgumentError
from vecstore.kernels.view import FLOAT32, RABITQ
from vecstore.layout import float32_block_bytes, rabitq_block_bytes


@dataclass(frozen=True)
class Codec:
    """A way to encode the rows of a posting.

    Attributes
    ----------
    name : str
        As users write it and collections store it.
    number : int
        As kernels know it.
    block_bytes : callable
        Bytes of one block of 32 rows, by dimension.
    """

    name: str
    number: int
    block_bytes: Callable[[int], int]


CODECS = {
    codec.name: codec
    for codec in (
        Codec("rabitq1", RABITQ, rabitq_block_bytes),
        Codec("float32", FLOAT32, float32_block_bytes),
    )
}
AUTO = "rabitq1"
"""What "auto" means: 1-bit codes, reranked from raw rows."""


def find_codec(name: str) -> Codec:
    """Return the codec called `name`, or what "auto" stands for."""
    codec = CODECS.get(AUTO if name == "auto" else name) if isinstance(name, str) else None
    if codec is None:
        known = ", ".join(repr(known) for known in ("auto", *CODECS))
        raise InvalidArgumentError(f"codec is {name!r}; use one of {known}.")
    return codec
