"""Pages on disk: what is asked for before it is read, when, and that no answer depends on it."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from tests.store_checks import normal, small_limits, sound_store
from vecstore import extent_set
from vecstore.collection import Collection
from vecstore.extents import Extent, asked_ahead, extent_path
from vecstore.kernels import view as v
from vecstore.layout import ExtentKind, Section
from vecstore.room import memory_bytes

DIM = 32
ROWS = 1_500
VECTORS = normal(ROWS, DIM)
QUERIES = normal(40, DIM, seed=5)
TENANTS = [f"t{i % 3}" for i in range(ROWS)]
METADATA: list[dict[str, Any]] = [{"n": i % 10} for i in range(ROWS)]
CODECS = ["rabitq1", "rabitq2", "rabitq4", "int8", "int4", "pq8", "float16", "float32"]
PAGE = mmap.PAGESIZE


@pytest.fixture(autouse=True)
def nothing_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extent_set, "memory_bytes", lambda: 0)


def _set_mode(docs: Any, queries: int) -> None:
    """Let the scratches that are there ask for pages in the next so many queries."""
    docs.query(QUERIES[0])
    for scratch in docs._core.searcher._idle:
        scratch.table[v.COLD] = queries


def _mode(docs: Any) -> int:
    """Most of the queries for which a scratch still asks for pages."""
    return max(int(scratch.table[v.COLD]) for scratch in docs._core.searcher._idle)


def _extents(docs: Collection) -> list[Extent]:
    return list(docs._core.reader.newest().extents.mapped.values())


def _evict(docs: Collection) -> None:
    """Put all pages of the extents out of this process and out of the page cache."""
    for extent in _extents(docs):
        for _ in range(10):  # pages that another processor has just written or read stay once
            extent._map.madvise(mmap.MADV_DONTNEED)
            descriptor = os.open(
                extent_path(docs._core.identity.folder, extent.number), os.O_RDONLY
            )
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            if not _resident(extent).any():
                break


def _resident(extent: Extent) -> NDArray[np.bool_]:
    """Which pages of an extent are in the page cache."""
    libc: Any = ctypes.CDLL(None, use_errno=True)
    size = extent._bytes.nbytes
    found: NDArray[np.uint8] = np.zeros(-(-size // PAGE), np.uint8)
    arguments = (extent._bytes.ctypes.data, size, found.ctypes.data)
    assert libc.mincore(*map(ctypes.c_void_p, arguments)) == 0
    return (found & 1).astype(bool)


def _within(extent: Extent, section: Section) -> NDArray[np.bool_]:
    """Which pages of a section are in the page cache; a page that it shares is not counted."""
    entry = extent._sections[int(section)]
    first = int(entry["offset"]) // PAGE
    return _resident(extent)[first : (int(entry["offset"]) + int(entry["bytes"])) // PAGE]


def _of_kind(docs: Collection, kind: ExtentKind) -> Extent:
    (extent,) = (one for one in _extents(docs) if one.kind == kind)
    return extent


@pytest.fixture
def evictable(tmp_path: Path) -> Path:
    """Give a folder on a disk whose pages can be put out of memory."""
    path = tmp_path / "probe"
    path.write_bytes(bytes(4 * PAGE))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            mapped.madvise(mmap.MADV_RANDOM)
            before = _blocks_read()
            assert mapped[PAGE] == 0
            if _blocks_read() == before:
                pytest.skip("pages of this folder stay in memory, or reads are not counted")
    return tmp_path


def _blocks_read() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock


def _told(docs: Any, ks: tuple[int, ...] = (1, 10)) -> Iterator[tuple[Any, ...]]:
    """Answers to all kinds of queries, with what the kernels counted."""
    filters: tuple[dict[str, Any] | None, ...] = (None, {"n": {"$lt": 7}}, {"n": 3})
    for query, where, k in itertools.product(QUERIES[:12], filters, ks):
        for recall in (0.9, 1.0):
            told = docs.explain(query, k=k, where=where, recall=recall)
            hits = [(hit.id, hit.distance, hit.tenant) for hit in told.hits]
            yield hits, told.postings, told.scanned, told.refined, told.reranked


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_answers_and_work_are_the_same_whether_pages_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, metric: str
) -> None:
    small_limits(monkeypatch)
    with vecstore.open(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, codec=codec, metric=metric)
        docs.load(VECTORS, metadata=METADATA)
        docs.delete(range(0, 200, 3))
        docs.upsert(range(5_000, 5_010), VECTORS[:10] + np.float32(0.01))
        _set_mode(docs, 0)
        warm = list(_told(docs))
        assert docs.explain(QUERIES[0]).asked == 0
        _set_mode(docs, 1 << 40)
        assert list(_told(docs)) == warm
        assert docs.explain(QUERIES[0]).asked > 0


def test_answers_of_tenants_and_unions_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists, single postings and trees; rows that were granted; ids of both kinds."""
    small_limits(monkeypatch)
    names = ["tree"] * 300 + ["run"] * 16 + ["list"] * 6
    with vecstore.open(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        ids = [f"id {i}" for i in range(len(names))]
        docs.load(VECTORS[: len(names)], ids=ids, metadata=METADATA[: len(names)], tenants=names)
        docs.tenant("tree").grant(ids[:20], "run")
        views = [docs.tenant(*some) for some in (["tree"], ["run"], ["list"], ["tree", "run"])]
        _set_mode(views[0], 0)
        warm = [list(_told(view)) for view in views]
        for scratch in docs._core.searcher._idle:
            scratch.table[v.COLD] = 1 << 40
        assert [list(_told(view)) for view in views] == warm


def test_batches_answer_the_same_in_all_threads(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, codec="rabitq1")
        docs.load(normal(6_000, DIM))
        queries = normal(300, DIM, seed=9)
        many = docs._core.searcher
        many.workers = 3
        _set_mode(docs, 0)
        warm = docs.search(queries, k=20)
        for scratch in many._idle:
            scratch.table[v.COLD] = 1 << 40
        cold = docs.search(queries, k=20)
        np.testing.assert_array_equal(cold.ids, warm.ids)
        np.testing.assert_array_equal(cold.distances, warm.distances)


def test_a_query_that_met_the_disk_lets_the_next_ones_ask(evictable: Path) -> None:
    """Every scratch begins cold, is warm when pages are in memory, and cold when they left it."""
    with vecstore.open(evictable / "store") as store:
        store.collection("docs", dim=DIM, codec="rabitq4").load(normal(8_000, DIM))
    with vecstore.open(evictable / "store", mode="r") as store:
        docs = store.collection("docs")
        docs.query(QUERIES[0])
        assert _mode(docs) > 0
        for query in QUERIES[:2]:
            docs.query(query, recall=1.0)  # reads all raw rows
        for _ in range(2 * v.COLD_QUERIES):
            docs.query(QUERIES[0])
        assert _mode(docs) == 0
        told = docs.explain(QUERIES[0])
        assert (told.asked, told.asked_bytes, told.disk_bytes) == (0, 0, 0)

        _evict(docs)
        told = docs.explain(QUERIES[0], recall=1.0)  # page after page: nothing was asked for
        assert told.asked == 0
        assert told.disk_bytes >= 8_000 * DIM * 4
        assert _mode(docs) == v.COLD_QUERIES

        _evict(docs)
        told = docs.explain(QUERIES[1])
        assert 0 < told.disk_bytes <= told.asked_bytes
        assert _mode(docs) == v.COLD_QUERIES
        warm = docs.explain(QUERIES[1])
        assert (warm.asked, warm.asked_bytes) == (told.asked, told.asked_bytes)
        assert warm.disk_bytes == 0
        assert _mode(docs) == v.COLD_QUERIES - 1


def test_what_is_asked_for_is_what_is_read(evictable: Path) -> None:
    """Counted pages are those of runs, rows and ids; nothing is read that was not asked for."""
    with vecstore.open(evictable / "store") as store:
        docs = store.collection("docs", dim=DIM, codec="rabitq4")
        docs.load(normal(8_000, DIM))
        _set_mode(docs, 1 << 40)
        parts = ((ExtentKind.POSTINGS, Section.BLOCKS), (ExtentKind.RAW, Section.ROWS))
        for query in QUERIES[:10]:
            docs.query(query, k=5)  # checksums of these pages are not looked at again
            _evict(docs)
            told = docs.explain(query, k=5)
            found = sum(int(_within(_of_kind(docs, kind), part).sum()) for kind, part in parts)
            ids = 2 * (told.reranked + 5)  # of rows that may be answers, and of the answers
            assert found * PAGE <= told.asked_bytes <= (found + 1 + ids) * PAGE
            assert 0 < told.disk_bytes <= told.asked_bytes
            assert told.asked <= told.postings + told.reranked + ids


def test_no_page_of_a_stranger_is_asked_for(
    evictable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After everything left memory, a tenant's query brings back its own pages and no others."""
    small_limits(monkeypatch)
    dim = 256  # four rows to a page
    rows = normal(1_500, dim)
    names = [f"t{i % 3}" for i in range(1_500)]
    query = normal(1, dim, seed=8)[0]
    with vecstore.open(evictable / "store") as store:
        docs = store.collection("docs", dim=dim, tenants=True, codec="rabitq4")
        docs.load(rows, metadata=[{"n": i} for i in range(1_500)], tenants=names)
        own = docs.tenant("t1")
        for ask in (
            lambda: own.query(query, k=20),
            lambda: own.query(query, recall=1.0),
            lambda: own.query(query, where={"n": {"$lt": 300}}),
        ):
            ask()
            _set_mode_of(docs, 1 << 40)
            _evict(docs)
            ask()
            with docs._core.reader.opened(("t1",)) as (snapshot, _, (view,)):
                allowed = _own_pages(docs, view, snapshot)
            for extent in _extents(docs):
                if extent.kind in (ExtentKind.RAW, ExtentKind.POSTINGS):
                    strange = np.flatnonzero(_resident(extent) & ~allowed[extent.number])
                    assert not len(strange), (extent.kind, strange)


def _set_mode_of(docs: Any, queries: int) -> None:
    for scratch in docs._core.searcher._idle:
        scratch.table[v.COLD] = queries


def _own_pages(docs: Any, view: Any, snapshot: Any) -> dict[int, NDArray[np.bool_]]:
    """Pages that hold something of a tenant, and those of tables that name no tenant's data."""
    allowed = {}
    for extent in _extents(docs):
        pages = np.ones(len(_resident(extent)), np.bool_)
        for section in (Section.ROWS, Section.BLOCKS):
            if extent.has(section):
                entry = extent._sections[int(section)]
                start, size = int(entry["offset"]), int(entry["bytes"])
                pages[start // PAGE : (start + size) // PAGE] = False
        allowed[extent.number] = pages

    def allow(address: int, size: int) -> None:
        for extent in _extents(docs):
            start = address - int(extent._bytes.ctypes.data)
            if 0 <= start < extent._bytes.nbytes:
                allowed[extent.number][start // PAGE : -(-(start + size) // PAGE)] = True

    for address in snapshot.addresses(view.indexed).tolist():
        allow(address, snapshot.identity.row_bytes)
    block = view.view[v.BLOCK_BYTES] + 32 * view.view[v.EXTRA_BYTES]
    for run in view.index._table:
        allow(int(run[v.RUN_ADDRESS]), int(run[v.RUN_BLOCKS] * block))
    return allowed


def test_parts_are_asked_for_only_while_the_disk_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    from vecstore import extents

    met = iter([0, 0, 9, 9, 9])
    monkeypatch.setattr(extents, "disk_bytes", lambda: next(met))
    monkeypatch.setattr(extents, "_WINDOW", 2)
    asked: list[int] = []
    assert list(asked_ahead(range(7), asked.append)) == list(range(7))
    assert asked == [2, 3]


@pytest.mark.parametrize("raw", ["float32", "float16", "int8"])
def test_whoever_reads_all_of_it_finds_it_when_it_is_on_disk(evictable: Path, raw: str) -> None:
    """Vectors by id, checks and compaction of a store that is not in memory."""
    vectors = normal(6_000, DIM)
    with sound_store(evictable / "store") as store:
        docs = store.collection("docs", dim=DIM, raw=raw)
        docs.load(vectors)
        before = docs.vectors(range(6_000))
        steps: tuple[Callable[[], Any], ...] = (
            lambda: docs.vectors(range(6_000)),
            lambda: store.check(),
            lambda: docs.compact(),
            lambda: docs.vectors(range(6_000)),
        )
        for step in steps:
            _evict(docs)
            step()
        np.testing.assert_array_equal(docs.vectors(range(6_000)), before)


def test_readers_in_threads_are_cold_each_for_itself(evictable: Path) -> None:
    with vecstore.open(evictable / "store") as store:
        docs = store.collection("docs", dim=DIM)
        docs.load(normal(6_000, DIM))
        expected = [[hit.id for hit in docs.query(query)] for query in QUERIES]
        wrong: list[int] = []

        def read() -> None:
            for _ in range(5):
                for place, query in enumerate(QUERIES):
                    if [hit.id for hit in docs.query(query)] != expected[place]:
                        wrong.append(place)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            _evict(docs)
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_collection_that_fits_into_memory_is_read_whole_once(
    evictable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first queries after a start sweep it; not where there is less memory, nor for tenants."""
    for tenants, memory, whole in (
        (False, 1 << 40, True),
        (False, 1, False),
        (True, 1 << 40, False),
    ):
        monkeypatch.setattr(extent_set, "memory_bytes", lambda memory=memory: memory)
        monkeypatch.setattr(extent_set, "SWEEP_BYTES", 64 * PAGE)
        path = evictable / f"{tenants}{memory}"
        with vecstore.open(path) as store:
            docs = store.collection("docs", dim=DIM, tenants=tenants)
            docs.load(normal(8_000, DIM), tenants=["a"] * 8_000 if tenants else None)
        with vecstore.open(path, mode="r") as store:
            docs = store.collection("docs")
            own = docs.tenant("a") if tenants else docs
            own.query(QUERIES[0])
            _evict(docs)
            bulk = [
                one for one in _extents(docs) if one.kind in (ExtentKind.RAW, ExtentKind.POSTINGS)
            ]
            for _ in range(10):
                own.query(QUERIES[0])
            end = time.monotonic() + 10 * whole  # nobody waits for these reads
            read = 0.0
            while read < 1.0 and time.monotonic() <= end:
                read = min(float(_resident(extent)[64:].mean()) for extent in bulk)
            assert (read == 1.0) == whole, (tenants, memory, read)
            _evict(docs)
            for _ in range(10):
                own.query(QUERIES[0])
            assert min(float(_resident(extent).mean()) for extent in bulk) < 1.0


def test_room_is_what_the_smallest_limit_leaves(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    assert memory_bytes(proc, groups) == 0
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    4000 kB\n")
    assert memory_bytes(proc, groups) == 4000 * 1024
    for folder, name, limits in (
        (groups, "memory.max", {"": None, "a": 3_000_000, "a/b": "max"}),
        (groups / "memory", "memory.limit_in_bytes", {"": 2_000_000, "x": 2**63 - 4096}),
    ):
        for place, limit in limits.items():
            (folder / place).mkdir(parents=True, exist_ok=True)
            if limit is not None:
                (folder / place / name).write_text(f"{limit}\n")
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    assert memory_bytes(proc, groups) == 3_000_000
    (proc / "self" / "cgroup").write_text("5:cpu:/\n4:memory:/x\n")
    assert memory_bytes(proc, groups) == 2_000_000
    (proc / "self" / "cgroup").write_text("5:cpu:/a\n")
    assert memory_bytes(proc, groups) == 4000 * 1024
