"""Workloads of tenants: who sees which row, who asks, and with what; deterministic by seed.

* **w1**, after Curator (arXiv 2401.07119): many tenants of Zipf sizes, a row shared by 13; a tenant
  draws 70 % of its rows from home cells around a seed cell and 30 % anywhere.
* **w2**, software as a service: very many small tenants, nothing shared, one whale, hot tenants.
* **w3**, access lists: roles own the rows, users see the union of their roles.
* **natural**: the tenants that a dataset brings (WordNet's lexical files).

Query vectors are held out from the rows.
"""

from __future__ import annotations

import numpy as np

from bench.channel import BenchError
from bench.tenants.model import F32, F64, I32, I64, LARGEST, Asked, Workload

CELLS = 4_096
ROWS_PER_CELL_MIN = 32
HOME_SHARE = 0.7
HOME_SURPLUS = 1.5
"""Home cells of a tenant hold at least this many times the rows that it draws from them."""
HOME_CELLS_MIN = 3
ROWS_SHARE_MAX = 0.35
NEAR_QUERIES = 5
SMALL_ROWS = (8, 12)
"""Rows of the tenants that are called ten-row tenants."""


def zipf(count: int, exponent: float) -> F64:
    """Shares that fall with rank to the power of the exponent, summing to one."""
    shares = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    scaled: F64 = shares / shares.sum()
    return scaled


def capped_sizes(count: int, exponent: float, total: int, most: int, least: int = 1) -> I64:
    """Zipf sizes that sum to about `total`, none above `most` or below `least`."""
    if count * least > total:
        least = max(1, total // count)
    shares = zipf(count, exponent)
    low, high = 0.0, float(total) * count
    for _ in range(200):
        scale = (low + high) / 2
        if np.clip(shares * scale, least, most).sum() < total:
            low = scale
        else:
            high = scale
    return np.clip(np.round(shares * high), least, most).astype(np.int64)


def take_rows(name: str, rows: int | None, seed: int) -> tuple[str, F32, F32, I64]:
    """A dataset, or some of its rows drawn by seed: metric, rows, held-out queries, which rows."""
    from bench.data import load

    data = load(name)
    n = len(data.base)
    if rows is not None and rows > n:
        raise BenchError(f"Dataset {name!r} has {n} rows, {rows} were asked for.")
    if rows is None or rows == n:
        picks = np.arange(n)
    else:
        picks = np.sort(np.random.default_rng((seed, 1)).choice(n, rows, replace=False))
    base = np.ascontiguousarray(data.base[picks], np.float32)
    return data.metric, base, np.ascontiguousarray(data.queries, np.float32), picks


def _unit(x: F32, metric: str) -> F32:
    if metric != "cosine":
        return x
    unit: F32 = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def _cells(base: F32, metric: str, seed: int) -> tuple[F32, I64]:
    """Centres of k-means cells, and the cell of each row."""
    import faiss

    count = max(8, min(CELLS, len(base) // ROWS_PER_CELL_MIN))
    x = _unit(base, metric)
    means = faiss.Kmeans(x.shape[1], count, niter=8, seed=seed, verbose=False)
    means.cp.max_points_per_centroid = 40
    means.cp.min_points_per_centroid = 1
    means.train(x)
    centres = np.ascontiguousarray(means.centroids, np.float32)
    return centres, faiss.knn(x, centres, 1)[1][:, 0]


def _grouped(n: int, members: list[I64]) -> tuple[I64, I32]:
    first = np.zeros(len(members) + 1, np.int64)
    first[1:] = np.cumsum([len(own) for own in members])
    rows = np.concatenate([np.sort(own) for own in members]).astype(np.int32)
    assert len(rows) == first[-1]
    assert not len(rows) or rows.max() < n
    return first, rows


def w1(
    dataset: str,
    rows: int | None = None,
    tenants: int = 1_000,
    queries: int = 1_000,
    sharing: float = 13.0,
    seed: int = 1,
) -> Workload:
    """Many tenants of Zipf(1.0) sizes that share rows and have homes."""
    metric, base, held_out, _ = take_rows(dataset, rows, seed)
    rng = np.random.default_rng((seed, 2))
    n = len(base)
    sizes = capped_sizes(tenants, 1.0, round(sharing * n), int(ROWS_SHARE_MAX * n), 10)
    centres, cell = _cells(base, metric, seed)
    by_cell = np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell))[:-1])
    apart = ((centres**2).sum(1), centres)
    members, homes = [], []
    for size in sizes.tolist():
        seed_cell = int(rng.integers(len(by_cell)))
        near = np.argsort(apart[0] - 2 * (apart[1] @ centres[seed_cell]), kind="stable")
        wanted = round(HOME_SHARE * size)
        counts = np.cumsum([len(by_cell[c]) for c in near])
        enough = int(np.searchsorted(counts, HOME_SURPLUS * wanted)) + 1
        home = near[: max(HOME_CELLS_MIN, enough)]
        pool = np.concatenate([by_cell[c] for c in home])
        own = rng.choice(pool, min(wanted, len(pool)), replace=False)
        taken = np.zeros(n, np.bool_)
        taken[own] = True
        rest = rng.choice(np.flatnonzero(~taken), size - len(own), replace=False)
        members.append(np.concatenate([own, rest]))
        homes.append(home)
    members = _cover(n, members, rng)
    first, flat = _grouped(n, members)
    owner = _owners(n, first, flat, rng)
    heat = sizes / sizes.sum()
    found = Workload("w1", metric, base, first, flat, owner, heat)
    order = np.argsort(-found.sizes, kind="stable")
    drawn = {
        "heat": rng.choice(tenants, queries, p=heat),
        "largest": order[rng.integers(0, min(LARGEST, tenants), queries)],
    }
    for name, who in drawn.items():
        vectors = _near_homes(_unit(held_out, metric), held_out, centres, homes, who, rng)
        found.asked[name] = Asked(vectors, who.astype(np.int64))
    found.facts.update(dataset=dataset, seed=seed, cells=len(centres))
    return found


def _cover(n: int, members: list[I64], rng: np.random.Generator) -> list[I64]:
    """Give rows that nobody drew to tenants below the cap, drawn by size."""
    seen = np.zeros(n, np.bool_)
    for own in members:
        seen[own] = True
    missed = np.flatnonzero(~seen)
    if not len(missed):
        return members
    sizes = np.array([len(own) for own in members])
    weight = np.where(sizes < int(ROWS_SHARE_MAX * n) * 0.9, sizes, 0)
    weight = sizes if not weight.any() else weight
    to = rng.choice(len(members), len(missed), p=weight / weight.sum())
    return [np.concatenate([own, missed[to == t]]) for t, own in enumerate(members)]


def _owners(n: int, first: I64, rows: I32, rng: np.random.Generator) -> I32:
    """One of the tenants that see a row, for each row."""
    tenants = np.repeat(np.arange(len(first) - 1, dtype=np.int32), np.diff(first))
    order = rng.permutation(len(rows))
    owner = np.full(n, -1, np.int32)
    owner[rows[order]] = tenants[order]
    assert (owner >= 0).all()
    return owner


def _near_homes(
    unit: F32, held_out: F32, centres: F32, homes: list[I64], who: I64, rng: np.random.Generator
) -> F32:
    """Vectors of queries: 70 % near a home cell of the tenant, the others any."""
    import faiss

    near = faiss.knn(centres, unit, min(NEAR_QUERIES, len(unit)))[1]
    picks = rng.integers(0, len(held_out), len(who))
    for place in np.flatnonzero(rng.random(len(who)) < HOME_SHARE):
        cell = rng.choice(homes[who[place]])
        picks[place] = rng.choice(near[cell])
    return np.ascontiguousarray(held_out[picks])


def w2(
    dataset: str,
    rows: int | None = None,
    tenants: int = 100_000,
    queries: int = 10_000,
    seed: int = 1,
) -> Workload:
    """Very many tenants of Zipf(1.1) sizes, nothing shared, and a whale with 30 % of the rows.

    Tenant 0 is the whale.  Each has one row at least.  Heat is Zipf(1.2) over a random order.
    """
    metric, base, held_out, _ = take_rows(dataset, rows, seed)
    n = len(base)
    if n < 2 * tenants:
        raise BenchError(f"w2 wants two rows a tenant at least; {n} rows, {tenants} tenants.")
    rng = np.random.default_rng((seed, 3))
    whale = round(0.3 * n)
    sizes = capped_sizes(tenants - 1, 1.1, n - whale, n)
    sizes[0] += n - whale - sizes.sum()  # what rounding left over
    first = np.zeros(tenants + 1, np.int64)
    first[1:] = np.cumsum(np.concatenate([[whale], sizes]))
    owner = np.repeat(np.arange(tenants, dtype=np.int32), np.diff(first))
    owner = owner[rng.permutation(n)]
    flat = np.argsort(owner, kind="stable").astype(np.int32)
    heat = np.empty(tenants)
    heat[rng.permutation(tenants)] = zipf(tenants, 1.2)
    found = Workload("w2", metric, base, first, flat, owner, heat)
    small = np.flatnonzero((found.sizes >= SMALL_ROWS[0]) & (found.sizes <= SMALL_ROWS[1]))
    if not len(small):
        small = np.argsort(np.abs(found.sizes - 10), kind="stable")[: max(1, tenants // 10)]
    for name, who in {
        "heat": rng.choice(tenants, queries, p=heat),
        "small": rng.permutation(small)[:1_000],
        "each": rng.permutation(tenants),
    }.items():
        vectors = held_out[rng.integers(0, len(held_out), len(who))]
        found.asked[name] = Asked(np.ascontiguousarray(vectors), who.astype(np.int64))
    found.facts.update(dataset=dataset, seed=seed, small_tenants=len(small))
    return found


def w3(
    dataset: str,
    rows: int | None = None,
    roles: int = 200,
    users: int = 1_000,
    queries: int = 1_000,
    sharing: float = 20.0,
    role_rows: int = 10_000,
    seed: int = 1,
) -> Workload:
    """Access lists: tenants 0 to roles - 1 own the rows, the others are users.

    Role 0 has `role_rows` rows, or a fifth of all if that is less; the others divide the rest by
    Zipf(0.5).  A row is seen by `sharing` users in the mean, beside the role that owns it.
    """
    metric, base, held_out, _ = take_rows(dataset, rows, seed)
    rng = np.random.default_rng((seed, 4))
    n = len(base)
    head = min(role_rows, n // 5)
    sizes = np.concatenate([[head], capped_sizes(roles - 1, 0.5, n - head, n)])
    sizes[1] += n - sizes.sum()
    owner = np.repeat(np.arange(roles, dtype=np.int32), sizes)[rng.permutation(n)]
    own = [np.flatnonzero(owner == role) for role in range(roles)]
    each = sharing * roles / users
    members, unions = list(own), []
    for _ in range(users):
        count = max(1, min(roles - 1, int(rng.poisson(each - 1)) + 1))
        held = np.sort(rng.choice(np.arange(1, roles), count, replace=False))
        unions.append(held.tolist())
        members.append(np.concatenate([own[role] for role in held]))
    first, flat = _grouped(n, members)
    heat = np.concatenate([np.zeros(roles), np.full(users, 1 / users)])
    found = Workload("w3", metric, base, first, flat, owner, heat)
    who = rng.choice(roles + users, queries, p=heat)
    vectors = held_out[rng.integers(0, len(held_out), queries)]
    found.asked["heat"] = Asked(np.ascontiguousarray(vectors), who.astype(np.int64))
    found.facts.update(dataset=dataset, seed=seed, roles=roles, users=users, role_rows=head)
    found.facts["unions"] = unions
    return found


def natural(dataset: str, rows: int | None = None, queries: int = 1_000, seed: int = 1) -> Workload:
    """The tenants that a dataset brings; a query is for the tenant that it belongs to."""
    import datasets

    metric, base, held_out, picks = take_rows(dataset, rows, seed)
    data = datasets.load(dataset)
    if data.tenants is None or data.query_tenants is None:
        raise BenchError(f"Dataset {dataset!r} brings no tenants; wordnet does.")
    known, owner = np.unique(np.asarray(data.tenants)[picks], return_inverse=True)
    number = {int(tenant): place for place, tenant in enumerate(known)}
    members = [np.flatnonzero(owner == t) for t in range(len(known))]
    first, flat = _grouped(len(base), members)
    who = np.array([number.get(int(t), -1) for t in data.query_tenants], np.int64)
    kept = np.flatnonzero(who >= 0)[:queries]
    heat = np.bincount(who[kept], minlength=len(known)) / len(kept)
    found = Workload("natural", metric, base, first, flat, owner.astype(np.int32), heat)
    found.asked["heat"] = Asked(np.ascontiguousarray(held_out[kept]), who[kept])
    found.facts.update(dataset=dataset, seed=seed)
    return found
