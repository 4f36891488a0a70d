"""Write the golden store of the present format: `python -m tests.make_golden`.

It holds what a store may hold (see `fill`), and the answers that it gave; both stand in one archive
under tests/fixtures, which tests/test_golden.py opens with whatever the code has become since.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, small_limits
from vecstore.layout import FORMAT_VERSION

FIXTURES = Path(__file__).parent / "fixtures"
PLAIN = {
    "auto": {"dim": 6, "metric": "l2"},
    "one bit": {"dim": 70, "metric": "cosine", "codec": "rabitq1", "raw": "float16"},
    "four bits": {"dim": 6, "metric": "ip", "codec": "rabitq4", "raw": "int8"},
    "bytes": {"dim": 9, "metric": "l2", "codec": "int8"},
    "halves": {"dim": 9, "metric": "cosine", "codec": "int4", "raw": "int8"},
    "float16": {"dim": 5, "metric": "ip", "codec": "float16"},
    "float32": {"dim": 5, "metric": "l2", "codec": "float32", "raw": "float16"},
    "pq": {"dim": 6, "metric": "cosine", "codec": "pq3"},
    "opq": {"dim": 6, "metric": "l2", "codec": "opq2", "raw": "float16"},
    "tuned": {"dim": 6, "metric": "l2"},
    "only fresh": {"dim": 3, "metric": "l2"},
    "empty": {"dim": 3, "metric": "ip"},
}
TENANTS = {
    "tenants": {"dim": 6, "metric": "l2", "codec": "rabitq2"},
    "tenants, cosine": {"dim": 6, "metric": "cosine", "raw": "int8"},
}
NAMES = ("list", "run", "tree", "guest", "nobody")
FILTERS: list[dict[str, Any]] = [
    {"n": 3},
    {"n": {"$gte": 2}, "even": True},
    {"tags": {"$contains": "b"}},
    {"text": {"$contains": "ö 1"}},
    {"$or": [{"n": {"$in": [0, 4]}}, {"even": {"$exists": False}}]},
    {"n": {"$ne": 1}},
    {"big": 2**53 + 1},
]


def limits(patch: pytest.MonkeyPatch) -> None:
    """Let some ten rows be enough for trees with two levels of centroids."""
    small_limits(patch, pages=6)


def fact(i: int) -> dict[str, Any] | None:
    """Metadata of the row with a number."""
    if i % 11 == 5:
        return None
    own: dict[str, Any] = {"n": i % 5, "text": f"grün, schön {i}", "big": 2**53 + i % 2}
    own |= {"even": i % 2 == 0} if i % 3 else {"tags": ["a", "b"][: i % 4], "deep": {"x": [i]}}
    return own


def put(view: Any, dim: int, ids: Any, *, text: bool = False) -> None:
    """Upsert rows that follow from their ids."""
    ids = list(ids)
    keys = [f"id ø {i}" for i in ids] if text else ids
    vectors = normal(len(ids), dim, seed=ids[0] + len(ids))
    documents = [None if i % 4 == 1 else f"document {i}" for i in ids]
    view.upsert(keys, vectors, [fact(i) for i in ids], documents)


def fill(store: vecstore.Store) -> None:
    """Bulk loads, fragments, replaced, deleted and fresh rows, sparse extents, grants, quotas."""
    for name, options in PLAIN.items():
        docs: Any = store.collection(name, **options)
        dim, text = docs.dim, name in ("auto", "pq")
        if name == "empty":
            continue
        if name == "only fresh":
            put(docs, dim, range(7))
            continue
        put(docs, dim, range(110), text=text)
        docs.delete(where={"n": 2})
        if name in ("auto", "one bit", "bytes"):
            docs.compact()  # leaves sparse extents
        put(docs, dim, range(90, 140), text=text)
        if name == "tuned":
            docs.tune(recall=0.5, codecs=["int8", "rabitq2"])
        put(docs, dim, range(135, 150), text=text)
        docs.delete(["id ø 149"] if text else [149])
    for name, options in TENANTS.items():
        notes: Any = store.collection(name, tenants=True, **options)
        for tenant, count in (("list", 4), ("run", 12), ("tree", 90)):
            put(notes.tenant(tenant), notes.dim, range(count))
        tree = notes.tenant("tree")
        tree.grant(range(20, 50), to="run")
        tree.grant([70, 71], to="guest")
        tree.delete(where={"n": 2})
        notes.compact()
        tree.revoke(range(20, 30), from_="run")
        tree.grant([81], to="run")
        put(tree, notes.dim, range(85, 95))
        put(notes.tenant("list"), notes.dim, [7])
        notes.set_quota("guest", rows=5, k=200)
        put(notes.tenant("dropped"), notes.dim, range(50))
        notes.drop_tenant("dropped")
    store.collection("dropped", dim=3).upsert(range(50), normal(50, 3))
    store.drop("dropped")


def views(store: vecstore.Store) -> dict[str, Any]:
    """All that can be read, by name."""
    found: dict[str, Any] = {name: store.collection(name) for name in PLAIN}
    for name in TENANTS:
        notes = store.collection(name)
        found |= {f"{name}: {tenant}": notes.tenant(tenant) for tenant in NAMES}
        found[f"{name}: all"] = notes.tenant(*NAMES)
    return found


def known_ids(view: Any, name: str) -> list[Any]:
    """Ids of all rows that a view finds."""
    candidates = [f"id ø {i}" if name in ("auto", "pq") else i for i in range(200)]
    return [hit.id for hit in view.get(candidates) if hit is not None]


def answers(view: Any, name: str) -> dict[str, Any]:
    """What a view answers, as JSON values."""
    ids = known_ids(view, name)
    hits = view.get(ids)
    queries = normal(4, view.dim, seed=77)
    exact = view.search(queries, k=12, recall=1.0)
    found = {
        "count": view.count(),
        "ids": ids,
        "tenants": [hit.tenant for hit in hits],
        "metadata": [hit.metadata for hit in hits],
        "documents": [hit.document for hit in hits],
        "exact": exact.ids.tolist(),
        "distances": [[float(x) for x in row if x < np.inf] for row in exact.distances],
        "everything": sorted(hit.id for hit in view.query(queries[0], k=200, recall=0.5)),
        "counts": [view.count(where=where) for where in FILTERS],
        "filtered": [
            [hit.id for hit in view.query(queries[1], k=200, where=where, recall=1.0)]
            for where in FILTERS
        ],
    }
    if hasattr(view, "vectors"):
        found["vectors"] = view.vectors(ids).tolist() if ids else []
    return found


def about(store: vecstore.Store) -> dict[str, Any]:
    """What the store says of itself."""
    kept = ("rows", "dead_rows", "postings", "extents", "tail_rows", "codec", "raw", "calibration")
    stats = {name: store.collection(name).stats() for name in store.collections()}
    tuning = store.collection("tuned").tuning()
    assert tuning is not None
    return {
        "collections": store.collections(),
        "tenants": {name: store.collection(name).tenants() for name in TENANTS},
        "stats": {name: {key: one[key] for key in kept} for name, one in stats.items()},
        "tuned": [tuning.chosen.codec, tuning.target, tuning.rows],
    }


def expectations(store: vecstore.Store) -> dict[str, Any]:
    """All answers of a store, as they come back from JSON."""
    views_of = {name: answers(view, name) for name, view in views(store).items()}
    found: dict[str, Any] = json.loads(
        json.dumps(
            {"about": about(store), "answers": views_of}, default=lambda value: value.tolist()
        )
    )
    return found


def pack(folder: Path, target: Path) -> None:
    """Pack a folder's files, without times and owners."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(str(file.relative_to(folder)))
            entry.size = file.stat().st_size
            archive.addfile(entry, io.BytesIO(file.read_bytes()))
    target.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def main() -> None:
    """Write the store, ask it, pack both."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        limits(patch)
        with vecstore.open(folder / "made") as store:
            fill(store)
        (folder / "golden").mkdir()
        with vecstore.open(folder / "made", "r") as store:
            assert store.check() == []
            expected = json.dumps(expectations(store), ensure_ascii=False)
            (folder / "golden" / "expected.json").write_text(expected, encoding="utf-8")
            store.backup(folder / "golden" / "store")
        pack(folder / "golden", FIXTURES / f"golden-v{FORMAT_VERSION}.tar.gz")


if __name__ == "__main__":
    main()
