"""Stores that answer filtered queries, as arms of `bench.tenants.contest`: a scope is a filter.

Every arm indexes the columns that filters ask for.  A filter that is new each time differs from
the one before in an operand between two whole numbers, so nobody can have its rows from before.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.tenants.arms import Arm, Params, Vecstore
from bench.tenants.model import blocks

COLUMNS = ("tier", "a", "b")
BLOCK_ROWS = 20_000
STEP = 1e-6


def clauses(condition: list[Any], shift: float) -> dict[str, Any]:
    """A condition as vecstore's ``where``.

    Parameters
    ----------
    condition : list
        ["eq", field, value], ["lt" or "gte", field, number], ["and" or "or", conditions...],
        ["not", condition].
    shift : float
        Added to operands of "lt".
    """
    kind, *rest = condition
    if kind in ("and", "or"):
        return {f"${kind}": [clauses(part, shift) for part in rest]}
    if kind == "not":
        return {"$not": clauses(rest[0], shift)}
    field, value = rest
    if kind == "eq":
        return {field: value}
    return {field: {f"${kind}": value + shift if kind == "lt" and shift else value}}


def sql(condition: list[Any], shift: float) -> str:
    """A condition as an SQL predicate."""
    kind, *rest = condition
    if kind in ("and", "or"):
        return "(" + f" {kind.upper()} ".join(sql(part, shift) for part in rest) + ")"
    if kind == "not":
        return f"(NOT {sql(rest[0], shift)})"
    field, value = rest
    if kind == "eq":
        return f"{field} = '{value}'"
    sign = {"lt": "<", "gte": ">="}[kind]
    return f"{field} {sign} {value + shift if kind == 'lt' and shift else value}"


class FilterArm(Arm):
    """What all share: filters by number, and a shift for those that are new each time."""

    def prepare(self) -> None:
        known = self.workload.facts["filters"]
        self.conditions = [one["condition"] for one in known]
        self.fresh = [one["fresh"] for one in known]
        self._shifts = itertools.count(1)

    def shift(self) -> float:
        """A shift that no query had before in this process."""
        return next(self._shifts) * STEP % 0.9

    def columns(self) -> dict[str, Any]:
        """Columns of the rows, as numpy arrays."""
        import numpy as np

        folder = Path(self.place.data)
        return {name: np.load(folder / f"column-{name}.npy") for name in COLUMNS}

    def metadata(self, part: slice, columns: dict[str, Any]) -> list[dict[str, Any]]:
        """Dicts of some rows."""
        parts = [columns[name][part].tolist() for name in COLUMNS]
        return [dict(zip(COLUMNS, values, strict=True)) for values in zip(*parts, strict=True)]


class VecstoreFiltered(FilterArm, Vecstore):
    """vecstore: ``docs.query(vector, k=k, recall=r, where=..., include=())``.

    Ids and distances alone, as the other stores are asked for.
    """

    def build(self) -> None:
        made = self.workload
        with self.load("vecstore").open(self.folder / "store") as store:
            docs = store.collection("bench", dim=made.base.shape[1], metric=made.metric)
            rows = self.metadata(slice(None), self.columns())
            docs.load(made.base, metadata=rows)

    def call(self) -> Callable[[int, Any], Any]:
        query, k, recall = self.docs.query, self.place.k, self._recall
        known = [None if c is None else clauses(c, 0) for c in self.conditions]
        conditions, fresh, shift = self.conditions, self.fresh, self.shift

        def ask(scope: int, row: Any) -> Any:
            where = clauses(conditions[scope], shift()) if fresh[scope] else known[scope]
            return query(row, k=k, where=where, recall=recall, include=())

        return ask

    def runtime(self, build: bool) -> bool:
        return False


class LanceFiltered(FilterArm):
    """LanceDB: IVF_PQ with refinement, prefilter, scalar indexes on the columns."""

    modules = ("numpy", "lancedb", "pyarrow")
    packages = ("lancedb", "pyarrow")

    def build(self) -> None:
        import numpy as np

        pa, made = self.load("pyarrow"), self.workload
        dim = int(made.base.shape[1])
        columns = self.columns()

        def table_of(part: slice) -> Any:
            flat = np.ascontiguousarray(made.base[part]).reshape(-1)
            named: dict[str, Any] = {
                "id": pa.array(np.arange(part.start, part.stop)),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), dim),
            }
            named["tier"] = pa.array(columns["tier"][part].tolist())
            named |= {name: pa.array(columns[name][part].astype(np.float64)) for name in "ab"}
            return pa.table(named)

        database = self.load("lancedb").connect(str(self.folder))
        parts = list(blocks(len(made.base), 65_536))
        table = database.create_table("bench", data=table_of(parts[0]))
        for part in parts[1:]:
            table.add(table_of(part))
        config = self.load("lancedb.index")
        table.create_index("vector", config=config.IvfPq(distance_type=made.metric))
        table.create_scalar_index("tier", index_type="BITMAP")
        for name in ("a", "b"):
            table.create_scalar_index(name, index_type="BTREE")
        table.optimize()

    def open(self) -> None:
        self.table = self.load("lancedb").connect(str(self.folder)).open_table("bench")

    def points(self) -> list[Params]:
        grid = ((10, 10), (20, 10), (20, 30), (50, 30), (100, 50), (400, 100))
        return [{"nprobes": n, "refine_factor": f} for n, f in grid]

    def select(self, params: Params, scopes: list[int]) -> None:
        self._params = params

    def _finish(self, query: Any) -> Any:
        query = query.nprobes(self._params["nprobes"])
        return query.refine_factor(self._params["refine_factor"])

    def call(self) -> Callable[[int, Any], Any]:
        search, metric, k = self.table.search, self.workload.metric, self.place.k
        known = [None if c is None else sql(c, 0) for c in self.conditions]
        conditions, fresh, shift, finish = self.conditions, self.fresh, self.shift, self._finish

        def ask(scope: int, row: Any) -> Any:
            query = search(row).distance_type(metric).select(["id"]).limit(k)
            where = sql(conditions[scope], shift()) if fresh[scope] else known[scope]
            if where is not None:
                query = query.where(where, prefilter=True)
            return finish(query).to_arrow()

        return ask

    def ids(self, answer: Any) -> Any:
        return answer["id"].to_numpy()


class LanceExact(LanceFiltered):
    """LanceDB: prefilter by scalar indexes, then exact distances of the rows that match."""

    def points(self) -> list[Params]:
        return [{"exact": 1}]

    def _finish(self, query: Any) -> Any:
        return query.bypass_vector_index()


class QdrantEdge(FilterArm):
    """Qdrant Edge: HNSW (m 16, ef_construct 200) and payload indexes; one search thread."""

    modules = ("numpy", "qdrant_edge")
    packages = ("qdrant-edge-py",)

    def _vectors(self) -> Any:
        q, made = self.load("qdrant_edge"), self.workload
        distance = {"l2": q.Distance.Euclid, "cosine": q.Distance.Cosine}[made.metric]
        return q.EdgeVectorParams(size=int(made.base.shape[1]), distance=distance)

    def build(self) -> None:
        q, made = self.load("qdrant_edge"), self.workload
        config = q.EdgeConfig(
            vectors=self._vectors(),
            hnsw_config=q.HnswIndexConfig(m=16, ef_construct=200, full_scan_threshold=10_000),
            optimizers=q.EdgeOptimizersConfig(default_segment_number=1),
        )
        os.makedirs(self.folder / "shard", exist_ok=True)
        shard = q.EdgeShard.create(str(self.folder / "shard"), config)
        kinds = q.PayloadSchemaType
        for name, kind in (("tier", kinds.Keyword), ("a", kinds.Float), ("b", kinds.Float)):
            shard.update(q.UpdateOperation.create_field_index(name, kind))
        columns = self.columns()
        for part in blocks(len(made.base), BLOCK_ROWS):
            vectors = made.base[part].tolist()
            payloads = self.metadata(part, columns)
            pairs = enumerate(zip(vectors, payloads, strict=True), part.start)
            points = [q.Point(i, vector, payload) for i, (vector, payload) in pairs]
            shard.update(q.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self) -> None:
        q = self.load("qdrant_edge")
        config = q.EdgeConfig(vectors=self._vectors(), max_search_threads=1)
        self.shard = q.EdgeShard.load(str(self.folder / "shard"), config)

    def row(self, vector: Any) -> Any:
        return vector.tolist()

    def points(self) -> list[Params]:
        return [{"hnsw_ef": ef} for ef in (10, 20, 40, 80, 160, 320, 640)]

    def select(self, params: Params, scopes: list[int]) -> None:
        self._search = self.load("qdrant_edge").SearchParams(hnsw_ef=int(params["hnsw_ef"]))

    def _filter(self, condition: list[Any], shift: float) -> Any:
        q = self.load("qdrant_edge")
        kind, *rest = condition
        if kind in ("and", "or"):
            parts = [self._filter(part, shift) for part in rest]
            return q.Filter(must=parts) if kind == "and" else q.Filter(should=parts)
        if kind == "not":
            return q.Filter(must_not=[self._filter(rest[0], shift)])
        field, value = rest
        if kind == "eq":
            condition = q.FieldCondition(key=field, match=q.MatchValue(value))
        else:
            limit = float(value) + (shift if kind == "lt" else 0.0)
            condition = q.FieldCondition(key=field, range=q.RangeFloat(**{kind: limit}))
        return q.Filter(must=[condition])

    def call(self) -> Callable[[int, Any], Any]:
        q, k, params = self.load("qdrant_edge"), self.place.k, self._search
        ask_shard, nearest, request = self.shard.query, q.Query.Nearest, q.QueryRequest
        known = [None if c is None else self._filter(c, 0.0) for c in self.conditions]

        def ask(scope: int, row: Any) -> Any:
            where = known[scope]
            if self.fresh[scope]:
                where = self._filter(self.conditions[scope], self.shift())
            return ask_shard(request(limit=k, query=nearest(row), filter=where, params=params))

        return ask

    def ids(self, answer: Any) -> Any:
        return [point.id for point in answer]

    def info(self) -> dict[str, Any]:
        found = self.shard.info()
        return {"segments": found.segments_count, "indexed": found.indexed_vectors_count}

    def close(self) -> None:
        self.shard.close()


ARMS: dict[str, type[Arm]] = {
    "vecstore": VecstoreFiltered,
    "lancedb-ivfpq": LanceFiltered,
    "lancedb-exact": LanceExact,
    "qdrant-edge": QdrantEdge,
}
