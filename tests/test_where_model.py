"""Random histories under random filters: what matches is what a plain reading of the clause says.

Metadata and clauses are those of tests/filter_checks.py, built so that they meet.  Rows are fresh,
in fragments, divided anew, replaced, granted and revoked, and whether few or many of them match,
a query may go through them exactly or scan for them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import vecstore
from tests.conftest import examples
from tests.filter_checks import rows as metadatas
from tests.filter_checks import wheres
from tests.naive import distances
from tests.naive_filters import holds
from tests.naive_tenants import ForeignError, TakenError, Tenants
from tests.store_checks import failure, small_limits
from vecstore import planning

DIM = 3
NAMES = ["a", "b"]
names = st.sampled_from(NAMES)
scopes = st.sampled_from([("a",), ("b",), ("a", "b")])
numbers = st.integers(0, 50)
id_sets = st.one_of(
    st.lists(numbers, min_size=1, max_size=5, unique=True),
    st.tuples(numbers, st.integers(15, 60)).map(lambda s: list(range(s[0], s[0] + s[1]))),
)
seeds = st.integers(0, 2**32 - 1)
some_metadata = st.lists(metadatas, min_size=1, max_size=6)
plain_wheres = st.one_of(
    wheres,
    st.builds(lambda n: {"n": {"$lt": n}}, numbers),
    st.builds(lambda n: {"n": {"$gte": n}}, numbers),
    st.builds(lambda n: {"n": n}, numbers),
)


class WhereMachine(RuleBasedStateMachine):
    """Upsert, delete by filter, grant, reopen; every filtered read against the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        small_limits(self.patch, bulk=40, log=25, posting=6, pages=6)
        self.patch.setattr("vecstore.calibrate.TENANT_QUERIES", 4)
        cheaper = planning._exact_is_cheaper
        self.scan = False
        self.patch.setattr(
            planning, "_exact_is_cheaper", lambda *args: not self.scan and cheaper(*args)
        )
        self.folder = Path(tempfile.mkdtemp())
        self.store: vecstore.Store | None = None

    @initialize(
        metric=st.sampled_from(["l2", "ip"]),
        codec=st.sampled_from(["rabitq1", "rabitq3", "float16"]),
        tenants=st.booleans(),
        scan=st.booleans(),
    )
    def create(self, metric: str, codec: str, tenants: bool, scan: bool) -> None:
        self.tenants, self.scan = tenants, scan
        self.store = vecstore.open(self.folder)
        self.docs = self.store.collection(
            "docs", dim=DIM, metric=metric, codec=codec, tenants=tenants
        )
        self.model = Tenants(metric)

    def scope(self, asked: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
        """What is read, and whose rows that is in the model; without tenants all are a's."""
        return (self.docs.tenant(*asked), asked) if self.tenants else (self.docs, ("a",))

    def matching(self, asked: tuple[str, ...], where: Any) -> list[tuple[Any, Any]]:
        rows = self.model.rows(asked)
        return [(key, row) for key, row in rows if holds(where, row.metadata)]

    @staticmethod
    def draw(n: int, seed: int) -> Any:
        return np.random.default_rng(seed).integers(-3, 4, (n, DIM)).astype(np.float32)

    @rule(name=names, ids=id_sets, seed=seeds, drawn=some_metadata, numbered=st.booleans())
    def upsert(
        self, name: str, ids: list[int], seed: int, drawn: list[Any], numbered: bool
    ) -> None:
        view, (name, *_) = self.scope((name,))
        metadata = [drawn[place % len(drawn)] for place in range(len(ids))]
        if numbered:
            metadata = [{**(own or {}), "n": i} for own, i in zip(metadata, ids, strict=True)]
        vectors = self.draw(len(ids), seed)
        try:
            self.model.upsert(name, ids, vectors, metadata)
        except ForeignError:
            assert failure(lambda: view.upsert(ids, vectors, metadata), vecstore.ReadOnlyError)
        else:
            view.upsert(ids, vectors, metadata)

    @rule(name=names, where=plain_wheres, ids=st.none() | id_sets)
    def delete(self, name: str, where: Any, ids: list[int] | None) -> None:
        view, (name, *_) = self.scope((name,))
        keys = [key for key, _ in self.matching((name,), where) if ids is None or key in ids]
        try:
            removed = view.delete(ids, where)
        except vecstore.FilterError:
            assert all(holds(where, metadata) for metadata in (None, {"a": 1}, {"n": 1}))
        except vecstore.ReadOnlyError:
            assert any(self.model.seen[name][key].owner != name for key in keys)
        else:
            assert removed == self.model.delete(name, keys) == len(keys)

    @precondition(lambda self: self.tenants)
    @rule(name=names, ids=id_sets, revoked=st.booleans())
    def grant(self, name: str, ids: list[int], revoked: bool) -> None:
        other = "b" if name == "a" else "a"
        view = self.docs.tenant(name)
        if revoked:
            assert view.revoke(ids, from_=other) == self.model.revoke(name, ids, other)
            return
        try:
            expected = self.model.grant(name, ids, other)
        except (ForeignError, TakenError) as error:
            kind: Any = vecstore.ReadOnlyError if type(error) is ForeignError else None
            assert failure(lambda: view.grant(ids, other), kind or vecstore.DuplicateIdError)
        else:
            assert view.grant(ids, to=other) == expected

    @rule(
        asked=scopes,
        where=plain_wheres,
        seed=seeds,
        k=st.sampled_from([1, 5, 300]),
        recall=st.sampled_from([None, 0.05, 1.0]),
    )
    def query(
        self, asked: tuple[str, ...], where: Any, seed: int, k: int, recall: float | None
    ) -> None:
        view, asked = self.scope(asked)
        (vector,) = self.draw(1, seed)
        matching = self.matching(asked, where)
        assert view.count(where=where) == len(matching)
        rows = [row.vector for _, row in matching]
        far = distances(self.model.metric, vector, rows) if rows else np.zeros(0)
        wanted = {
            (key, row.owner): (float(d), row.metadata)
            for (key, row), d in zip(matching, far, strict=True)
        }
        hits = view.query(vector, k, where, recall)
        found = [(hit.id, hit.tenant if self.tenants else "a") for hit in hits]
        assert len(found) == len(set(found)) == min(k, len(matching))
        for key, hit in zip(found, hits, strict=True):
            assert (hit.distance, hit.metadata) == wanted[key]
        nearest = [list(wanted)[place] for place in np.argsort(far, kind="stable")[:k]]
        if recall == 1.0 or k > len(matching):
            assert found == nearest
        result = view.search([vector, vector], k, where, recall)
        ids = [key for key, _ in found]
        for turn in range(2):
            assert result.ids[turn, : len(ids)].tolist() == ids
            assert (result.ids[turn, len(ids) :] == -1).all()

    @rule()
    def compact(self) -> None:
        self.docs.compact()

    @rule()
    def reopen(self) -> None:
        assert self.store is not None
        self.store.close()
        self.store = vecstore.open(self.folder)
        self.docs = self.store.collection("docs")

    @precondition(lambda self: self.store is not None)
    @invariant()
    def sound(self) -> None:
        assert self.store is not None
        assert self.store.check() == []

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close()
        shutil.rmtree(self.folder)
        self.patch.undo()


WhereMachine.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=20)
TestWhere = WhereMachine.TestCase
