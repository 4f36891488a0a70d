"""Low rank: SVD of Zhang et al. (arXiv 2311.15578), and PCA with float32 or int8 coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils.extmath import randomized_svd

from bench.compression.container import Layout, Payload, stored_bytes
from bench.compression.contract import (
    DECODE_ROWS,
    Encoder,
    Floats,
    OverBudgetError,
    Reader,
    Rows,
    largest,
)
from bench.compression.scalar import Grid, fit_grid


def svd_layout(rows: int, dim: int, rank: int, prefix: str = "") -> Layout:
    """Arrays of a factorisation of (rows, dim): 4·rank·(rows + dim) bytes."""
    return {
        f"{prefix}directions": ("<f4", (rank, dim)),
        f"{prefix}weights": ("<f4", (rows, rank)),
    }


def svd_directions(rows: Floats, rank: int, seed: int) -> Floats:
    """Right singular vectors (rank, d) of rows (n, d), the largest first."""
    _, _, directions = randomized_svd(rows, rank, random_state=seed)
    return np.ascontiguousarray(directions, dtype=np.float32)


@dataclass(frozen=True)
class Svd:
    """Truncated singular value decomposition, both factors in float32, rows not centred."""

    name: str = "svd"
    about: str = "truncated SVD"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        rows, dim = base.shape

        def fits(rank: int) -> bool:
            layout = svd_layout(rows, dim, rank)
            return stored_bytes(self.name, (rows, dim), layout) <= budget_bytes

        rank = largest(1, min(rows, dim), fits)
        if rank is None:
            raise OverBudgetError(f"{self.name}: rank 1 exceeds {budget_bytes:,} bytes.")
        return _SvdEncoder(self.name, svd_directions(base, rank, seed))

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _SvdReader(payload)


@dataclass(frozen=True)
class _SvdEncoder:
    name: str
    directions: Floats

    @property
    def setting(self) -> str:
        return f"rank {len(self.directions)}"

    def encode(self, base: Floats) -> Payload:
        arrays = {"directions": self.directions, "weights": base @ self.directions.T}
        return Payload(self.name, (base.shape[0], base.shape[1]), arrays)


class _SvdReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._directions = payload.arrays["directions"]
        self._weights = payload.arrays["weights"]

    def lookup(self, rows: Rows) -> Floats:
        return np.asarray(self._weights[rows] @ self._directions)


@dataclass(frozen=True)
class Pca:
    """The leading principal components: mean, directions, and a coefficient each per row.

    Parameters
    ----------
    name, about : str
    bits : int
        32 keeps coefficients as float32, 8 as integers with a range per component.
    """

    name: str = "pca"
    about: str = "principal components, float32 coefficients"
    bits: int = 32

    def _layout(self, shape: tuple[int, int], kept: int) -> Layout:
        rows, dim = shape
        side = {"mean": ("<f4", (dim,)), "directions": ("<f4", (kept, dim))}
        if self.bits == 32:
            return {**side, "weights": ("<f4", (rows, kept))}
        grid = {"low": ("<f4", (kept,)), "step": ("<f4", (kept,))}
        return {**side, **grid, "codes": ("|u1", (rows, kept))}

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        shape = (base.shape[0], base.shape[1])

        def fits(kept: int) -> bool:
            return stored_bytes(self.name, shape, self._layout(shape, kept)) <= budget_bytes

        kept = largest(1, min(shape), fits)
        if kept is None:
            raise OverBudgetError(f"{self.name}: one component exceeds {budget_bytes:,} bytes.")
        pca = PCA(kept, svd_solver="covariance_eigh").fit(base)
        mean = np.asarray(pca.mean_, dtype=np.float32)
        directions = np.asarray(pca.components_, dtype=np.float32)
        grid = None
        if self.bits == 8:
            grid = fit_grid(_project(base, mean, directions), self.bits)
        return _PcaEncoder(self.name, mean, directions, grid)

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _PcaReader(payload)


def _project(rows: Floats, mean: Floats, directions: Floats) -> Floats:
    return np.asarray((rows - mean) @ directions.T, dtype=np.float32)


@dataclass(frozen=True)
class _PcaEncoder:
    name: str
    mean: Floats
    directions: Floats
    grid: Grid | None

    @property
    def setting(self) -> str:
        return f"{len(self.directions)} components"

    def encode(self, base: Floats) -> Payload:
        parts = []
        for start in range(0, len(base), DECODE_ROWS):
            part = _project(base[start : start + DECODE_ROWS], self.mean, self.directions)
            parts.append(self.grid.codes(part) if self.grid else part)
        arrays = {"mean": self.mean, "directions": self.directions}
        if self.grid:
            arrays |= {"low": self.grid.low, "step": self.grid.step}
        kept = {"codes" if self.grid else "weights": np.concatenate(parts)}
        return Payload(self.name, (base.shape[0], base.shape[1]), {**arrays, **kept})


class _PcaReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        arrays = payload.arrays
        self._mean, self._directions = arrays["mean"], arrays["directions"]
        self._kept = arrays["codes" if "codes" in arrays else "weights"]
        self._grid = Grid(arrays["low"], arrays["step"], 8) if "low" in arrays else None

    def lookup(self, rows: Rows) -> Floats:
        kept = self._kept[rows]
        weights = self._grid.values(kept) if self._grid else kept
        return np.asarray(weights @ self._directions + self._mean)
