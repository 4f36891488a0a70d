"""Tensor train: the table as a chain of three cores.

Oseledets, "Tensor-train decomposition" (SIAM J. Sci. Comput. 33(5), 2011), TT-SVD. Rows and
dimensions are each written as three digits, i = (i₁·n₂ + i₂)·n₃ + i₃; core k holds for each digit
i_k a (rank × d_k·rank) matrix, and a row is a product of three of them (TT-Rec). Both ranks are
equal, as in Zhang et al. (arXiv 2311.15578), unless one of them is full; their code leaves the
singular values in the first core, here they go along to the next, as the algorithm has it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.utils.extmath import randomized_svd

from bench.compression.container import Layout, Payload, stored_bytes
from bench.compression.contract import (
    Encoder,
    Floats,
    OverBudgetError,
    Reader,
    Rows,
    largest,
)

Digits = tuple[int, int, int]


def row_digits(rows: int) -> Digits:
    """Three nearly equal numbers whose product is ``rows`` or a little more."""
    last = math.ceil(rows ** (1 / 3))
    middle = math.ceil(math.sqrt(rows / last))
    return math.ceil(rows / last / middle), middle, last


def dimension_digits(dim: int) -> Digits:
    """The three numbers nearest to each other whose product is ``dim``, ascending."""
    triples = [
        (a, b, dim // (a * b))
        for a in range(1, dim + 1)
        if dim % a == 0
        for b in range(a, dim // a + 1)
        if dim // a % b == 0 and b <= dim // (a * b)
    ]
    return min(triples, key=sum)


def _ranks(shape: tuple[int, int], rank: int) -> tuple[int, int]:
    """Ranks on both sides of the middle core: ``rank``, or that of the full unfolding."""
    (n1, _, n3), (d1, _, d3) = row_digits(shape[0]), dimension_digits(shape[1])
    return min(rank, n1 * d1), min(rank, n3 * d3)


def _layout(shape: tuple[int, int], rank: int) -> Layout:
    (n1, n2, n3), (d1, d2, d3) = row_digits(shape[0]), dimension_digits(shape[1])
    left, right = _ranks(shape, rank)
    return {
        "first": ("<f4", (n1, d1, left)),
        "middle": ("<f4", (n2, left, d2, right)),
        "last": ("<f4", (n3, right, d3)),
    }


@dataclass(frozen=True)
class TensorTrain:
    """Three cores of one rank."""

    name: str = "tt"
    about: str = "tensor train of three cores"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        shape = (base.shape[0], base.shape[1])
        (n1, _, n3), (d1, _, d3) = row_digits(shape[0]), dimension_digits(shape[1])

        def fits(rank: int) -> bool:
            return stored_bytes(self.name, shape, _layout(shape, rank)) <= budget_bytes

        rank = largest(1, max(n1 * d1, n3 * d3), fits)
        if rank is None:
            raise OverBudgetError(f"{self.name}: rank 1 exceeds {budget_bytes:,} bytes.")
        return _TensorTrainEncoder(self.name, *_ranks(shape, rank), seed)

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _TensorTrainReader(payload)


@dataclass(frozen=True)
class _TensorTrainEncoder:
    name: str
    left: int
    right: int
    seed: int

    @property
    def setting(self) -> str:
        return f"ranks {self.left} and {self.right}"

    def encode(self, base: Floats) -> Payload:
        shape = (base.shape[0], base.shape[1])
        (n1, n2, n3), (d1, d2, d3) = row_digits(shape[0]), dimension_digits(shape[1])
        padded = np.zeros((n1 * n2 * n3, shape[1]), np.float32)
        padded[: len(base)] = base
        tensor = padded.reshape(n1, n2, n3, d1, d2, d3).transpose(0, 3, 1, 4, 2, 5)
        unfolded = tensor.reshape(n1 * d1, -1)
        first, _, _ = randomized_svd(unfolded, self.left, random_state=self.seed)
        rest = (first.T @ unfolded).reshape(self.left * n2 * d2, n3 * d3)
        _, _, last = randomized_svd(rest, self.right, random_state=self.seed)
        middle = (rest @ last.T).reshape(self.left, n2, d2, self.right)
        cores = {
            "first": first.reshape(n1, d1, self.left),
            "middle": middle.transpose(1, 0, 2, 3),
            "last": last.reshape(self.right, n3, d3).transpose(1, 0, 2),
        }
        arrays = {name: np.ascontiguousarray(core, np.float32) for name, core in cores.items()}
        return Payload(self.name, shape, arrays)


class _TensorTrainReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        arrays = payload.arrays
        self._first, self._middle, self._last = arrays["first"], arrays["middle"], arrays["last"]

    def lookup(self, rows: Rows) -> Floats:
        n2, left, d2, right = self._middle.shape
        out = np.empty((len(rows), self.shape[1]), np.float32)
        prefix, digit = rows // len(self._last), rows % len(self._last)
        order = np.argsort(prefix, kind="stable")
        starts = np.flatnonzero(np.diff(prefix[order], prepend=-1))
        for group in np.split(order, starts[1:]) if len(rows) else []:
            at = prefix[group[0]]
            half = self._first[at // n2] @ self._middle[at % n2].reshape(left, d2 * right)
            whole = half.reshape(-1, right) @ self._last[digit[group]]
            out[group] = whole.reshape(len(group), -1)
        return out

    def decode(self) -> Floats:
        n1, d1, left = self._first.shape
        n2, _, d2, right = self._middle.shape
        n3, _, d3 = self._last.shape
        middle = self._middle.transpose(1, 0, 2, 3).reshape(left, -1)
        last = self._last.transpose(1, 0, 2).reshape(right, -1)
        half = (self._first.reshape(-1, left) @ middle).reshape(-1, right)
        tensor = (half @ last).reshape(n1, d1, n2, d2, n3, d3)
        table = tensor.transpose(0, 2, 4, 1, 3, 5).reshape(n1 * n2 * n3, -1)
        return np.ascontiguousarray(table[: self.shape[0]])
