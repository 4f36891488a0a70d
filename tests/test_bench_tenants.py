"""The benchmarks of tenants and filters: their generators, truths, divisions, a tiny contest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import filters
from bench.channel import BenchError
from bench.filter_arms import clauses, sql
from bench.tenants import contest, divide, report, workloads
from bench.tenants.model import Asked, Workload
from bench.tenants.records import Record, load_records
from bench.tenants.truth import Truth, exact, hits, strangers

DATASET = "synthetic-4000x8"


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data cache."""
    monkeypatch.setenv("VECSTORE_DATA", str(tmp_path / "data"))
    return tmp_path


def sound(made: Workload) -> None:
    """Every row has an owner that sees it, no tenant a row twice, queries are held out."""
    n = len(made.base)
    assert made.heat.sum() == pytest.approx(1.0)
    for tenant in range(made.tenants):
        rows = made.rows_of(tenant)
        assert (np.diff(rows) > 0).all()
        owned = np.flatnonzero(made.owner == tenant)
        assert np.isin(owned, rows).all()
    assert ((made.owner >= 0) & (made.owner < made.tenants)).all()
    stored = {row.tobytes() for row in made.base}
    for asked in made.asked.values():
        assert len(asked.vectors) == len(asked.tenants)
        assert not any(row.tobytes() in stored for row in asked.vectors[:50])
    assert len(made.column()) == n
    assert sum(map(len, made.column())) == len(made.rows)


def same(a: Workload, b: Workload) -> bool:
    return (
        np.array_equal(a.rows, b.rows)
        and np.array_equal(a.owner, b.owner)
        and all(np.array_equal(a.asked[n].vectors, b.asked[n].vectors) for n in a.asked)
        and all(np.array_equal(a.asked[n].tenants, b.asked[n].tenants) for n in a.asked)
    )


def test_w1_shares_rows_and_has_homes() -> None:
    made = workloads.w1(DATASET, tenants=300, queries=60)
    sound(made)
    sizes = made.sizes
    assert len(made.rows) / len(made.base) == pytest.approx(13.0, rel=0.05)
    assert sizes.max() <= workloads.ROWS_SHARE_MAX * len(made.base) * 1.05
    assert sizes[0] > 2 * sizes[-1]
    largest = set(np.argsort(-sizes)[: workloads.LARGEST].tolist())
    assert set(made.asked["largest"].tenants.tolist()) <= largest
    # a tenant's rows lie closer together than rows drawn anywhere
    small = made.base[made.rows_of(299)]
    anywhere = made.base[np.random.default_rng(0).choice(len(made.base), len(small))]
    assert small.var(axis=0).sum() < 0.95 * anywhere.var(axis=0).sum()


def test_w2_has_a_whale_and_many_small_ones() -> None:
    made = workloads.w2(DATASET, tenants=500, queries=300)
    sound(made)
    assert len(made.rows) == len(made.base)
    assert made.sizes[0] == round(0.3 * len(made.base))
    assert made.sizes.min() >= 1
    assert sorted(made.asked["each"].tenants.tolist()) == list(range(500))
    assert (made.sizes[made.asked["small"].tenants] <= 12).all()
    with pytest.raises(BenchError, match="two rows a tenant"):
        workloads.w2(DATASET, tenants=3_000)


def test_w3_users_see_the_union_of_their_roles() -> None:
    made = workloads.w3(DATASET, roles=20, users=60, queries=50, role_rows=500)
    sound(made)
    assert len(made.rows_of(0)) == 500
    assert made.owner.max() < 20
    for user, roles in enumerate(made.facts["unions"], 20):
        expected = np.flatnonzero(np.isin(made.owner, roles))
        assert np.array_equal(made.rows_of(user), expected)
    users = len(made.rows) - len(made.base)
    assert users / (len(made.base) - 500) == pytest.approx(20.0, rel=0.35)


def test_generators_are_determined_by_their_seed() -> None:
    for generate in (workloads.w1, workloads.w3):
        one, two = generate(DATASET, queries=30), generate(DATASET, queries=30)
        assert same(one, two)
        assert not same(one, generate(DATASET, queries=30, seed=2))


def test_sizes_keep_their_bounds() -> None:
    sizes = workloads.capped_sizes(100, 1.0, 10_000, 900, 10)
    assert sizes.sum() == pytest.approx(10_000, rel=0.02)
    assert sizes.max() <= 900
    assert sizes.min() >= 10
    assert (np.diff(sizes) <= 0).all()


def test_a_workload_survives_its_files(tmp_path: Path) -> None:
    made = workloads.w1(DATASET, tenants=20, queries=10)
    made.save(tmp_path / "w")
    back = Workload.open(tmp_path / "w")
    assert same(made, back)
    assert back.described() == made.described()


def test_truth_is_exact_within_the_tenant() -> None:
    made = workloads.w1(DATASET, tenants=20, queries=15)
    asked = made.asked["heat"]
    truth = exact(made, asked, 10)
    for query, tenant, ids in zip(asked.vectors, asked.tenants, truth.ids, strict=True):
        rows = made.rows_of(int(tenant))
        apart = ((made.base[rows].astype(float) - query) ** 2).sum(axis=1)
        assert set(ids) == set(rows[np.argsort(apart)[:10]].tolist())
    assert hits(made, asked, truth, truth.ids).mean() == 1.0
    assert strangers(truth.ids, asked, made.rows_of) == 0
    wrong = np.setdiff1d(np.arange(len(made.base)), made.rows_of(int(asked.tenants[0])))
    ids = truth.ids.copy()
    ids[0, 0] = wrong[0]
    assert strangers(ids, asked, made.rows_of) == 1


def test_best_first_never_passes_over_a_nearer_node() -> None:
    centroids = np.array([[0], [1], [5], [4], [6], [2]], np.float32)
    parents = [-1, 0, 0, 1, 1, 2]  # 1 and 2 under the root, 3 and 4 under 1, 5 under 2
    search = divide._BestFirst(centroids, np.zeros(6, np.float32), parents, [3, 4, 5])
    order, scored = search.plain(np.zeros(1, np.float32))
    assert order.tolist() == [0, 2, 1]  # 5 hides behind 2, which is farther than 3
    assert scored.tolist() == [5, 6, 6]


def test_a_tenant_stands_at_the_highest_nodes_that_hold_few_enough() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3_000, 6)).astype(np.float32)
    tree = divide.SharedTree(x, 64)
    rows = np.sort(rng.choice(3_000, 1_500, replace=False))
    made = tree.divide(x[rows], rows)
    assert np.array_equal(np.sort(np.concatenate(made.members)), np.arange(1_500))
    assert max(map(len, made.members)) <= divide.SHORTLIST_ROWS
    few = tree.divide(x[rows[:100]], rows[:100])
    assert [len(own) for own in few.members] == [100]


def test_every_division_finds_all_when_all_is_scanned() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((3_000, 40)).astype(np.float32)
    rows = np.arange(3_000)
    tree = divide.SharedTree(x, 64)
    for make in (divide.divide_own, divide.divide_kmeans, tree.divide):
        made = make(x, rows)
        assert np.array_equal(np.unique(np.concatenate(made.members)), rows)
        for order in made.order.values():
            postings, scored = order(x[0])
            assert sorted(postings.tolist()) == list(range(len(made.members)))
            assert (np.diff(scored) >= 0).all()


def test_the_point_at_the_target_is_the_quickest_that_reaches_it() -> None:
    points = [
        {"recall": 0.90, "mean_us": 50.0, "p50_us": 50.0},
        {"recall": 0.96, "mean_us": 80.0, "p50_us": 79.0},
        {"recall": 0.99, "mean_us": 79.0, "p50_us": 90.0},
        {"recall": 1.00},
    ]
    best = contest.at_target(points)
    assert best is not None
    assert best["recall"] == 0.96
    assert 50 < best["interpolated"]["mean_us"] < 80
    assert contest.at_target(points[:1]) is None


def test_filters_mean_the_same_everywhere() -> None:
    known = filters.columns(50_000, 1)
    for share in filters.SELECTIVITIES:
        for form, condition in filters.forms(share).items():
            found = filters.meets(condition, known).mean()
            assert found == pytest.approx(share, rel=0.2, abs=2e-4), (share, form)
    condition = ["and", ["eq", "tier", "t0.1"], ["not", ["lt", "a", 5]]]
    assert clauses(condition, 0.5) == {"$and": [{"tier": "t0.1"}, {"$not": {"a": {"$lt": 5.5}}}]}
    assert sql(condition, 0.0) == "(tier = 't0.1' AND (NOT a < 5))"


def test_a_tiny_contest_from_build_to_report(cached: Path) -> None:
    made = workloads.w1(DATASET, tenants=20, queries=20)
    truths: dict[str, Truth] = {name: exact(made, a, 10) for name, a in made.asked.items()}
    out = cached / "out"
    record = Record(out, "w1", {"k": 10, "repeats": 2})
    said: list[object] = []
    terms = contest.Terms(10, 2, 30.0)
    arms = ["vecstore", "faiss-ivf-shared"]
    (cached / "work").mkdir()
    contest.Contest(
        made, truths, made.rows_of, arms, record, cached / "work", terms, said.append
    ).run()
    record.complete()
    stored = load_records(out)["w1"]
    assert stored["complete"]
    for name in arms:
        arm = stored["arms"][name]
        assert arm["status"] == "ok", (arm, said)
        for found in arm["sets"].values():
            assert found["at_target"]["recall"] >= 0.95
            assert all(point["strangers"] == 0 for point in found["curve"])
            with np.load(out / found["file"]) as arrays:
                assert arrays["latency_ns"].shape[2] == 20
        assert arm["memory"]["after_queries"] > arm["memory"]["baseline"]
        assert arm["build"]["disk_bytes"] > made.base.nbytes
    text = report.write(out).read_text("utf-8")
    assert "W1" in text
    assert "faiss-ivf-shared" in text


def test_an_arm_that_is_not_installed_is_skipped(cached: Path) -> None:
    made, known = filters.workload(DATASET, None, 5, 1)
    kept = {name: made.asked[name] for name in list(made.asked)[:1]}
    (cached / "work").mkdir()
    record = Record(cached / "out", "filters", {"k": 10, "repeats": 1})
    one = Asked(made.asked["1.00% new"].vectors, made.asked["1.00% new"].tenants)
    assert (one.tenants == one.tenants[0]).all()
    assert kept
    assert set(known) == {"tier", "a", "b"}
    race = contest.Contest(
        made,
        {},
        made.rows_of,
        ["vecstore"],
        record,
        cached / "work",
        contest.Terms(),
        print,
        "bench.no_such_module",
    )
    race.run()
    assert record.data["arms"]["vecstore"]["status"] == "skipped"
