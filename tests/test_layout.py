"""The bytes on disk: keys in order, sizes fixed, bitmaps and places of runs."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecstore import extents, layout
from vecstore.config import BLOCK_ROWS, CHUNK_ROWS
from vecstore.ids import Ids
from vecstore.layout import PAGE, Kind, Section
from vecstore.postings import group, place_runs

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
kinds = st.sampled_from(list(Kind))


@given(st.tuples(u32, kinds, u64), st.tuples(u32, kinds, u64))
def test_order_of_keys_is_order_of_numbers(
    a: tuple[int, Kind, int], b: tuple[int, Kind, int]
) -> None:
    assert (layout.key_u64(*a) < layout.key_u64(*b)) == (a < b)
    short_a, short_b = ((*key[:2], key[2] % 2**32) for key in (a, b))
    assert (layout.key_u32(*short_a) < layout.key_u32(*short_b)) == (short_a < short_b)
    assert layout.key_u64(*a).startswith(layout.key(*a[:2]))
    assert layout.key_u32(*short_a).startswith(layout.key(*a[:2]))
    if a[:2] != b[:2]:
        assert not layout.key_u64(*a).startswith(layout.key(*b[:2]))


@given(u32, u32, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64))
def test_id_keys_fit_lmdb(collection: int, tenant: int, text: str) -> None:
    raw = layout.id_prefix(collection, tenant) + layout.encode_id(text)
    assert len(raw) <= 511
    assert len(layout.id_prefix(collection, tenant)) + 256 <= 511
    assert raw.startswith(layout.key(collection, Kind.ID))


@given(st.one_of(st.integers(0, 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"]))))
def test_ids_round_trip(value: int | str) -> None:
    back = layout.decode_id(layout.encode_id(value), isinstance(value, int))
    assert back == value
    assert type(back) is type(value)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_order_of_int_ids(a: int, b: int) -> None:
    assert (layout.encode_id(a) < layout.encode_id(b)) == (a < b)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=40), st.integers(0, 2**32 - 1))
def test_keys_of_many_ids(values: list[int], collection: int) -> None:
    """Few at a time or many: the keys that one id at a time has."""
    prefix = layout.id_prefix(collection, 7)
    expected = [prefix + layout.encode_id(value) for value in values]
    assert layout.int_id_keys(prefix, np.array(values, np.int64)) == expected
    keys = dict(zip(sorted(set(values)), sorted(set(expected)), strict=True))
    for places, found in Ids(np.array(values, np.int64), False, True).keys(prefix):
        assert found == [keys[values[place]] for place in places.tolist()] == sorted(found)


@given(st.lists(u32, max_size=40))
def test_rows_of_id_keys(rows: list[int]) -> None:
    values = [layout.U32.pack(row) for row in rows]
    assert layout.unpack_rows(values).tolist() == rows
    with pytest.raises(struct.error):
        layout.unpack_rows([*values, b"abc"])


def test_sizes_that_files_depend_on() -> None:
    """A change here is a change of format: FORMAT_VERSION must go up with it."""
    assert layout.FORMAT_VERSION == 1
    assert layout.HEADER_DTYPE.itemsize == 584
    assert layout.SECTION_DTYPE.itemsize == 32
    assert layout.RUN_DTYPE.itemsize == 32
    assert layout.PAGE_DTYPE.itemsize == 16
    assert layout.TENANT_DTYPE.itemsize == 40
    assert layout.MARKER.size == 12
    assert layout.LOG_HEAD.size == 8
    assert {section.name: int(section) for section in Section} == {
        "ROWS": 1,
        "ROW_SUMS": 2,
        "ORDER": 3,
        "IDS": 4,
        "ID_ENDS": 5,
        "BLOCKS": 6,
        "RUNS": 7,
        "SIGNS": 8,
        "CODEBOOK": 9,
        "MATRIX": 10,
        "TENANTS": 11,
        "DIRECTORIES": 12,
        "ATTRIBUTES": 13,
        "ATTRIBUTE_TENANTS": 14,
        "OWNERS": 15,
        "PLACES": 16,
        "INTS": 17,
        "FLOATS": 18,
    }
    assert layout.SECTIONS_MAX == 16
    assert [int(kind) for kind in Kind] == list(range(1, 21))
    assert (BLOCK_ROWS, CHUNK_ROWS, PAGE) == (32, 1024, 4096)


@given(st.integers(1, 65_536))
def test_sizes_of_blocks(dim: int) -> None:
    padded = layout.padded_dim(dim)
    assert padded % 64 == 0
    assert dim <= padded < dim + 64
    sizes = {
        layout.sign_block_bytes(dim): padded // 8 + 16,
        layout.grid_block_bytes(dim, 8): padded + 16,
        layout.grid_block_bytes(dim, 4): padded // 2 + 16,
        layout.value_block_bytes(dim, 4): 4 * dim + 8,
        layout.value_block_bytes(dim, 2): 2 * dim + 8,
    }
    for size, of_row in sizes.items():
        assert size == 32 * of_row
        assert size % 64 == 0
    for parts in (1, 2, 3, dim % 4_096 + 1):
        size = layout.parts_block_bytes(parts)
        assert size % 64 == 0
        assert 0 <= size - 32 * (parts + 16) < 64
    assert layout.extra_bytes(dim, 1) == 0
    for bits in range(2, 9):
        assert layout.extra_bytes(dim, bits) == padded // 8 * (bits - 1) + 12


@given(st.integers(1, 65_536))
def test_sizes_of_raw_rows(dim: int) -> None:
    """A chunk of rows fills whole pages in every form; no form wastes four bytes."""
    sizes = {
        "float32": (layout.float32_row_bytes(dim), 4 * dim),
        "float16": (layout.float16_row_bytes(dim), 2 * dim),
        "int8": (layout.int8_row_bytes(dim), 8 + dim),
    }
    for size, needed in sizes.values():
        assert size % 4 == CHUNK_ROWS * size % PAGE == 0
        assert needed <= size < needed + 4


@given(st.lists(st.integers(0, 999), max_size=80), st.lists(st.integers(0, 999), max_size=80))
def test_bitmaps(ones: list[int], zeros: list[int]) -> None:
    bitmap = np.zeros(layout.bitmap_words(1_000), np.uint64)
    assert len(bitmap) == 16
    layout.set_bits(bitmap, np.array(ones, np.uint32), True)
    layout.set_bits(bitmap, np.array(zeros, np.uint32), False)
    expected = set(ones) - set(zeros)
    got = layout.get_bits(bitmap, np.arange(1_000, dtype=np.uint32))
    assert set(np.flatnonzero(got).tolist()) == expected
    assert int(np.bitwise_count(bitmap).sum()) == len(expected)


@given(st.lists(st.integers(1, 3 * PAGE), max_size=60))
def test_places_of_runs(sizes: list[int]) -> None:
    """In order, apart; large runs begin at a page, small ones stay within one."""
    offsets = place_runs(np.array(sizes, np.int64)).tolist()
    end = 0
    for size, offset in zip(sizes, offsets, strict=True):
        assert offset >= end
        assert offset - end < PAGE
        if size >= PAGE:
            assert offset % PAGE == 0
        else:
            assert offset // PAGE == (offset + size - 1) // PAGE
        end = offset + size


@given(
    st.lists(st.tuples(st.integers(-1, 9), st.integers(-1, 9)), max_size=60),
)
def test_group_inverts_homes(homes: list[tuple[int, int]]) -> None:
    table = np.array(homes, np.int32).reshape(-1, 2)
    first, rows = group(table, 10)
    for posting in range(10):
        own = rows[first[posting] : first[posting + 1]].tolist()
        assert own == [i for i, pair in enumerate(homes) for home in pair if home == posting]


@pytest.mark.parametrize(("offset", "to", "up"), [(0, 64, 0), (1, 64, 64), (64, 64, 64)])
def test_align(offset: int, to: int, up: int) -> None:
    assert layout.align(offset, to) == up


class _Noting(io.FileIO):
    """Notes where each write goes and how long it is."""

    def __init__(self, path: Path, notes: list[tuple[int, int]]) -> None:
        super().__init__(path, "w")
        self._notes = notes

    def write(self, data: Any) -> int:
        self._notes.append((self.tell(), memoryview(data).nbytes))
        return super().write(data)


def test_extents_are_written_in_whole_aligned_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large pages of the page cache need writes that cover them."""
    size, notes = 3 * layout.PAGE, list[tuple[int, int]]()
    monkeypatch.setattr(extents, "_BUFFER_BYTES", size)

    def opened(path: Path, mode: str, buffering: int) -> io.BufferedWriter:
        assert mode == "wb"
        return io.BufferedWriter(_Noting(path, notes), buffering)

    monkeypatch.setattr(extents, "open", opened, raising=False)
    writer = extents.ExtentWriter(
        tmp_path, 1, layout.ExtentKind.RAW, collection=1, dim=4, codec=0, first_row=0
    )
    writer.begin(layout.Section.ROWS)
    parts = [np.full(n, i, np.uint8) for i, n in enumerate((10, size, 5 * size, 1, size - 1, 7))]
    for part in parts:
        writer.write(part)
    writer.end()
    record = writer.finish(1)
    *body, header = notes
    assert header[0] == 0
    assert [place for place, _ in body] == list(range(0, record.bytes, size))
    assert {length for _, length in body[:-1]} == {size}
    stored = extents.extent_path(tmp_path, 1).read_bytes()
    assert len(stored) == record.bytes
    assert stored[layout.PAGE :].startswith(b"".join(part.tobytes() for part in parts))
