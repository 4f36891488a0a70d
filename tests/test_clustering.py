"""The clustering tree: limits hold, nothing is lost, and odd inputs are no exception."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store_checks import normal
from vecstore import clustering
from vecstore.config import COPIES

LEAF_MAX = clustering.LEAF_ROWS_MAX


class Array:
    """A source of rows over an array."""

    def __init__(self, x: Any) -> None:
        self.x = np.ascontiguousarray(x, np.float32)
        self.n, self.dim = self.x.shape

    def take(self, indices: Any) -> Any:
        return np.ascontiguousarray(self.x[indices])


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with clustering.worker_pool(2) as workers:
        yield workers


def silent(stage: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def clustered(n: int, dim: int, seed: int = 0) -> Any:
    """Rows around random centres of very different sizes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, dim)) * 5
    which = np.minimum(rng.geometric(0.3, n) - 1, 11)
    return (centres[which] + rng.normal(size=(n, dim))).astype(np.float32)


INPUTS = {
    "one row": normal(1, 4),
    "two rows": normal(2, 4),
    "two equal rows": np.ones((2, 4)),
    "all equal": np.full((1_500, 3), 7.0),
    "almost all equal": np.concatenate([np.ones((900, 3)), normal(5, 3)]),
    "zeros": np.zeros((50, 2)),
    "dimension one": normal(2_000, 1),
    "few values": np.random.default_rng(0).integers(0, 3, (3_000, 2)),
    "fewer rows than a leaf": normal(60, 8),
    "normal": normal(3_000, 16),
    "clustered": clustered(5_000, 8),
    "large and small": normal(800, 4) * np.logspace(-6, 6, 800)[:, None],
    "line": np.outer(np.arange(1_200), np.ones(5)),
}
inputs = pytest.mark.parametrize("name", INPUTS)


# --- bisect -------------------------------------------------------------------------------------


@inputs
def test_bisect_is_balanced(name: str) -> None:
    x = np.asarray(INPUTS[name], np.float32)
    sides = clustering.bisect(x)
    if sides is None:
        assert len(np.unique(x, axis=0)) == 1
    else:
        assert sides.shape == (len(x),)
        least = max(1, len(x) // 3)
        assert least <= sides.sum() <= len(x) - least


def test_bisect_of_equal_rows_is_none() -> None:
    for row in (np.zeros(3), np.ones(3), np.array([1e-3, 1e10, -7.1])):
        assert clustering.bisect(np.repeat(row[None], 40, axis=0).astype(np.float32)) is None


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-19, 1e9, 1e18])
@pytest.mark.parametrize("name", ["dimension one", "normal", "clustered", "line"])
def test_bisect_at_any_scale(name: str, scale: float) -> None:
    """As far as vectors may be short or long, squares of which float32 does not have."""
    x = np.asarray(INPUTS[name], np.float64)
    x = (x / np.linalg.norm(x, axis=1).max() * scale).astype(np.float32)
    sides = clustering.bisect(x)
    assert sides is not None
    assert len(x) // 3 <= sides.sum() <= len(x) - len(x) // 3


def test_bisect_ignores_flags_of_finite_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS may set the flag of an invalid operation; numpy would make it a warning."""

    class Flagging(np.ndarray[Any, Any]):
        def __matmul__(self, other: Any) -> Any:
            np.subtract(np.float32(np.inf), np.float32(np.inf))
            return np.asarray(self) @ np.asarray(other)

    x = normal(300, 6).view(Flagging)
    with pytest.warns(RuntimeWarning, match="invalid value"):
        _ = x @ x[0]
    sides = clustering.bisect(x)
    assert sides is not None
    assert (np.asarray(sides) == clustering.bisect(np.asarray(x))).all()


def test_bisect_tells_two_groups_apart() -> None:
    x = normal(100, 5)
    x[40:] += 50
    sides = clustering.bisect(x)
    assert sides is not None
    assert len(set(sides[:40].tolist())) == len(set(sides[40:].tolist())) == 1


@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, 1e-20, 1e15]), min_size=2, max_size=40))
def test_bisect_of_few_values(values: list[float]) -> None:
    x = np.array(values, np.float32)[:, None]
    sides = clustering.bisect(x)
    if sides is not None:
        assert 0 < sides.sum() < len(values)
    elif len(set(values)) > 1:
        assert (
            np.ptp(x - x.mean(axis=0)) <= np.spacing(np.abs(x).max()) * 4 or len(set(values)) == 1
        )


# --- cells, trees, homes ------------------------------------------------------------------------


@inputs
@pytest.mark.parametrize(("limit", "rows"), [(LEAF_MAX, 100), (16, 8), (2, 1)])
def test_cells_respect_the_limit(name: str, limit: int, rows: int) -> None:
    """Counted where the leaves were cut; only equal rows may share a larger one."""
    x = np.ascontiguousarray(INPUTS[name][:1_000], np.float32)
    leaves = clustering.train_cell(x, 1, limit, rows)
    assert leaves.dtype == np.float32
    assert leaves.shape[1] == x.shape[1]
    assert 1 <= len(leaves) <= len(x)
    assert np.isfinite(leaves).all()
    assert len(leaves) >= len(np.unique(x, axis=0)) / (limit * 2) - 1
    for part in clustering.divide(x, limit):
        assert len(part) <= limit or len(np.unique(x[part], axis=0)) == 1


@inputs
def test_divide_partitions(name: str) -> None:
    x = np.asarray(INPUTS[name], np.float32)
    parts = clustering.divide(x, 10)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(x)))


@inputs
@pytest.mark.parametrize("leaves_per_cell", [128, 4])
def test_tree_and_homes(
    name: str, leaves_per_cell: int, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "CELL_LEAVES", leaves_per_cell)
    source = Array(INPUTS[name])
    tree = clustering.train_tree(source, 3, pool, silent)
    cells, leaves = len(tree.cells), len(tree.leaves)
    assert sorted(tree.order.tolist()) == list(range(source.n)), "cells partition the rows"
    assert tree.cell_first[0] == tree.first_leaf[0] == 0
    assert (tree.cell_first[-1], tree.first_leaf[-1]) == (source.n, leaves)
    assert len(tree.cell_first) == len(tree.first_leaf) == cells + 1
    for cell in range(cells):
        rows = tree.cell_first[cell + 1] - tree.cell_first[cell]
        assert (tree.first_leaf[cell + 1] > tree.first_leaf[cell]) == (rows > 0)
    homes = clustering.assign_homes(source, tree, pool, silent)
    assert homes.shape == (source.n, COPIES)
    assert ((homes >= -1) & (homes < leaves)).all()
    assert (homes[:, 0] >= 0).all(), "every row has a first home"
    for row in homes:
        own = row[row >= 0]
        assert len(set(own.tolist())) == len(own) == min(COPIES, len(own))
    if leaves >= 2 and cells == 1:
        assert (homes >= 0).all()
    if cells == 1:
        squares = ((source.x[:, None].astype(np.float64) - tree.leaves[None]) ** 2).sum(axis=2)
        first = squares[np.arange(source.n), homes[:, 0]]
        scale = np.square(source.x).sum(axis=1) + 1e-12
        assert (first - squares.min(axis=1) <= 1e-4 * scale).all(), "the nearest leaf is home"


def test_same_seed_same_tree(pool: ThreadPoolExecutor) -> None:
    source = Array(clustered(3_000, 6))
    one, two = (clustering.train_tree(source, 5, pool, silent) for _ in range(2))
    assert one.leaves.tobytes() == two.leaves.tobytes()
    assert one.order.tolist() == two.order.tolist()


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-1, 4)), min_size=1, max_size=80),
    st.integers(1, 30),
)
def test_limit_drops_copies_and_never_first_homes(pairs: list[tuple[int, int]], limit: int) -> None:
    homes = np.array([(a, b if b != a else -1) for a, b in pairs], np.int32)
    limited = clustering.limit_postings(homes.copy(), 5, limit)
    assert (limited[:, 0] == homes[:, 0]).all()
    changed = limited != homes
    assert (limited[changed] == -1).all()
    for posting in range(5):
        before, after = (homes == posting).sum(), (limited == posting).sum()
        firsts = (homes[:, 0] == posting).sum()
        assert after == before if before <= limit else after == max(limit, firsts)


@given(n=st.integers(1, 40), dim=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_chain(n: int, dim: int, seed: int) -> None:
    """Each vector once, and each the nearest to that before it of those left."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim), np.float32)
    at = rng.standard_normal(dim, np.float32)
    order = clustering.chain(x, at)
    assert sorted(order.tolist()) == list(range(n))
    for i in range(n):
        apart = np.square(x[order[i:]] - at).sum(axis=1)
        assert apart[0] <= apart.min() * 1.0001 + 1e-5
        at = x[order[i]]
