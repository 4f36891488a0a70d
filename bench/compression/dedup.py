"""Deduplication of blocks by locality-sensitive hashing.

After Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases"
(PVLDB 15(10)), as Zhang et al. (arXiv 2311.15578) apply it to embeddings: blocks in ascending order
of their third quartile, L2-LSH for candidates, a block that is similar enough to an earlier one is
replaced by it. Both tune block size and tolerance by hand; here the tolerance grows from nothing
until as few blocks are left as the budget allows, and the block width that errs least on a sample
is taken. Blocks are parts of one row; two are similar when their distance is within the tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.compression.container import Layout, Payload, stored_bytes
from bench.compression.contract import (
    Encoder,
    Floats,
    OverBudgetError,
    Reader,
    Rows,
    largest,
    sample,
)

_HASHES = 6
_BUCKET_TOLERANCES = 3.0
_FIRST_TOLERANCE = 0.02
_GROWTH = 1.15
_PARTS = (1, 2, 4, 8, 16)
_SAMPLE_ROWS = 10_000


def _layout(shape: tuple[int, int], width: int, kept: int) -> Layout:
    rows, dim = shape
    number = np.min_scalar_type(kept - 1).str
    return {"blocks": ("<f4", (kept, width)), "block_of": (number, (rows, dim // width))}


def _leaders(blocks: Floats, kept: int, seed: int) -> NDArray[np.int64]:
    """For each block the one that replaces it, such that at most ``kept`` different ones are left.

    Parameters
    ----------
    blocks : ndarray (b, w) float32
    kept : int
    seed : int

    Returns
    -------
    ndarray (b,) int64
        Leaders lead themselves.
    """
    draw = np.random.default_rng(seed)
    active = np.argsort(np.percentile(blocks, 75, axis=1), kind="stable")
    leader = np.arange(len(blocks))
    pairs = blocks[draw.integers(0, len(blocks), (2, 1000))]
    spread = float(np.sqrt(((pairs[0] - pairs[1]) ** 2).sum(axis=1).mean()))
    tolerance = 0.0
    while len(active) > kept:
        width = max(_BUCKET_TOLERANCES * tolerance, 1e-6 * spread, 1e-30)
        axes = draw.standard_normal((blocks.shape[1], _HASHES))
        offsets = draw.uniform(0, width, _HASHES)
        buckets = np.floor((blocks[active] @ axes + offsets) / width).astype(np.int64)
        mixers = draw.integers(1, 2**62, _HASHES) * 2 + 1
        keys = (buckets * mixers).sum(axis=1)
        order = np.argsort(keys, kind="stable")
        first = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        lengths = np.diff(first, append=len(order))
        heads = active[np.repeat(order[first], lengths)]
        members = active[order]
        distance = np.sqrt(((blocks[members] - blocks[heads]) ** 2).sum(axis=1))
        near = np.flatnonzero((distance <= tolerance) & (members != heads))
        excess = len(active) - kept
        if len(near) > excess:
            near = near[np.argsort(distance[near], kind="stable")[:excess]]
        leader[members[near]] = heads[near]
        active = active[leader[active] == active]
        tolerance = max(tolerance * _GROWTH, _FIRST_TOLERANCE * spread)
    while True:  # a leader may have been replaced later
        following = leader[leader]
        if (following == leader).all():
            return leader
        leader = following


@dataclass(frozen=True)
class Dedup:
    """One copy of similar blocks."""

    name: str = "dedup"
    about: str = "one copy of similar blocks, found by LSH"

    def _kept(self, shape: tuple[int, int], width: int, budget_bytes: int) -> int | None:
        """The most blocks of a width that fit."""

        def fits(kept: int) -> bool:
            return stored_bytes(self.name, shape, _layout(shape, width, kept)) <= budget_bytes

        return largest(1, shape[0] * shape[1] // width, fits)

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        shape = (base.shape[0], base.shape[1])
        widths = [shape[1] // parts for parts in _PARTS if shape[1] % parts == 0]
        choices = [(w, self._kept(shape, w, budget_bytes)) for w in widths]
        possible = [(width, kept) for width, kept in choices if kept is not None]
        if not possible:
            raise OverBudgetError(f"{self.name}: one block exceeds {budget_bytes:,} bytes.")
        rows = sample(base, _SAMPLE_ROWS, seed)

        def error(choice: tuple[int, int]) -> float:
            width, kept = choice
            blocks = rows.reshape(-1, width)
            share = max(1, kept * len(rows) // len(base))
            gaps = blocks - blocks[_leaders(blocks, share, seed)]
            return float((gaps.astype(np.float64) ** 2).sum())

        width, kept = min(possible, key=error)
        return _DedupEncoder(self.name, width, kept, seed)

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _DedupReader(payload)


@dataclass(frozen=True)
class _DedupEncoder:
    name: str
    width: int
    kept: int
    seed: int

    @property
    def setting(self) -> str:
        return f"{self.kept} blocks of {self.width}"

    def encode(self, base: Floats) -> Payload:
        shape = (base.shape[0], base.shape[1])
        blocks = base.reshape(-1, self.width)
        chosen, numbers = np.unique(_leaders(blocks, self.kept, self.seed), return_inverse=True)
        kind = _layout(shape, self.width, len(chosen))["block_of"][0]
        numbers = numbers.astype(kind).reshape(shape[0], -1)
        return Payload(self.name, shape, {"blocks": blocks[chosen], "block_of": numbers})


class _DedupReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._blocks = payload.arrays["blocks"]
        self._block_of = payload.arrays["block_of"]

    def lookup(self, rows: Rows) -> Floats:
        return np.asarray(self._blocks[self._block_of[rows]].reshape(len(rows), self.shape[1]))
