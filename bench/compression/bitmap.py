"""A bitmap with ranks: which positions are set, and how many are set before a position.

Ranks are kept for every 512th position (6 % of the bitmap's bytes), the rest is counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.compression.container import Layout

_WORD_BITS = 64
_WORDS_PER_RANK = 8
_BELOW = np.array([(1 << bit) - 1 for bit in range(_WORD_BITS)], np.uint64)

Positions = NDArray[np.int64]


def bitmap_layout(bits: int, prefix: str) -> Layout:
    """Arrays of a bitmap over ``bits`` positions."""
    words = -(-bits // _WORD_BITS)
    words += -words % _WORDS_PER_RANK
    return {
        f"{prefix}words": ("<u8", (words,)),
        f"{prefix}ranks": ("<u4", (words // _WORDS_PER_RANK,)),
    }


def make_bitmap(mask: NDArray[np.bool_], prefix: str) -> dict[str, NDArray[np.generic]]:
    """Arrays of `bitmap_layout` for a mask (bits,)."""
    layout = bitmap_layout(len(mask), prefix)
    size = layout[f"{prefix}words"][1][0]
    packed = np.zeros(size * _WORD_BITS // 8, np.uint8)
    found = np.packbits(mask, bitorder="little")
    packed[: len(found)] = found
    words = packed.view("<u8")
    counts = np.bitwise_count(words).reshape(-1, _WORDS_PER_RANK).sum(axis=1, dtype=np.uint32)
    ranks = np.zeros(len(counts), np.uint32)
    np.cumsum(counts[:-1], out=ranks[1:])
    return {f"{prefix}words": words, f"{prefix}ranks": ranks}


class Bitmap:
    """A bitmap opened for reading.

    Parameters
    ----------
    words : ndarray (w,) uint64
    ranks : ndarray (w / 8,) uint32
        Set positions before each run of 8 words.
    """

    def __init__(self, words: NDArray[np.uint64], ranks: NDArray[np.uint32]) -> None:
        self._words = words
        self._ranks = ranks

    def contains(self, at: Positions) -> NDArray[np.bool_]:
        """Whether positions (m,) are set."""
        shifted = self._words[at // _WORD_BITS] >> (at % _WORD_BITS).astype(np.uint64)
        return np.asarray((shifted & np.uint64(1)).astype(np.bool_))

    def rank(self, at: Positions) -> Positions:
        """How many positions below each of ``at`` (m,) are set."""
        word = at // _WORD_BITS
        run = word // _WORDS_PER_RANK
        total = self._ranks[run].astype(np.int64)
        for step in range(_WORDS_PER_RANK - 1):
            before = run * _WORDS_PER_RANK + step
            total += np.where(before < word, np.bitwise_count(self._words[before]), 0)
        last = self._words[word] & _BELOW[at % _WORD_BITS]
        return np.asarray(total + np.bitwise_count(last), dtype=np.int64)

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Positions start … stop - 1 as booleans."""
        first, last = start // _WORD_BITS, -(-stop // _WORD_BITS)
        octets = self._words[first:last].view(np.uint8)
        bits = np.unpackbits(octets, bitorder="little")
        offset = start - first * _WORD_BITS
        return bits[offset : offset + stop - start].astype(np.bool_)
