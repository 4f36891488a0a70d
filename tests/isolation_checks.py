"""What the tests of isolation share: stores with a victim, its bytes and facts, what is read.

Each store has tenants of every shape of index and a victim "b", who shared rows with the others
and took them back.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import xxhash

from tests.store_checks import normal, small_limits, sound_store
from vecstore import attributes, division, layout
from vecstore.codecs import find_codec
from vecstore.collection import Collection
from vecstore.config import BLOCK_ROWS
from vecstore.layout import HEADER_DTYPE, PAGE, RUN_DTYPE, TENANT_DTYPE, ExtentKind, Kind, Section
from vecstore.lookups import find_tenant
from vecstore.tenant_view import open_tenant
from vecstore.transaction import Transaction

DIM = 64
ROW_BYTES = 4 * DIM
CODEC = "rabitq3"
QUERIES = normal(4, DIM, seed=77)
SMALL = {"list": 12, "run": 40, "tree": 90}
REAL = {"list": 100, "run": 700, "tree": 2_400}
WHERES: list[Any] = [
    {"n": {"$lt": 9}},
    {"n": {"$gte": 5}, "even": True},
    {"of": {"$ne": "nobody"}},
    {"$or": [{"n": {"$in": [1, 2, 3]}}, {"even": False}]},
    {"of": "b"},
]


def facts_of(name: str, ids: list[int]) -> list[dict[str, Any]]:
    return [{"n": i, "of": name, "even": i % 2 == 0} for i in ids]


def build(path: Path, shape: str, sizes: dict[str, int]) -> None:
    """Tenants named by their shapes and a victim "b" of the given one, all with the same ids.

    The last rows of each are fresh, "list" shares some with "tree", and so did "b" with "tree"
    and "tree" with "b".
    """
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM, codec=CODEC, tenants=True)
        shapes = {**{name: name for name in sizes}, "b": shape}
        ids, names, vectors = [], [], []
        for place, (name, own) in enumerate(shapes.items()):
            ids += list(range(sizes[own]))
            names += [name] * sizes[own]
            vectors.append(normal(sizes[own], DIM, seed=place))
        metadata = [facts_of(name, [i])[0] for i, name in zip(ids, names, strict=True)]
        docs.load(np.concatenate(vectors), ids, metadata, ["text"] * len(ids), tenants=names)
        new = range(5_000, 5_008)
        for place, name in enumerate(shapes):
            docs.tenant(name).upsert(new, normal(8, DIM, seed=50 + place), facts_of(name, [*new]))
        b, tree = docs.tenant("b"), docs.tenant("tree")
        b.upsert(range(6_000, 6_006), normal(6, DIM, seed=60), facts_of("b", [*range(6)]))
        b.grant(range(6_000, 6_006), to="tree")
        docs.tenant("list").upsert(range(7_000, 7_006), normal(6, DIM, seed=61))
        docs.tenant("list").grant(range(7_000, 7_006), to="tree")
        tree.upsert(range(8_000, 8_004), normal(4, DIM, seed=62))
        tree.grant(range(8_000, 8_004), to="b")
        n = 42 * sizes["list"]  # enough for a bulk load, which flushes the row log
        docs.load(normal(n, DIM, seed=63), range(20_000, 20_000 + n), tenants=["other"] * n)
        assert docs.stats()["tail_rows"] == 0
        b.revoke(range(6_000, 6_004), from_="tree")
        b.delete([6_004, 6_005])
        tree.revoke([8_000], from_="b")
        for place, name in enumerate(shapes):
            docs.tenant(name).upsert(
                range(5_010, 5_013), normal(3, DIM, seed=70 + place), facts_of(name, [1, 2, 3])
            )
        with docs._core.reader._reading() as (snapshot, transaction):
            for name, own in shapes.items():
                number = find_tenant(transaction, 1, name)
                assert number is not None
                directory = open_tenant(snapshot, transaction, number).index.directory
                assert directory is not None
                found = "list" if directory.listed else "run"
                assert (found if len(directory.postings) == 1 else "tree") == own


class Stores:
    """Stores built once each; every test gets a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, to: Path, shape: str, scale: str) -> Path:
        source = self.folder / f"{shape}-{scale}"
        if not source.exists():
            with pytest.MonkeyPatch.context() as patch:
                if scale == "small":
                    limits(patch)
                build(source, shape, SMALL if scale == "small" else REAL)
        return Path(shutil.copytree(source, to))


def limits(patch: pytest.MonkeyPatch) -> None:
    small_limits(patch, bulk=40, log=60, posting=8, pages=4)
    patch.setattr(division, "LIST_BYTES_MAX", 32 * ROW_BYTES)
    patch.setattr(division, "RUN_ROWS_MAX", 64)
    patch.setattr("vecstore.calibrate.TENANT_QUERIES", 8)


RECALLS = (None, 0.1, 0.8, 1.0)


def answers(view: Any, recalls: Sequence[float | None] = RECALLS) -> Iterator[Any]:
    """What every read verb says."""
    for query in QUERIES:
        for recall in recalls:
            for k in (1, 10, 9_999):
                hits = view.query(query, k, None, recall, ("metadata", "document", "vector"))
                yield [
                    (h.id, h.tenant, h.distance, h.metadata, h.document, tuple(h.vector))
                    for h in hits
                ]
        for where in WHERES:
            hits = view.query(query, 7, where, recalls[0])
            yield [(hit.id, hit.tenant, hit.distance) for hit in hits]
    for recall in recalls:
        for where in (None, *WHERES):
            result = view.search(QUERIES, 12, where, recall)
            assert result.tenants is not None
            yield result.ids.tolist(), result.distances.tolist(), result.tenants.tolist()
    ids = [*range(100), *range(5_000, 5_020), *range(6_000, 6_010), *range(7_000, 7_010), 20_000]
    hits = view.get(ids)
    yield [hit and (hit.id, hit.tenant, hit.metadata, hit.document) for hit in hits]
    yield view.vectors([hit.id for hit in hits if hit]).tolist()
    yield view.table(missing=QUERIES[0])[np.array(ids)].tolist()
    yield view.count(), len(view), [view.count(where=where) for where in WHERES]


def ask(docs: Collection, recalls: Sequence[float | None] = RECALLS) -> list[Any]:
    """What the others than the victim are answered, alone and together."""
    views = [docs.tenant(name) for name in SMALL]
    views += [docs.tenant("tree", "run", "list"), docs.tenant("run", "unknown")]
    return [list(answers(view, recalls)) for view in views]


# --- the victim's bytes and facts ---------------------------------------------------------------


def numbers_of(path: Path) -> dict[str, int]:
    """Numbers of the tenants of the only collection."""
    prefix = layout.key(1, Kind.TENANT_NAME)
    with Facts(path) as transaction:
        found = dict(transaction.scan(prefix))
    return {
        key[len(prefix) :].decode(): layout.U32.unpack(value)[0] for key, value in found.items()
    }


class Facts:
    """A transaction on the facts of a store that is closed; as the project sees them."""

    def __init__(self, path: Path, write: bool = False) -> None:
        self._path = path
        self._environment = lmdb.open(str(path / "facts"), lib_version=0)
        self._transaction = self._environment.begin(write=write)

    def __enter__(self) -> Transaction:
        return Transaction(self._transaction, self._path)

    def __exit__(self, *error: Any) -> None:
        self._transaction.commit()
        self._environment.close()


def rows_by_owner(path: Path) -> dict[int, set[int]]:
    """Live rows of each tenant, its own."""
    found: dict[int, set[int]] = {}
    prefix = layout.key(1, Kind.ID)
    with Facts(path) as transaction:
        for key, value in transaction.scan(prefix):
            if len(value) == 4:
                tenant = layout.U32.unpack_from(key, len(prefix))[0]
                found.setdefault(tenant, set()).add(layout.U32.unpack(value)[0])
    return found


def bytes_of(path: Path, tenant: int) -> dict[str, list[tuple[Path, int, int]]]:
    """Where the bytes lie that belong to a tenant alone: files, offsets and lengths, by kind."""
    owned = rows_by_owner(path)
    own = np.array(sorted(owned[tenant]))
    others = np.array(sorted(set().union(*owned.values()) - owned[tenant]))
    found: dict[str, list[tuple[Path, int, int]]] = {}
    for file in sorted((path / "extents").iterdir()):
        head = np.fromfile(file, HEADER_DTYPE, 1)[0]
        parts = {Section(e["section"]): e for e in head["table"][: int(head["sections"])]}

        def table(section: Section, dtype: Any, file: Path = file, parts: Any = parts) -> Any:
            entry = parts[section]
            count = int(entry["bytes"]) // dtype.itemsize
            return np.fromfile(file, dtype, count, offset=int(entry["offset"]))

        if head["kind"] == ExtentKind.RAW:
            kind, pages = "raw rows", np.arange(int(parts[Section.ROWS]["bytes"]) // PAGE)
            first, end = (np.arange(2)[:, None] + pages) * PAGE // ROW_BYTES + int(
                head["first_row"]
            )
            mine, theirs = (
                np.searchsorted(rows, end) > np.searchsorted(rows, first) for rows in (own, others)
            )
            start = int(parts[Section.ROWS]["offset"])
            pieces = [(start + page * PAGE, PAGE) for page in pages[mine & ~theirs].tolist()]
        elif head["kind"] == ExtentKind.POSTINGS:
            kind, start = "postings", int(parts[Section.BLOCKS]["offset"])
            size = find_codec(CODEC).run_block_bytes(DIM)
            pieces = [
                (start + int(run["offset"]), int(run["blocks"]) * size or 4 * int(run["rows"]))
                for run in table(Section.RUNS, RUN_DTYPE)
                if run["tenant"] == tenant
            ]
        else:
            is_directory = head["kind"] == ExtentKind.DIRECTORY
            kind = "directory" if is_directory else "attributes"
            data = Section.DIRECTORIES if is_directory else Section.ATTRIBUTES
            entries = (
                table(Section.TENANTS, TENANT_DTYPE)
                if is_directory
                else table(Section.ATTRIBUTE_TENANTS, attributes.TENANT_DTYPE)
            )
            start = int(parts[data]["offset"])
            pieces = [
                (start + int(entry["offset"]), int(entry["bytes"]))
                for entry in entries
                if entry["tenant"] == tenant and entry["bytes"]
            ]
        found.setdefault(kind, []).extend((file, *piece) for piece in pieces)
    return found


def poison(pieces: list[tuple[Path, int, int]]) -> None:
    """Overwrite bytes with others."""
    for file, offset, length in pieces:
        with open(file, "r+b") as stream:
            stream.seek(offset)
            old = stream.read(length)
            stream.seek(offset)
            stream.write(bytes(byte ^ 0xA5 for byte in old))


def forge(path: Path, tenant: int, row: int) -> None:
    """Let every run of a tenant's postings name a row, with checksums that match."""
    codec = find_codec(CODEC)
    for file in sorted((path / "extents").iterdir()):
        raw = np.fromfile(file, np.uint8)
        head = raw[: HEADER_DTYPE.itemsize].view(HEADER_DTYPE)[0]
        if head["kind"] != ExtentKind.POSTINGS:
            continue
        parts = {Section(e["section"]): e for e in head["table"][: int(head["sections"])]}
        first, size = (int(parts[Section.RUNS][name]) for name in ("offset", "bytes"))
        table = raw[first : first + size]
        runs = table.view(RUN_DTYPE)
        for place in np.flatnonzero(runs["tenant"] == tenant).tolist():
            start = int(parts[Section.BLOCKS]["offset"]) + int(runs[place]["offset"])
            blocks = int(runs[place]["blocks"])
            length = blocks * codec.run_block_bytes(DIM) or 4 * int(runs[place]["rows"])
            data = raw[start : start + length]
            at = codec.block_bytes(DIM) - 4 * BLOCK_ROWS if blocks else 0
            data[at : at + 4].view(np.uint32)[0] = row
            runs["sum"][place] = xxhash.xxh3_64_intdigest(data.data)
        parts[Section.RUNS]["sum"] = xxhash.xxh3_64_intdigest(table.data)
        end = HEADER_DTYPE.fields["sum"][1]  # type: ignore[index]
        head["sum"] = xxhash.xxh3_64_intdigest(raw[:end].data)
        raw.tofile(file)


def key_is_of(key: bytes, tenant: int, rows: set[int]) -> bool:
    """Whether a key belongs to a tenant, or says something about one of its rows."""
    collection, kind = layout.U32.unpack_from(key)[0], key[4]
    if collection != 1:
        return False
    if kind in (Kind.ID, Kind.TENANT, Kind.PENDING, Kind.REVOKED):
        return bool(layout.U32.unpack_from(key, 5)[0] == tenant)
    if kind in (Kind.METADATA, Kind.DOCUMENT, Kind.GRANTEES):
        return layout.U32.unpack_from(key, 5)[0] in rows
    return False


class Watched:
    """A transaction that tells which keys were read.

    A cursor stops at the first key behind those that it was sent for; that it is there is all
    that is learned of it, so one such key of a walk does not count.
    """

    def __init__(self, inner: Any, keys: list[bytes]) -> None:
        self._inner, self._keys = inner, keys

    def get(self, key: bytes, *default: Any) -> Any:
        self._keys.append(bytes(key))
        return self._inner.get(key, *default)

    def cursor(self) -> WatchedCursor:
        return WatchedCursor(self._inner.cursor(), self._keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def watched(transaction: Transaction, keys: list[bytes]) -> Transaction:
    """Let a transaction tell which keys were read."""
    return Transaction(Watched(transaction.raw, keys), transaction.path)


class WatchedCursor:
    """A cursor that tells which entries it read, and where it walked."""

    def __init__(self, inner: Any, keys: list[bytes]) -> None:
        self._inner, self._keys = inner, keys
        self._sought, self._behind = b"", 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def value(self) -> bytes:
        self._keys.append(self._inner.key())
        return bytes(self._inner.value())

    def set_range(self, key: bytes) -> bool:
        self._sought, self._behind = bytes(key), 0
        return bool(self._inner.set_range(key))

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._inner:
            self._behind += not bytes(key).startswith(self._sought)
            if self._behind != 1:
                self._keys.append(bytes(key))
            yield key, value
