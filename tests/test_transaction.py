"""Entries of LMDB and their checksums: what was put comes back, or an error that names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import vecstore
from tests.store_checks import normal
from vecstore import layout
from vecstore.kernels.checksum import SHORT_BYTES_MAX, SHORT_BYTES_MIN, hash_pairs
from vecstore.layout import Kind
from vecstore.transaction import Transaction, describe

IDS = layout.id_prefix(1, 7)
ROWS = np.arange(100, 400, dtype=np.uint32)
KEYS = [IDS + layout.encode_id(3 * i) for i in range(300)]
N = 5_000  # enough for a bulk load
OTHER = layout.id_prefix(1, 8)


@contextmanager
def begun(folder: Path, *, write: bool = True) -> Iterator[Transaction]:
    with (
        lmdb.open(str(folder), map_size=1 << 24, lib_version=0) as environment,
        environment.begin(write=write) as transaction,
    ):
        yield Transaction(transaction, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ids of two tenants, one after the other."""
    with begun(tmp_path) as entries:
        entries.put_rows(KEYS, ROWS)
        entries.put_rows([OTHER + key[len(IDS) :] for key in KEYS[:20]], ROWS[:20] + 1_000)
    return tmp_path


def rewrite(folder: Path, change: Any) -> None:
    """Change bytes of LMDB's file, behind its back."""
    file = folder / "data.mdb"
    raw = bytearray(file.read_bytes())
    change(raw)
    file.write_bytes(raw)


def change_key(folder: Path, key: bytes, to: bytes) -> None:
    def change(raw: bytearray) -> None:
        assert raw.count(key)
        raw[:] = raw.replace(key, to)

    rewrite(folder, change)


# --- checksums ----------------------------------------------------------------------------------


@given(
    st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=40), st.sampled_from([0, 4])
)
def test_sums_of_many(keys: list[bytes], size: int) -> None:
    """The kernel's, where it is used, are those of single entries."""
    payloads = [bytes([i]) * size for i in range(len(keys))]
    expected = [layout.entry_sum(k, p) for k, p in zip(keys, payloads, strict=True)]
    found = layout.entry_sums(keys, b"".join(payloads)) if size else None
    if found is not None:
        assert found.astype(">u4").tobytes() == b"".join(expected)
    longest = max(map(len, keys))
    alike = [key.ljust(longest, b".") for key in keys]
    same = layout.entry_sums(alike, b"".join(payloads), alike=True) if size else None
    if same is not None:
        expected = [layout.entry_sum(k, p) for k, p in zip(alike, payloads, strict=True)]
        assert same.astype(">u4").tobytes() == b"".join(expected)


@pytest.mark.parametrize("tail", [1, 4, 8])
def test_hash_pairs_is_xxh3(tail: int) -> None:
    """Every length that the kernel takes."""
    sizes = np.arange(SHORT_BYTES_MIN - tail, SHORT_BYTES_MAX + 1 - tail)
    rng = np.random.default_rng(tail)
    heads = rng.integers(0, 256, int(sizes.sum()), np.uint8)
    tails = rng.integers(0, 256, (len(sizes), tail), np.uint8)
    out = np.empty(len(sizes), np.uint64)
    ends = np.cumsum(sizes)
    hash_pairs(heads, ends, tails, np.empty(SHORT_BYTES_MAX, np.uint8), out)
    for i, end in enumerate(ends.tolist()):
        piece = heads[end - sizes[i] : end].tobytes() + tails[i].tobytes()
        assert int(out[i]) == xxhash.xxh3_64_intdigest(piece)


# --- entries ------------------------------------------------------------------------------------


def test_round_trip(folder: Path) -> None:
    key = layout.key(0, Kind.STORE)
    with begun(folder) as entries:
        assert entries.get(key) is None
        entries.put(key, b"")
        entries.put_many([(key + b"1", b"one"), (key + b"2", b"two" * 5_000)])
        assert entries.get(key) == b""
        assert list(entries.scan(key)) == [
            (key, b""),
            (key + b"1", b"one"),
            (key + b"2", b"two" * 5_000),
        ]
        assert list(entries.scan(key, key + b"2")) == [(key + b"2", b"two" * 5_000)]
        assert entries.delete(key + b"1")
        assert not entries.delete(key + b"1")
        entries.delete_range(key)
        assert list(entries.scan(key)) == []
        assert entries.rows(KEYS, IDS).tolist() == ROWS.tolist()


@pytest.mark.parametrize("count", [1, 15, 16, 300])
@pytest.mark.parametrize("alike", [False, True])
def test_rows(folder: Path, count: int, alike: bool) -> None:
    """Those that are there and those that are not, few and many."""
    numbers = list(range(count))
    keys = [IDS + layout.encode_id(number) for number in numbers]
    with begun(folder) as entries:
        found = entries.rows(keys, IDS, alike=alike).tolist()
    assert found == [layout.NO_ROW if i % 3 else 100 + i // 3 for i in numbers]


@pytest.mark.parametrize("at", range(-8, 0))
def test_a_changed_value(folder: Path, at: int) -> None:
    """Every byte of it counts, be it of the payload or of the checksum."""

    def change(raw: bytearray) -> None:
        place = raw.find(KEYS[50])
        assert place == raw.rfind(KEYS[50])
        raw[place + len(KEYS[50]) + 8 + at] ^= 0x10

    rewrite(folder, change)
    with begun(folder) as entries:
        for read in (
            lambda: entries.get(KEYS[50]),
            lambda: entries.rows(KEYS[50:51], IDS),
            lambda: entries.rows(KEYS, IDS),
            lambda: list(entries.scan(IDS)),
        ):
            with pytest.raises(vecstore.CorruptionError, match=r"id entry .* match its checksum"):
                read()
        assert list(entries.damaged(IDS)) == [KEYS[50]]
        assert entries.get(KEYS[49]) == layout.U32.pack(149)
        assert entries.rows(KEYS[51:], IDS).tolist() == ROWS[51:].tolist()


@pytest.mark.parametrize("place", [0, 50, 299])
@pytest.mark.parametrize("byte", range(len(KEYS[0])))
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_a_changed_key(folder: Path, place: int, byte: int, flip: int) -> None:
    """Nobody is told that an id is unknown because its key is broken.

    Only where the broken key begins otherwise and still is in order, at the edges of what a tenant
    has, nothing can be seen without reading what is another's.
    """
    key = KEYS[place]
    broken = key[:byte] + bytes([key[byte] ^ flip]) + key[byte + 1 :]
    change_key(folder, key, broken)
    with begun(folder) as entries:
        try:
            found = entries.get(key, IDS)
        except vecstore.CorruptionError:
            return
        assert found is None
        assert place in (0, 299)
        assert byte < len(IDS)


@pytest.mark.parametrize("size", [512, 4096])
def test_a_page_of_zeros(folder: Path, size: int) -> None:
    pages = (folder / "data.mdb").read_bytes()
    (page,) = {
        place // 4096 for place in range(0, len(pages), 4096) if KEYS[150] in pages[place:][:4096]
    }
    start = page * 4096

    def change(raw: bytearray) -> None:
        raw[start : start + size] = bytes(size)

    rewrite(folder, change)
    reads: list[Callable[[Transaction], Any]] = [
        lambda entries: entries.get(KEYS[150], IDS),
        lambda entries: entries.rows(KEYS, IDS),
    ]
    for read in reads:
        with begun(folder, write=False) as entries, pytest.raises(vecstore.CorruptionError):
            read(entries)


def test_others_are_not_read(folder: Path) -> None:
    """Damage to the entries of another tenant changes no answer."""

    def change(raw: bytearray) -> None:
        for i in range(20):
            place = raw.find(OTHER + KEYS[i][len(IDS) :])
            raw[place + len(KEYS[i])] ^= 0xFF

    rewrite(folder, change)
    with begun(folder) as entries:
        assert len(list(entries.damaged(OTHER))) == 20
        assert entries.get(IDS + b"\xff" * 8, IDS) is None
        assert entries.get(OTHER[:-1] + b"\x09", OTHER[:-1] + b"\x09") is None
        with pytest.raises(vecstore.CorruptionError):
            entries.get(OTHER + b"\0" * 7 + b"\1", OTHER)


def test_the_error_names_the_collection(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        store.collection("first", dim=4).upsert([1], normal(1, 4))
        docs = store.collection("docs", dim=4)
        docs.upsert([1, 2], normal(2, 4), [{"n": "ninety"}, None])

    def change(raw: bytearray) -> None:
        place = raw.rfind(b"ninety")
        raw[place : place + 6] = b"eighty"

    rewrite(path / "facts", change)
    with vecstore.open(path, mode="r") as store:
        assert store.collection("first").get([1])
        docs = store.collection("docs")
        assert docs.get([2])[0].metadata is None
        with pytest.raises(vecstore.CorruptionError, match=r"entry of row 0 .*'docs'") as caught:
            docs.get([1])
        assert caught.value.collection == "docs"
        (found,) = store.check()
        assert (found.invariant, found.where) == ("facts-entries", "docs")
        assert "metadata entry of row 0" in found.detail
    with vecstore.open(path) as store:
        (said,) = store.repair()
        assert "was left as it is" in said
        assert "facts-entries" in said


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Kind.STATE, "query"),
        (Kind.TENANT, "query"),
        (Kind.DEAD, "query"),
        (Kind.LOG, "query"),
        (Kind.EXTENT, "query"),
        (Kind.METADATA, "get"),
        (Kind.DOCUMENT, "get"),
    ],
)
def test_what_has_gone_is_missed(tmp_path: Path, kind: Kind, name: str) -> None:
    """Counts tell that an entry is not there, though LMDB's file is sound."""
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        docs = store.collection("docs", dim=4)
        docs.load(normal(N, 4), range(N), [{"n": i} for i in range(N)], ["x"] * N)
        docs.upsert([7], normal(1, 4), [{"n": 7}], ["y"])
    with begun(path / "facts") as entries:
        keys = [key for key, _ in entries.scan(layout.key(1, kind))]
        assert keys
        entries.delete(keys[0])
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        with pytest.raises(vecstore.CorruptionError):
            docs.query(np.zeros(4)) if name == "query" else docs.get(range(N))


def test_tenants_that_have_gone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        docs = store.collection("docs", dim=4, tenants=True)
        for name in "abc":
            docs.tenant(name).upsert([1], normal(1, 4))
    for key in (layout.key_u32(1, Kind.TENANT, 2), layout.key(1, Kind.TENANT_NAME, b"b")):
        with begun(path / "facts") as entries:
            assert entries.delete(key)
        with vecstore.open(path, mode="r") as store:
            docs = store.collection("docs")
            assert docs.tenant("a").query(np.zeros(4))
            if key[4] == Kind.TENANT:
                with pytest.raises(vecstore.CorruptionError, match="lack the tenant entry 2"):
                    docs.tenant("b").query(np.zeros(4))
            else:
                with pytest.raises(vecstore.CorruptionError, match=r"counts 3 tenants.*name 2"):
                    docs.tenants()


def test_describe() -> None:
    assert describe(layout.key(0, Kind.STORE)) == "store entry"
    assert describe(layout.key_u32(3, Kind.LOG, 9)) == "log entry of row 9 of collection number 3"
    assert describe(b"\0\0") == "entry b'\\x00\\x00'"
    assert describe(b"\0\0\0\0\xff") == "entry b'\\x00\\x00\\x00\\x00\\xff'"
