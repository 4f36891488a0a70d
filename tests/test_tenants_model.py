"""Random histories of several tenants: each answers like a dictionary of what it may see.

The same few ids are used by all tenants, so that confusion shows; limits are so small that lists,
single runs, trees, flushes, pending grants and revoked entries all happen within a few rows.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import vecstore
from tests.conftest import examples
from tests.naive_tenants import ForeignError, TakenError, Tenants
from tests.store_checks import small_limits
from vecstore.facts import Edit

DIM = 3
NAMES = ["a", "b", "ä\0*", "d" * 200]
CODECS = ["rabitq1", "rabitq3", "int8", "float16"]
names = st.sampled_from(NAMES)
numbers = st.integers(0, 60)
id_sets = st.one_of(
    st.lists(numbers, max_size=6, unique=True),
    st.tuples(numbers, st.integers(20, 70)).map(lambda s: list(range(s[0], s[0] + s[1]))),
)
seeds = st.integers(0, 2**32 - 1)


class Dead(BaseException):
    """Where a process is taken to end."""


def copied(source: str, to: str) -> None:
    """Copy a file, unless it goes meanwhile: then nothing that is committed names it."""
    with suppress(FileNotFoundError):
        shutil.copyfile(source, to)


class TenantsMachine(RuleBasedStateMachine):
    """Upsert, load, delete, grant, revoke, drop, crash, read, reopen, against the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        small_limits(self.patch, bulk=40, log=25, posting=6, pages=6)
        # a process for each check of so many would take longer than all else
        self.patch.setattr("vecstore.storage.walk_facts", lambda folder: "")
        self.patch.setattr("vecstore.calibrate.TENANT_QUERIES", 4)
        self.patch.setattr("vecstore.dropping.REMOVED_MAX", 4)
        self.folder = Path(tempfile.mkdtemp())
        self.store: vecstore.Store | None = None

    @initialize(
        metric=st.sampled_from(["l2", "ip"]), codec=st.sampled_from(CODECS), is_int=st.booleans()
    )
    def create(self, metric: str, codec: str, is_int: bool) -> None:
        self.is_int = is_int
        self.store = vecstore.open(self.folder)
        self.docs = self.store.collection("docs", dim=DIM, metric=metric, codec=codec, tenants=True)
        self.model = Tenants(metric)

    def named(self, ids: list[int]) -> list[Any]:
        return ids if self.is_int else [f"id {i}" for i in ids]

    @staticmethod
    def draw(n: int, seed: int) -> Any:
        return np.random.default_rng(seed).integers(-3, 4, (n, DIM)).astype(np.float32)

    @rule(name=names, ids=id_sets, seed=seeds)
    def upsert(self, name: str, ids: list[int], seed: int) -> None:
        keys, vectors = self.named(ids), self.draw(len(ids), seed)
        metadata = [{"n": i, "of": name} for i in ids]
        try:
            self.model.upsert(name, keys, vectors, metadata)
        except ForeignError:
            with pytest.raises(vecstore.ReadOnlyError):
                self.docs.tenant(name).upsert(keys, vectors, metadata)
        else:
            self.docs.tenant(name).upsert(keys, vectors, metadata)

    @rule(first=numbers, n=st.integers(1, 90), seed=seeds, share=st.sampled_from([0.0, 0.3, 1.0]))
    def load(self, first: int, n: int, seed: int, share: float) -> None:
        """New rows of all tenants in one call, some of them granted."""
        rng = np.random.default_rng(seed)
        keys, vectors = (
            self.named(list(range(1_000 + first, 1_000 + first + n))),
            self.draw(n, seed),
        )
        column = []
        for _ in range(n):
            order = rng.permutation(NAMES).tolist()
            column.append(order[: 1 + int(rng.random() < share) * int(rng.integers(1, 4))])
        known = {key for own in self.model.seen.values() for key in own}
        if known & set(keys):
            return
        self.docs.load(vectors, keys, tenants=column)
        for key, vector, (owner, *others) in zip(keys, vectors, column, strict=True):
            self.model.upsert(owner, [key], [vector])
            for other in others:
                self.model.grant(owner, [key], other)

    @rule(name=names, ids=id_sets)
    def delete(self, name: str, ids: list[int]) -> None:
        keys = self.named(ids)
        try:
            expected = self.model.delete(name, keys)
        except ForeignError:
            with pytest.raises(vecstore.ReadOnlyError):
                self.docs.tenant(name).delete(keys)
        else:
            assert self.docs.tenant(name).delete(keys) == expected

    @rule(name=names, ids=id_sets, to=names)
    def grant(self, name: str, ids: list[int], to: str) -> None:
        if name == to:
            return
        keys = self.named(ids)
        try:
            expected = self.model.grant(name, keys, to)
        except ForeignError:
            with pytest.raises(vecstore.ReadOnlyError):
                self.docs.tenant(name).grant(keys, to=to)
        except TakenError:
            with pytest.raises(vecstore.DuplicateIdError):
                self.docs.tenant(name).grant(keys, to=to)
        else:
            assert self.docs.tenant(name).grant(keys, to=to) == expected

    @rule(name=names, ids=id_sets, to=names)
    def revoke(self, name: str, ids: list[int], to: str) -> None:
        if name != to:
            keys = self.named(ids)
            expected = self.model.revoke(name, keys, to)
            assert self.docs.tenant(name).revoke(keys, from_=to) == expected

    @rule(name=names)
    def drop(self, name: str) -> None:
        self.docs.drop_tenant(name)
        self.model.drop(name)
        assert name not in self.docs.tenants()

    @rule(name=names, ids=id_sets)
    def get(self, name: str, ids: list[int]) -> None:
        keys = self.named(ids)
        own = self.model.seen.get(name, {})
        found = [
            None if hit is None else (hit.id, hit.tenant, hit.metadata)
            for hit in self.docs.tenant(name).get(keys)
        ]
        assert found == [
            (key, own[key].owner, own[key].metadata) if key in own else None for key in keys
        ]
        known = [key for key in keys if key in own]
        vectors = self.docs.tenant(name).vectors(known)
        assert vectors.tolist() == [own[key].vector.tolist() for key in known]

    @rule(
        scope=st.lists(names, min_size=1, max_size=3, unique=True),
        seed=seeds,
        k=st.sampled_from([1, 7, 300]),
    )
    def query(self, scope: list[str], seed: int, k: int) -> None:
        (vector,) = self.draw(1, seed)
        wanted = self.model.query(scope, vector, k)
        view = self.docs.tenant(*scope)
        hits = view.query(vector, k=k, recall=1.0)
        assert [(hit.id, hit.tenant, hit.distance) for hit in hits] == wanted
        result = view.search([vector], k=k, recall=1.0)
        places = range(len(wanted))
        assert result.tenants is not None
        assert [result.ids[0, i] for i in places] == [key for key, _, _ in wanted]
        assert [result.tenants[0, i] for i in places] == [owner for _, owner, _ in wanted]
        hits = view.query(vector, k=k)
        assert len(hits) == len(wanted)
        allowed = {(key, row.owner) for key, row in self.model.rows(scope)}
        assert {(hit.id, hit.tenant) for hit in hits} <= allowed
        assert len({(hit.id, hit.tenant) for hit in hits}) == len(hits)

    @rule()
    def compact(self) -> None:
        self.docs.compact()
        assert self.docs.stats()["dead_rows"] == 0

    @rule()
    def reopen(self) -> None:
        assert self.store is not None
        self.store.close()
        self.store = vecstore.open(self.folder)
        self.docs = self.store.collection("docs")

    @rule(
        verb=st.sampled_from(["upsert", "load", "delete", "grant", "revoke", "drop", "compact"]),
        name=names,
        to=names,
        ids=id_sets,
        seed=seeds,
    )
    def crash(self, verb: str, name: str, to: str, ids: list[int], seed: int) -> None:
        """The process ends within a call, before its commit: what is on disk then goes on."""
        keys, vectors = self.named(ids), self.draw(len(ids), seed)
        view = self.docs.tenant(name)
        calls: dict[str, Callable[[], Any]] = {
            "upsert": lambda: view.upsert(keys, vectors),
            "load": lambda: self.docs.load(vectors, keys, tenants=[[name, to]] * len(keys)),
            "delete": lambda: view.delete(keys),
            "grant": lambda: view.grant(keys, to=to if to != name else "new"),
            "revoke": lambda: view.revoke(keys, from_=to if to != name else "new"),
            "drop": lambda: self.docs.drop_tenant(name),
            "compact": self.docs.compact,
        }
        left = Path(tempfile.mkdtemp())
        caller, finish = threading.get_ident(), Edit.finish

        def dying(edit: Edit) -> None:
            finish(edit)
            if threading.get_ident() == caller:  # no commit of another thread comes between
                shutil.copytree(self.folder, left, copy_function=copied, dirs_exist_ok=True)
                raise Dead

        with self.patch.context() as patch:
            patch.setattr(Edit, "finish", dying)
            try:
                calls[verb]()
            except Dead:
                pass
            except vecstore.VecstoreError:  # refused, or there was nothing to commit
                shutil.rmtree(left)
                return
            else:
                shutil.rmtree(left)
                return
        assert self.store is not None
        self.store.close()
        shutil.rmtree(self.folder)
        self.folder = left
        self.store = vecstore.open(left)
        self.docs = self.store.collection("docs")
        for own in NAMES:
            asked = self.named(list(range(131)))
            found = self.docs.tenant(own).get(asked)
            known = {hit.id: hit.tenant for hit in found if hit is not None}
            seen = self.model.seen.get(own, {})
            assert known == {key: row.owner for key, row in seen.items() if key in asked}

    @precondition(lambda self: self.store is not None)
    @invariant()
    def sound(self) -> None:
        assert self.store is not None
        assert self.store.check() == []
        for name in NAMES:
            assert len(self.docs.tenant(name)) == len(self.model.seen.get(name, {}))
        assert len(self.docs.tenant(*NAMES)) == len(self.model.rows(NAMES))

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close()
        shutil.rmtree(self.folder)
        self.patch.undo()


TenantsMachine.TestCase.settings = settings(max_examples=examples(18), stateful_step_count=25)
TestTenants = TenantsMachine.TestCase
