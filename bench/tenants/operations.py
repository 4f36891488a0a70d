"""Inserting shared rows, granting, revoking, dropping a tenant: seconds of each, by arm.

Runs inside an arm's process.  vecstore commits each call to disk; what the others hold is lost
until all of it is saved, so the seconds of that stand beside.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.tenants.arms import Arm, SharedHnsw, SharedIvf, TenantHnsw, Vecstore
from bench.tenants.model import Workload

I64 = NDArray[np.int64]
SINGLES = 100
MANY = 1_000
SPARE = 8_000
CLOCK = time.perf_counter_ns


def timed(work: Callable[..., Any], cases: Iterable[tuple[Any, ...]]) -> list[float]:
    """Microseconds of each call."""
    found = []
    for case in cases:
        began = CLOCK()
        work(*case)
        found.append((CLOCK() - began) / 1e3)
    return found


def told(microseconds: list[float], rows_each: int = 1) -> dict[str, Any]:
    """Figures of one operation."""
    return {
        "calls": len(microseconds),
        "rows_each": rows_each,
        "p50_us": float(np.percentile(microseconds, 50)),
        "p99_us": float(np.percentile(microseconds, 99)),
        "mean_us": float(np.mean(microseconds)),
    }


@dataclass(frozen=True)
class Script:
    """What is done to every arm, drawn once by seed.

    Attributes
    ----------
    inserted : list of (row, tenants)
        New rows one by one, the owner first.
    bulk : list of (row, tenants)
        New rows in one call.
    grants : list of (row, owner, tenant)
        Of rows that the tenant does not see.
    many : (rows, owner, tenant)
        One grant of many rows.
    dropped : list of int
        Tenants in the order they are dropped.
    """

    inserted: list[tuple[int, list[int]]]
    bulk: list[tuple[int, list[int]]]
    grants: list[tuple[int, int, int]]
    many: tuple[list[int], int, int]
    dropped: list[int]


def script(made: Workload, seed: int = 5) -> Script:
    """Draw the operations."""
    rng = np.random.default_rng(seed)
    sharing = max(1, min(made.tenants, round(len(made.rows) / len(made.base))))
    weight = made.sizes / made.sizes.sum()
    order = np.argsort(-made.sizes, kind="stable")
    dropped = [int(order[int(share * (made.tenants - 1))]) for share in (1.0, 0.5, 0.05)]

    def drawn(number: int) -> tuple[int, list[int]]:
        who = rng.choice(made.tenants, sharing, replace=False, p=weight)
        return number, [int(t) for t in who]

    n = len(made.base)
    inserted = [drawn(n + i) for i in range(SINGLES)]
    bulk = [drawn(n + SINGLES + i) for i in range(MANY)]
    grants: list[tuple[int, int, int]] = []
    while len(grants) < SINGLES:
        row, tenant = int(rng.integers(n)), int(order[rng.integers(made.tenants)])
        own = made.rows_of(tenant)
        at = int(np.searchsorted(own, row))
        if at == len(own) or own[at] != row:
            grants.append((row, int(made.owner[row]), tenant))
    giver = int(np.bincount(made.owner, minlength=made.tenants).argmax())
    taker = int(order[-2])
    owned = np.flatnonzero(made.owner == giver)
    fresh = owned[~np.isin(owned, made.rows_of(taker))][:MANY]
    return Script(inserted, bulk, grants, ([int(r) for r in fresh], giver, taker), dropped)


def vector(made: Workload, number: int) -> Any:
    """The vector of a new row: held out."""
    asked = next(iter(made.asked.values()))
    return np.array(asked.vectors[number % len(asked.vectors)])


def run(arm: Arm) -> dict[str, Any]:
    """Go through the script with one arm; the figures of each operation."""
    if isinstance(arm, Vecstore):
        return _vecstore(arm)
    if isinstance(arm, SharedHnsw):
        arm.open(SPARE)
        return _steps(arm, _HnswSteps(arm))
    if isinstance(arm, SharedIvf):
        arm.open()
        return _steps(arm, _IvfSteps(arm))
    if isinstance(arm, TenantHnsw):
        arm.open(SPARE)
        return _steps(arm, _TenantSteps(arm))
    raise TypeError(type(arm).__name__)


def copied(arm: Arm, name: str) -> Path:
    """A copy of a built store, to be changed."""
    target = arm.folder.with_name(f"{arm.folder.name}-{name}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(arm.folder / "store", target / "store")
    return target


def sync_us(folder: Path) -> float:
    """Median microseconds of writing 4 KB and having them on disk, where the store is."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        found = []
        for _ in range(50):
            began = CLOCK()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            found.append((CLOCK() - began) / 1e3)
    return float(np.median(found))


def _vecstore(arm: Vecstore) -> dict[str, Any]:
    made, plan, k = arm.workload, script(arm.workload), arm.place.k
    arm.folder = copied(arm, "operations")
    out: dict[str, Any] = {"sync_us": sync_us(arm.folder)}
    arm.open("w")
    tenant, names = arm.docs.tenant, arm.names
    query = vector(made, 0)
    for name in names[:20]:
        tenant(name).query(query, k=k)

    def put(number: int, who: list[int]) -> None:
        tenant(names[who[0]]).upsert([number], vector(made, number)[None])

    def share(number: int, who: list[int]) -> None:
        for other in who[1:]:
            tenant(names[who[0]]).grant([number], to=names[other])

    def column(number: int, who: list[int]) -> None:
        row = [[names[t] for t in who]]
        arm.docs.load(vector(made, number)[None], [number], tenants=row)

    half = SINGLES // 2
    out["insert: upsert by the owner"] = told(timed(put, plan.inserted[:half]))
    out["insert: its 12 grants"] = told(timed(share, plan.inserted[:half]))
    out["insert with grants in one load"] = told(timed(column, plan.inserted[half:]))
    bulk = [number for number, _ in plan.bulk]
    vectors = np.stack([vector(made, number) for number in bulk])
    tenants = [[names[t] for t in who] for _, who in plan.bulk]
    load = timed(lambda: arm.docs.load(vectors, bulk, tenants=tenants), [()])
    out["insert of 1,000 with grants"] = told(load, len(bulk))

    def grant(row: int, owner: int, to: int) -> None:
        tenant(names[owner]).grant([row], to=names[to])

    def look(_row: int, _owner: int, to: int) -> None:
        tenant(names[to]).query(query, k=k)

    def revoke(row: int, owner: int, to: int) -> None:
        tenant(names[owner]).revoke([row], from_=names[to])

    granted, looked = [], []
    for case in plan.grants:
        look(*case)
        granted += timed(grant, [case])
        looked += timed(look, [case])
    out["grant"] = told(granted)
    out["query of the grantee after a grant"] = told(looked)
    out["query, nothing changed"] = told(timed(look, plan.grants))
    out["revoke"] = told(timed(revoke, plan.grants))
    rows, owner, to = plan.many
    giver = tenant(names[owner])
    out["grant of 1,000"] = told(timed(lambda: giver.grant(rows, to=names[to]), [()]), len(rows))
    look(0, 0, to)
    out["revoke of 1,000"] = told(
        timed(lambda: giver.revoke(rows, from_=names[to]), [()]), len(rows)
    )
    out["drop"] = _drops(made, plan, lambda t: arm.docs.drop_tenant(names[t]))
    out["after_all_violations"] = [str(v) for v in arm.store.check()][:5]
    arm.close()
    shutil.rmtree(arm.folder, ignore_errors=True)
    return out


def _drops(made: Workload, plan: Script, drop: Callable[[int], Any]) -> list[dict[str, Any]]:
    owned = np.bincount(made.owner, minlength=made.tenants)
    return [
        {
            "rows": int(made.sizes[t]),
            "owned": int(owned[t]),
            "seconds": timed(drop, [(t,)])[0] / 1e6,
        }
        for t in plan.dropped
    ]


class _HnswSteps:
    """A shared hnswlib index and bitmaps of members."""

    def __init__(self, arm: SharedHnsw) -> None:
        self._arm = arm

    def insert(self, number: int, who: list[int]) -> None:
        self._arm.index.add_items(vector(self._arm.workload, number)[None], [number])
        for tenant in who:
            self._arm.members[tenant].add(number)

    def grant(self, row: int, _owner: int, to: int) -> None:
        self._arm.members[to].add(row)

    def revoke(self, row: int, _owner: int, to: int) -> None:
        self._arm.members[to].discard(row)

    def drop(self, tenant: int) -> None:
        for row in np.flatnonzero(self._arm.workload.owner == tenant).tolist():
            self._arm.index.mark_deleted(row)
        self._arm.members[tenant].clear()

    def save(self, folder: str) -> None:
        self._arm.index.save_index(f"{folder}/saved")


class _IvfSteps:
    """A shared faiss IVF and bitmaps of members."""

    def __init__(self, arm: SharedIvf) -> None:
        self._arm = arm
        for tenant in range(arm.workload.tenants):
            arm.bitmap(tenant)

    def _mark(self, tenant: int, row: int, on: bool) -> None:
        bits = self._arm.bitmap(tenant)
        bit = np.uint8(1 << (row & 7))
        bits[row >> 3] = bits[row >> 3] | bit if on else bits[row >> 3] & ~bit

    def insert(self, number: int, who: list[int]) -> None:
        x = self._arm.unit(vector(self._arm.workload, number)[None])
        self._arm.index.add_with_ids(x, np.array([number]))
        for tenant in who:
            self._mark(tenant, number, True)

    def grant(self, row: int, _owner: int, to: int) -> None:
        self._mark(to, row, True)

    def revoke(self, row: int, _owner: int, to: int) -> None:
        self._mark(to, row, False)

    def drop(self, tenant: int) -> None:
        rows = np.flatnonzero(self._arm.workload.owner == tenant)
        self._arm.index.remove_ids(self._arm.load("faiss").IDSelectorBatch(rows))
        self._arm.bitmap(tenant)[:] = 0

    def save(self, folder: str) -> None:
        self._arm.load("faiss").write_index(self._arm.index, f"{folder}/saved")


class _TenantSteps:
    """An index per tenant: a row is inserted into each, those of small tenants left out."""

    def __init__(self, arm: TenantHnsw) -> None:
        self._arm = arm

    def insert(self, number: int, who: list[int]) -> None:
        x = vector(self._arm.workload, number)[None]
        for tenant in who:
            if tenant in self._arm.indexes:
                self._arm.indexes[tenant].add_items(x, [number])

    def grant(self, row: int, _owner: int, to: int) -> None:
        if to in self._arm.indexes:
            self._arm.indexes[to].add_items(self._arm.workload.base[row][None], [row])

    def revoke(self, row: int, _owner: int, to: int) -> None:
        if to in self._arm.indexes:
            self._arm.indexes[to].mark_deleted(row)

    def drop(self, tenant: int) -> None:
        self._arm.indexes.pop(tenant, None)

    def save(self, folder: str) -> None:
        for tenant, index in self._arm.indexes.items():
            index.save_index(f"{folder}/{tenant}")


def _steps(arm: Arm, steps: Any) -> dict[str, Any]:
    made, plan = arm.workload, script(arm.workload)
    rows, owner, to = plan.many
    many = [(row, owner, to) for row in rows]
    out: dict[str, Any] = {}
    out["insert with grants in one load"] = told(timed(steps.insert, plan.inserted))
    whole = timed(lambda: [steps.insert(*case) for case in plan.bulk], [()])
    out["insert of 1,000 with grants"] = told(whole, len(plan.bulk))
    out["grant"] = told(timed(steps.grant, plan.grants))
    out["revoke"] = told(timed(steps.revoke, plan.grants))
    out["grant of 1,000"] = told(timed(lambda: [steps.grant(*c) for c in many], [()]), len(many))
    out["revoke of 1,000"] = told(timed(lambda: [steps.revoke(*c) for c in many], [()]), len(many))
    with tempfile.TemporaryDirectory(dir=arm.folder) as folder:
        out["save_all_s"] = timed(steps.save, [(folder,)])[0] / 1e6
    out["drop"] = _drops(made, plan, steps.drop)
    return out


def roles(arm: Vecstore) -> dict[str, Any]:
    """W3: grant and revoke a role of many rows; a user's own index against a union of roles."""
    made, k = arm.workload, arm.place.k
    asked = made.asked["heat"]
    count = int(made.facts["roles"])
    unions: list[list[int]] = made.facts["unions"]
    arm.folder = copied(arm, "roles")
    out: dict[str, Any] = {"sync_us": sync_us(arm.folder)}
    arm.open("w")
    names, tenant = arm.names, arm.docs.tenant
    role = [int(row) for row in made.rows_of(0)]
    user = count
    giver, taker = tenant(names[0]), tenant(names[user])
    taker.query(asked.vectors[0], k=k)
    out["role_rows"], out["user_rows"] = len(role), int(made.sizes[user])
    out["grant the role"] = told(timed(lambda: giver.grant(role, to=names[user]), [()]), len(role))
    ask = [(row,) for row in np.array(asked.vectors[:100])]
    out["first query after"] = told(timed(lambda: taker.query(ask[0][0], k=k), [()]))
    out["queries after"] = told(timed(lambda row: taker.query(row, k=k), ask))
    out["revoke the role"] = told(
        timed(lambda: giver.revoke(role, from_=names[user]), [()]), len(role)
    )
    out["first query after revoke"] = told(timed(lambda: taker.query(ask[0][0], k=k), [()]))
    cases = [
        (names[int(t)], tuple(names[r] for r in unions[int(t) - count]), np.array(row))
        for t, row in zip(asked.tenants[:200], asked.vectors[:200], strict=True)
    ]
    for repeat in range(2):
        granted = timed(lambda user, _union, row: tenant(user).query(row, k=k), cases)
        union = timed(lambda _user, union, row: tenant(*union).query(row, k=k), cases)
        if repeat:
            out["query of a user with grants"] = told(granted)
            out["query of a union of roles"] = told(union)
    arm.close()
    shutil.rmtree(arm.folder, ignore_errors=True)
    return out
