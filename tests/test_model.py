"""Random histories: whatever is done to a collection, it answers like a dict of rows.

Limits are so small that bulk loads, flushes of the row log, fragments, retraining and two levels of
centroids all happen within a few rows. Vectors hold small integers: distances are exact in float32
and ties are common.
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
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import vecstore
from tests.conftest import examples
from tests.naive import Model, distances
from tests.store_checks import small_limits

DIM = 3
CODECS = ["rabitq1", "rabitq3", "int8", "int4", "float32", "float16", "pq2", "opq1"]
RAW = ["float32", "float16", "int8"]
numbers = st.integers(0, 120)
id_sets = st.one_of(
    st.lists(numbers, max_size=6, unique=True),
    st.tuples(numbers, st.integers(30, 90)).map(lambda s: list(range(s[0], s[0] + s[1]))),
)
seeds = st.integers(0, 2**32 - 1)
metadata_values = st.none() | st.dictionaries(
    st.sampled_from("abc"), st.integers(-(2**63), 2**64 - 1), max_size=2
)
documents = st.none() | st.text(max_size=5)


class CollectionMachine(RuleBasedStateMachine):
    """Upsert, add, delete, read, reopen, against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        small_limits(self.patch, bulk=40, log=25, posting=6, pages=6)
        self.folder = Path(tempfile.mkdtemp())
        self.store: vecstore.Store | None = None

    @initialize(
        metric=st.sampled_from(["l2", "ip"]),
        codec=st.sampled_from(CODECS),
        raw=st.sampled_from(RAW),
        is_int=st.booleans(),
    )
    def create(self, metric: str, codec: str, raw: str, is_int: bool) -> None:
        self.is_int = is_int
        self.store = vecstore.open(self.folder)
        self.docs = self.store.collection("docs", dim=DIM, metric=metric, codec=codec, raw=raw)
        self.model = Model(DIM, metric, raw)

    def named(self, ids: list[int]) -> list[Any]:
        return ids if self.is_int else [f"id {i}" for i in ids]

    @staticmethod
    def draw_vectors(n: int, seed: int) -> Any:
        return np.random.default_rng(seed).integers(-3, 4, (n, DIM)).astype(np.float32)

    def draw_rows(self, n: int, seed: int) -> Any:
        """Vectors to store: what comes back are small whole numbers, in every raw form."""
        rows = self.draw_vectors(n, seed)
        return rows * np.float32(1 + 2**-12) if self.model.raw == "float16" else rows

    @rule(ids=id_sets, seed=seeds, data=st.data(), plain=st.booleans())
    def upsert(self, ids: list[int], seed: int, data: st.DataObject, plain: bool) -> None:
        keys, vectors = self.named(ids), self.draw_rows(len(ids), seed)
        metadata = texts = None
        if not plain and len(ids) < 10:
            metadata = [data.draw(metadata_values) for _ in ids]
            texts = [data.draw(documents) for _ in ids]
        elif not plain:
            metadata = [{"n": i} if i % 2 else None for i in ids]
        self.docs.upsert(keys, vectors, metadata, texts)
        self.model.upsert(keys, vectors, metadata, texts)

    @rule(ids=id_sets, seed=seeds)
    def add(self, ids: list[int], seed: int) -> None:
        keys, vectors = self.named(ids), self.draw_rows(len(ids), seed)
        if any(key in self.model.rows for key in keys):
            with pytest.raises(vecstore.DuplicateIdError):
                self.docs.add(keys, vectors)
        else:
            self.docs.add(keys, vectors)
            self.model.upsert(keys, vectors)

    @rule()
    def compact(self) -> None:
        """Nothing changes but where things stand."""
        self.docs.compact()
        stats = self.docs.stats()
        assert stats["dead_rows"] == stats["tail_rows"] == 0

    @rule(ids=id_sets)
    def delete(self, ids: list[int]) -> None:
        keys = self.named(ids)
        assert self.docs.delete(keys) == self.model.delete(keys)

    @rule(ids=id_sets)
    def get(self, ids: list[int]) -> None:
        keys = self.named(ids)
        hits, rows = self.docs.get(keys), self.model.get(keys)
        found = [None if hit is None else (hit.id, hit.metadata, hit.document) for hit in hits]
        wanted = [
            None if row is None else (key, row.metadata, row.document)
            for key, row in zip(keys, rows, strict=True)
        ]
        assert found == wanted
        known = [key for key in keys if key in self.model.rows]
        expected = [self.model.rows[key].vector.tolist() for key in known]
        assert self.docs.vectors(known).tolist() == expected

    @rule(seed=seeds, k=st.sampled_from([1, 2, 7, 50, 300]))
    def query_exact(self, seed: int, k: int) -> None:
        (vector,) = self.draw_vectors(1, seed)
        hits = self.docs.query(vector, k=k, recall=1.0, include=("metadata", "document", "vector"))
        assert [(hit.id, hit.distance) for hit in hits] == self.model.query(vector, k)
        for hit in hits:
            row = self.model.rows[hit.id]
            assert (hit.metadata, hit.document) == (row.metadata, row.document)
            assert hit.vector is not None
            assert hit.vector.tolist() == row.vector.tolist()

    @rule(seed=seeds, k=st.sampled_from([1, 3, 20, 300]), recall=st.sampled_from([0.01, None]))
    def query(self, seed: int, k: int, recall: float | None) -> None:
        """Whatever the recall: live rows only, each once, as many as there are, true distances."""
        (vector,) = self.draw_vectors(1, seed)
        hits = self.docs.query(vector, k=k, recall=recall)
        assert len(hits) == min(k, len(self.model.rows))
        assert len({hit.id for hit in hits}) == len(hits)
        found = [hit.distance for hit in hits]
        assert found == sorted(found)
        if hits:
            rows = [self.model.rows[hit.id].vector for hit in hits]
            assert found == distances(self.model.metric, vector, rows).tolist()
        order = {key: place for place, key in enumerate(self.model.rows)}
        places = [(hit.distance, order[hit.id]) for hit in hits]
        assert places == sorted(places), "ties come by insertion"

    @rule(seed=seeds, n=st.sampled_from([0, 1, 3, 40]), k=st.sampled_from([1, 5, 200]))
    def search(self, seed: int, n: int, k: int) -> None:
        vectors = self.draw_vectors(n, seed)
        result = self.docs.search(vectors, k=k, recall=1.0)
        assert result.ids.shape == result.distances.shape == (n, k)
        for i, vector in enumerate(vectors):
            wanted = self.model.query(vector, k)
            assert result.ids[i, : len(wanted)].tolist() == [key for key, _ in wanted]
            assert result.distances[i, : len(wanted)].tolist() == [d for _, d in wanted]
            empty = -1 if result.ids.dtype == np.int64 else None
            assert set(result.ids[i, len(wanted) :].tolist()) <= {empty}
            assert np.isposinf(result.distances[i, len(wanted) :]).all()

    @rule()
    @precondition(lambda self: self.store is not None)
    def reopen(self) -> None:
        assert self.store is not None
        self.store.close()
        self.store = vecstore.open(self.folder)
        self.docs = self.store.collection("docs")

    @invariant()
    def counts(self) -> None:
        if self.store is not None:
            assert self.docs.count() == len(self.docs) == len(self.model.rows)

    def teardown(self) -> None:
        try:
            if self.store is not None:
                assert self.store.check() == []
                self.store.close()
        finally:
            self.patch.undo()
            shutil.rmtree(self.folder)


TestCollection = CollectionMachine.TestCase
TestCollection.settings = settings(max_examples=examples(100), stateful_step_count=50)
