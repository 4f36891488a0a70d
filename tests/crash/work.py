"""A long random history of calls, the same in every process, and what must be stored after each.

Call `i` depends on the seed and on `i` alone, so a child that was killed leaves nothing to ask it:
who knows how far it came knows what the store must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.naive_tenants import ForeignError, TakenError, Tenants
from tests.store_checks import small_limits

DIM = 4
IDS = 120
SHARED = [f"row {i}" for i in range(40)]
NAMES = "abcd"
MANY = 10_000
SEED = 7
TEMPORARY = "for a while"
VERBS = {
    "upsert": 20,
    "batch": 20,
    "load": 12,
    "delete": 8,
    "delete where": 3,
    "compact": 4,
    "own": 16,
    "load owners": 6,
    "delete own": 4,
    "grant": 8,
    "revoke": 6,
    "drop tenant": 2,
    "compact shared": 3,
    "create": 3,
    "drop": 3,
}
Step = tuple[str, tuple[Any, ...]]
State = dict[str, Any]


def step(number: int, seed: int = SEED) -> Step:
    """Call `number` of the history: a verb and its arguments."""
    if number < 2:
        return ("make docs", "make shared")[number], ()
    rng = np.random.default_rng([seed, number])
    verb = str(rng.choice(list(VERBS), p=np.array(list(VERBS.values())) / sum(VERBS.values())))

    def rows(n: int, ids: int) -> tuple[list[int], Any, list[Any], list[Any]]:
        chosen = rng.choice(ids, n, replace=False).tolist()
        vectors = rng.normal(size=(n, DIM)).astype(np.float32)
        metadata = [{"n": int(i) % 7, "by": number} if i % 3 else None for i in chosen]
        texts = [f"text {number}" if i % 2 else None for i in chosen]
        return chosen, vectors, metadata, texts

    def own(n: int) -> list[str]:
        return [SHARED[i] for i in rng.choice(len(SHARED), n, replace=False)]

    one, other = (str(name) for name in rng.choice(list(NAMES), 2, replace=False))
    if verb in ("upsert", "batch", "load"):
        n = {"upsert": 1, "batch": int(rng.integers(2, 12)), "load": 45}[verb]
        return verb, rows(n, IDS)
    if verb == "delete":
        return verb, (rng.choice(IDS, 6, replace=False).tolist(),)
    if verb == "delete where":
        return verb, (int(rng.integers(0, 7)),)
    if verb == "own":
        n = int(rng.integers(1, 9))
        ids = own(n)
        return verb, (one, ids, rows(n, IDS)[1], [{"n": number % 5}] * n)
    if verb == "load owners":
        n = 42
        owners = [str(name) for name in rng.choice(list(NAMES), n)]
        ids = [f"{name} {i}" for i, name in enumerate(owners)]
        return verb, (owners, ids, rng.normal(size=(n, DIM)).astype(np.float32))
    if verb in ("delete own", "grant", "revoke"):
        return verb, (one, own(8), other)
    return verb, (one,)


@dataclass
class World:
    """What a store must hold."""

    docs: dict[int, tuple[Any, Any, Any]] | None = None
    shared: Tenants | None = None
    temporary: bool = False
    done: int = field(default=0)

    def apply(self, number: int) -> None:
        """Follow one call."""
        verb, args = step(number)
        self.done = number + 1
        if verb == "make docs":
            self.docs = {}
        elif verb == "make shared":
            self.shared = Tenants("l2")
        elif verb in ("create", "drop"):
            self.temporary = verb == "create"
        elif verb in ("upsert", "batch", "load", "delete", "delete where"):
            self._apply_docs(verb, args)
        elif not verb.startswith("compact"):
            self._apply_shared(verb, args)

    def _apply_docs(self, verb: str, args: Any) -> None:
        assert self.docs is not None
        if verb == "delete":
            for key in args[0]:
                self.docs.pop(key, None)
        elif verb == "delete where":
            n = args[0]
            gone = [key for key, (_, about, _) in self.docs.items() if about and about["n"] == n]
            for key in gone:
                del self.docs[key]
        else:
            for key, vector, about, text in zip(*args, strict=True):
                self.docs[key] = (tuple(vector.tolist()), about, text)

    def _apply_shared(self, verb: str, args: Any) -> None:
        model = self.shared
        assert model is not None
        try:
            if verb == "own":
                model.upsert(*args)
            elif verb == "load owners":
                owners, ids, vectors = args
                for name in dict.fromkeys(owners):
                    mine = [i for i, owner in enumerate(owners) if owner == name]
                    model.upsert(name, [ids[i] for i in mine], vectors[mine])
            elif verb == "delete own":
                model.delete(args[0], args[1])
            elif verb == "grant":
                model.grant(*args)
            elif verb == "revoke":
                model.revoke(*args)
            elif verb == "drop tenant":
                model.drop(args[0])
        except (ForeignError, TakenError):
            pass  # refused as a whole

    def state(self) -> State:
        """All that can be read of the store, as `contents` gives it."""
        names = [TEMPORARY] if self.temporary else []
        found: State = {}
        if self.docs is not None:
            names.append("docs")
            found["docs"] = found["docs by search"] = dict(self.docs)
            threes = [key for key, (_, about, _) in self.docs.items() if about and about["n"] == 3]
            found["docs where"] = sorted(threes)
        if self.shared is not None:
            names.append("shared")
            for name in NAMES:
                rows = {
                    key: (row.owner, tuple(row.vector.tolist()), row.metadata)
                    for key, row in self.shared.seen.get(name, {}).items()
                }
                found[f"shared: {name}"] = found[f"shared: {name} by search"] = rows
        found["collections"] = sorted(names)
        return found


def states(count: int) -> list[State]:
    """What must be stored before call 0, after it, after call 1, and so on."""
    world = World()
    found = [deepcopy(world.state())]
    for number in range(count):
        world.apply(number)
        found.append(deepcopy(world.state()))
    return found


def apply(store: vecstore.Store, number: int) -> None:
    """Make one call; what the history has refused must be."""
    verb, args = step(number)
    if verb.startswith("make "):
        store.collection(verb[5:], dim=DIM, tenants=verb == "make shared")
    elif verb == "create":
        store.collection(TEMPORARY, dim=3).upsert([1], np.ones((1, 3)))
    elif verb == "drop":
        if TEMPORARY in store.collections():
            store.drop(TEMPORARY)
    elif verb in ("upsert", "batch", "load", "delete", "delete where", "compact"):
        _apply_docs(store.collection("docs"), verb, args)
    else:
        with suppress(vecstore.ReadOnlyError, vecstore.DuplicateIdError):
            _apply_shared(store.collection("shared"), verb, args)


def _apply_docs(docs: vecstore.Collection, verb: str, args: Any) -> None:
    if verb == "delete":
        docs.delete(args[0])
    elif verb == "delete where":
        docs.delete(where={"n": args[0]})
    elif verb == "compact":
        docs.compact()
    elif verb == "upsert":
        (key,), (vector,), (about,), (text,) = args
        docs.upsert(key, vector, about, text)
    else:
        docs.upsert(*args)


def _apply_shared(shared: vecstore.Collection, verb: str, args: Any) -> None:
    if verb == "own":
        shared.tenant(args[0]).upsert(*args[1:])
    elif verb == "load owners":
        owners, ids, vectors = args
        shared.load(vectors, ids, tenants=owners)
    elif verb == "delete own":
        shared.tenant(args[0]).delete(args[1])
    elif verb == "grant":
        shared.tenant(args[0]).grant(args[1], to=args[2])
    elif verb == "revoke":
        shared.tenant(args[0]).revoke(args[1], from_=args[2])
    elif verb == "drop tenant":
        shared.drop_tenant(args[0])
    else:
        shared.compact()


def reads(store: vecstore.Store) -> dict[str, Callable[[], Any]]:
    """Calls whose answers are known, by name."""
    found: dict[str, Callable[[], Any]] = {"collections": store.collections}
    names = store.collections()
    if "docs" in names:
        docs = store.collection("docs")
        found["docs"] = lambda: _by_id(docs)
        found["docs by search"] = lambda: _by_search(docs)
        found["docs where"] = lambda: sorted(
            hit.id for hit in docs.query(np.ones(DIM), k=MANY, where={"n": 3})
        )
    if "shared" in names:
        shared = store.collection("shared")
        for name in NAMES:
            ids = [*SHARED, *(f"{name} {i}" for name in NAMES for i in range(42))]
            tenant = shared.tenant(name)
            found[f"shared: {name}"] = lambda tenant=tenant, ids=ids: {
                hit.id: (hit.tenant, tuple(tenant.vectors(hit.id).tolist()), hit.metadata)
                for hit in tenant.get(ids)
                if hit is not None
            }
            found[f"shared: {name} by search"] = lambda tenant=tenant: {
                hit.id: (hit.tenant, tuple(hit.vector.tolist()), hit.metadata)
                for hit in tenant.query(
                    np.zeros(DIM), k=MANY, recall=1.0, include=("metadata", "vector")
                )
            }
    return found


def _by_id(docs: vecstore.Collection) -> dict[Any, Any]:
    hits = [hit for hit in docs.get(range(IDS)) if hit is not None]
    vectors = docs.vectors([hit.id for hit in hits]).tolist() if hits else []
    assert docs.count() == len(hits), "a row is counted that is not there"
    return {
        hit.id: (tuple(vector), hit.metadata, hit.document)
        for hit, vector in zip(hits, vectors, strict=True)
    }


def _by_search(docs: vecstore.Collection) -> dict[Any, Any]:
    include = ("metadata", "document", "vector")
    hits = docs.query(np.zeros(DIM), k=MANY, recall=1.0, include=include)
    assert len({hit.id for hit in hits}) == len(hits), "a row is found twice"
    return {hit.id: (tuple(hit.vector.tolist()), hit.metadata, hit.document) for hit in hits}


def contents(store: vecstore.Store) -> State:
    """All that can be read of a store."""
    return {name: read() for name, read in reads(store).items()}


def prepare(folder: Path) -> None:
    """Load the engine, compile its kernels, make few rows enough for everything."""
    import faiss

    faiss.omp_set_num_threads(1)  # a thread of its own would not live on in a child
    patch = pytest.MonkeyPatch()
    small_limits(patch, posting=6, pages=6)
    patch.setattr("vecstore.facts.CHANGES_KEPT", 8)
    patch.setattr("vecstore.dropping.REMOVED_MAX", 4)
    with vecstore.open(folder / "warm") as store:
        for number in range(40):
            apply(store, number)
        store.collection("docs").compact()
        contents(store)
        store.check()
