"""The metadata index: what it answers, whose bytes it reads, and what damage does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive_filters
from tests.conftest import examples
from tests.filter_checks import EDGES, TEXTS, wheres
from tests.filter_checks import rows as metadata_rows
from vecstore.attributes import (
    TENANT_DTYPE,
    Attributes,
    entries_of,
    faults,
    matching,
    write_attributes,
)
from vecstore.attributes.columns import COLUMN_DTYPE
from vecstore.errors import CorruptionError
from vecstore.extents import Extent, extent_path
from vecstore.filters import Value, ValueKind, parse_where
from vecstore.layout import HEADER_DTYPE, ExtentKind, ExtentRecord, Section
from vecstore.rowsets import RowSet

Metadata = dict[str, Any] | None
WORDS = 2**26
"""Of a bitmap over all row numbers there can be; nothing here is so dense that one is made."""


def numbers(*values: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.array(values, np.uint32)


class Written:
    """One attributes extent on disk, and what it was written from."""

    def __init__(
        self,
        folder: Path,
        number: int,
        tenants: dict[int, list[int]],
        metadata: dict[int, Metadata],
    ) -> None:
        self.folder, self.number = folder, number
        self.tenants, self.metadata = tenants, metadata
        self.record: ExtentRecord = write_attributes(
            folder,
            number,
            5,
            4,
            [(tenant, numbers(*rows)) for tenant, rows in sorted(tenants.items())],
            metadata.get,
        )

    def open(self) -> Attributes:
        return Attributes(Extent(self.folder, self.number, self.record, "docs"))

    def bulk_start(self) -> int:
        """Offset in the file of the section that holds all tenants' bytes."""
        header = np.fromfile(extent_path(self.folder, self.number), HEADER_DTYPE, 1)[0]
        table = header["table"][: int(header["sections"])]
        return int(table["offset"][table["section"] == Section.ATTRIBUTES][0])

    def change(self, section: Section, place: int, data: bytes | None = None) -> None:
        """Overwrite bytes of a section; by default flip all bits of one."""
        path = extent_path(self.folder, self.number)
        header = np.fromfile(path, HEADER_DTYPE, 1)[0]
        table = header["table"][: int(header["sections"])]
        start = int(table["offset"][table["section"] == section][0]) + place
        with path.open("r+b") as file:
            file.seek(start)
            data = data or bytes([file.read(1)[0] ^ 0xFF])
            file.seek(start)
            file.write(data)

    def table(self) -> Any:
        extent = Extent(self.folder, self.number, self.record, "docs")
        return extent.array(Section.ATTRIBUTE_TENANTS, TENANT_DTYPE).copy()


def ask(
    source: Attributes, tenant: int, where: Any, everything: list[int] | None = None
) -> list[int]:
    found = matching(
        parse_where(where), tenant, [source], [], lambda: row_set(everything or []), WORDS
    )
    return found.rows.tolist()


def row_set(rows: list[int]) -> RowSet:
    return RowSet.of(WORDS, [numbers(*rows)])


# --- the same answers as the oracle -------------------------------------------------------------


@settings(max_examples=examples(150))
@given(st.data())
def test_matching_is_brute_force(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Rows over three extents and the fresh ones, two tenants that share some."""
    folder = tmp_path_factory.mktemp("matching")
    metadata = data.draw(st.lists(metadata_rows, min_size=1, max_size=24))
    count = len(metadata)
    places = st.lists(st.integers(0, 3), min_size=count, max_size=count)
    owners = st.lists(st.sampled_from([(3,), (9,), (3, 9)]), min_size=count, max_size=count)
    home, owner = data.draw(places), data.draw(owners)
    first = data.draw(st.sampled_from([0, 65_530, 2**32 - 2**21]))
    stored = {first + row: entry for row, entry in enumerate(metadata)}
    sources = []
    for extent in (1, 2, 3):
        tenants = {
            tenant: [
                first + row for row in range(count) if home[row] == extent and tenant in owner[row]
            ]
            for tenant in (3, 9)
        }
        sources.append(Written(folder, extent, tenants, stored).open())
    for where in data.draw(st.lists(wheres, min_size=1, max_size=6)):
        for tenant in (3, 9, 4):
            seen = [first + row for row in range(count) if tenant in owner[row]]
            fresh = [(row, stored[row]) for row in seen if home[row - first] == 0]
            found = matching(
                parse_where(where), tenant, sources, fresh, lambda seen=seen: row_set(seen), WORDS
            )
            expected = [row for row in seen if naive_filters.holds(where, stored[row])]
            assert found.rows.tolist() == expected, where
    for tenant in (3, 9):
        for source in sources:
            held = sorted({row for entry in source.entries(tenant) for row in entry.rows.tolist()})
            assert not list(faults(source, tenant, numbers(*held), stored.get))


@pytest.mark.parametrize("among", [EDGES, TEXTS, [None, True, False, *EDGES, *TEXTS]])
def test_every_operator_on_every_pair(tmp_path: Path, among: list[Any]) -> None:
    """Rows in an order unlike that of their values, each value twice."""
    held = [*among[::-1], *among[1::2], *among[::2]]
    metadata: dict[int, Metadata] = {row: {"a": x, "l": [x]} for row, x in enumerate(held)}
    source = Written(tmp_path, 1, {1: list(metadata)}, metadata).open()
    names = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]
    operands = [*among, 10**400, -(10**400), 2**64 + 1, float(2**65)]
    clauses: list[Any] = [{"a": {name: x}} for name in names for x in operands]
    clauses += [{name: {"$contains": x}} for name in "al" for x in operands]
    clauses += [{"a": {"$gte": x, "$lt": y}} for x in operands for y in operands]
    for where in clauses:
        expected = [row for row, entry in metadata.items() if naive_filters.holds(where, entry)]
        assert ask(source, 1, where, list(metadata)) == expected, where
    assert not list(faults(source, 1, numbers(*metadata), metadata.get))


def test_many_rows(tmp_path: Path) -> None:
    """Enough of them for bitmaps to be dense, in no order of values."""
    rng = np.random.default_rng(0)
    count = 50_000
    days = rng.permutation(count).tolist()
    metadata: dict[int, Metadata] = {
        row: {"day": day, "name": f"name {day:05d}", "part": day % 7, "odd": bool(day % 2)}
        for row, day in enumerate(days)
    }
    source = Written(tmp_path, 1, {1: list(range(count))}, metadata).open()
    everything = list(range(count))
    cases: list[tuple[Any, Callable[[int], bool]]] = [
        ({"day": {"$gte": 100, "$lt": 49_000}}, lambda day: 100 <= day < 49_000),
        ({"day": {"$gt": 100.5}}, lambda day: day > 100),
        ({"name": {"$contains": "99"}}, lambda day: "99" in f"{day:05d}"),
        ({"name": {"$contains": "name"}}, lambda day: True),
        ({"name": {"$gte": "name 2", "$lte": "name 30000"}}, lambda day: 20_000 <= day <= 30_000),
        ({"part": {"$in": [1, 3, 99]}}, lambda day: day % 7 in (1, 3)),
        (
            {"part": {"$nin": [1, 3]}, "odd": False},
            lambda day: day % 7 not in (1, 3) and not day % 2,
        ),
        ({"odd": {"$exists": True}}, lambda day: True),
    ]
    for where, holds in cases:
        expected = [row for row in everything if holds(days[row])]
        assert ask(source, 1, where, everything) == expected, where


def test_rows_in_any_order(tmp_path: Path) -> None:
    metadata: dict[int, Metadata] = {row: {"a": row % 2, "b": "x"} for row in range(10)}
    source = Written(tmp_path, 1, {1: [7, 2, 9, 0, 4]}, metadata).open()
    assert ask(source, 1, {"a": 0}) == [0, 2, 4]
    assert [entry.rows.tolist() for entry in source.entries(1)] == [
        [0, 2, 4],
        [7, 9],
        [0, 2, 4, 7, 9],
    ]


ODD: list[dict[str, Any]] = [
    {"": 1},
    {"$gt": 1, "$and": [1], "$": None},
    {"ключ": "значение", "\x00": "\x00", "\U0010ffff": "\U0010ffff"},
    {"a.b": {"c": 1}},
    {"long": "x" * (1 << 20) + "needle"},
    {"x" * 100_000: True},
    {f"field {i}": i for i in range(5_000)},
    {"nest": [[[[[{"deep": [None, True, 1.5, "s", {}]}]]]]]},
    {"list": [1, 1.0, True, "1", None, [], [1], {}, 1]},
    {"big": 2**64 - 1, "small": -(2**63), "float": 1.5e300, "zero": -0.0},
    {"text": "a\x00b", "joined": ["ab", "a", "b"]},
    {},
]


def test_odd_metadata(tmp_path: Path) -> None:
    metadata: dict[int, Metadata] = dict(enumerate(ODD))
    rows = list(metadata)
    written = Written(tmp_path, 1, {1: rows}, metadata)
    source = written.open()
    assert written.record.count == len(rows)
    assert not list(faults(source, 1, numbers(*rows), metadata.get))
    for row, entry in metadata.items():
        for field, value in (entry or {}).items():
            if not field.startswith("$"):
                assert row in ask(source, 1, {field: {"$eq": value}})
                assert row in ask(source, 1, {field: {"$exists": True}})
    assert ask(source, 1, {"long": {"$contains": "xneedle"}}) == [4]
    assert ask(source, 1, {"list": {"$contains": 1}}) == [8]
    assert ask(source, 1, {"list": {"$contains": [1.0]}}) == [8]
    assert ask(source, 1, {"list": {"$contains": False}}) == []
    assert ask(source, 1, {"zero": 0, "big": {"$gt": 2**64 - 2}}) == [9]
    assert ask(source, 1, {"big": {"$gte": float(2**64)}}) == []
    assert ask(source, 1, {"text": {"$contains": "a\x00"}}) == [10]
    assert ask(source, 1, {"field 4999": 4999}) == [6]
    assert ask(source, 1, {"field 5000": {"$exists": True}}) == []


def test_substrings_do_not_span_strings(tmp_path: Path) -> None:
    metadata: dict[int, Metadata] = {0: {"a": "xy"}, 1: {"a": "yz"}, 2: {"a": ""}, 3: {"a": "yxyx"}}
    source = Written(tmp_path, 1, {1: [0, 1, 2, 3]}, metadata).open()
    for part, rows in {"xy": [0, 3], "yy": [], "y": [0, 1, 3], "": [0, 1, 2, 3], ".": []}.items():
        assert ask(source, 1, {"a": {"$contains": part}}) == rows
    raw = Written(tmp_path, 2, {1: [0, 1]}, {0: {"a": "é("}, 1: {"a": "[é"}}).open()
    assert ask(raw, 1, {"a": {"$contains": "é("}}) == [0]
    assert ask(raw, 1, {"a": {"$contains": "[é"}}) == [1]


def test_values_of_a_list_count_once(tmp_path: Path) -> None:
    assert list(entries_of({"a": [1, 1.0, True]})) == [
        ("a", ValueKind.LIST, Value(ValueKind.LIST, b"[3:i1:i1:t")),
        ("a", ValueKind.NUMBER + 8, Value(ValueKind.NUMBER, 1)),
        ("a", ValueKind.BOOL + 8, Value(ValueKind.BOOL, True)),
    ]
    source = Written(tmp_path, 1, {1: [3]}, {3: {"a": [2**60 + 1, None, "x"]}}).open()
    entries = [(entry.field, entry.is_member, entry.value.payload) for entry in source.entries(1)]
    assert entries == [
        ("a", False, b"[3:i1000000000000001:ns1:x"),
        ("a", True, None),
        ("a", True, 2**60 + 1),
        ("a", True, "x"),
    ]


def test_tenants_without_metadata(tmp_path: Path) -> None:
    written = Written(tmp_path, 1, {1: [0], 2: [1, 2], 7: [], 8: [3]}, {1: {"a": 1}, 3: {}})
    source = written.open()
    assert source.tenants.tolist() == [2]
    assert written.record.kind == ExtentKind.ATTRIBUTES
    assert written.record.count == 4
    for tenant in (0, 1, 7, 8, 9, 2**32 - 1):
        assert ask(source, tenant, {"a": {"$exists": True}}) == []
        assert list(source.entries(tenant)) == []
        assert ask(source, tenant, {"a": {"$ne": 1}}, [4]) == [4]
    empty = Written(tmp_path, 2, {}, {}).open()
    assert empty.tenants.tolist() == []
    assert ask(empty, 1, {"a": 1}) == []


def test_fresh_rows_are_not_taken_from_the_universe() -> None:
    fresh = [(1, {"a": 1}), (2, {"a": 2}), (3, None)]
    where = parse_where({"a": {"$ne": 1}})
    for seen in ([1, 2, 3, 4], [4]):
        found = matching(where, 1, [], fresh, lambda seen=seen: row_set(seen), WORDS)
        assert found.rows.tolist() == [2, 3, 4]


def test_answers_leave_what_they_came_from_alone(tmp_path: Path) -> None:
    source = Written(tmp_path, 1, {1: [0, 1]}, {0: {"a": 1}}).open()
    everything = RowSet.of(1, [numbers(0, 1)])
    for where in ({}, {"a": 1}, {"a": {"$ne": 1}}):
        found = matching(parse_where(where), 1, [source], [], lambda: everything, 1)
        for array in (found.rows, found.bits):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 0
    assert everything.rows.tolist() == [0, 1]
    assert ask(source, 1, {"a": 1}) == [0]


def test_sizes_that_files_depend_on() -> None:
    assert TENANT_DTYPE.itemsize == 64
    assert COLUMN_DTYPE.itemsize == 48
    assert [int(kind) for kind in ValueKind] == [1, 2, 3, 4, 5, 6]


# --- whose bytes are read -----------------------------------------------------------------------

TENANTS = (2, 3, 40, 41)
QUESTIONS: list[dict[str, Any]] = [
    {"a": 1},
    {"a": {"$gt": 0}},
    {"s": {"$contains": "x"}},
    {"s": {"$lt": "y"}},
    {"l": {"$contains": 3}},
    {"a": {"$exists": True}, "s": {"$ne": "x2"}},
    {"gone": 1},
]


def several(folder: Path) -> Written:
    metadata: dict[int, Metadata] = {
        row: {"a": row % 5 - 1, "s": f"x{row % 7}", "l": [row % 4, "m"], f"f{row}": None}
        for row in range(200)
    }
    tenants = {tenant: list(range(t * 40, t * 40 + 60)) for t, tenant in enumerate(TENANTS)}
    return Written(
        folder, 1, {t: [row for row in r if row < 200] for t, r in tenants.items()}, metadata
    )


def answers(source: Attributes, tenant: int) -> list[list[int]]:
    return [ask(source, tenant, where) for where in QUESTIONS]


def test_only_the_tenants_own_bytes_are_read(tmp_path: Path) -> None:
    written = several(tmp_path)
    table, sound = written.table(), written.open()
    assert not (table["offset"] % 64).any()
    expected = {tenant: answers(sound, tenant) for tenant in TENANTS}
    assert len({str(found) for found in expected.values()}) == len(TENANTS)
    size = int((table["offset"] + table["bytes"]).max())
    start = written.bulk_start()
    path = extent_path(tmp_path, 1)
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    for entry in table:
        begin, end = (int(entry["offset"]), int(entry["offset"]) + int(entry["bytes"]))
        garbage = bytearray(rng.bytes(size))
        garbage[begin:end] = original[start + begin : start + end]
        path.write_bytes(original[:start] + garbage + original[start + size :])
        source = written.open()
        for tenant in TENANTS:
            if tenant == int(entry["tenant"]):
                assert answers(source, tenant) == expected[tenant]
                assert source.intact(tenant)
            else:
                assert not source.intact(tenant)


def test_what_others_store_changes_no_byte_of_a_tenant(tmp_path: Path) -> None:
    def bytes_of(written: Written, tenant: int) -> bytes:
        entry = written.table()[written.table()["tenant"] == tenant][0]
        begin = written.bulk_start() + int(entry["offset"])
        raw = extent_path(written.folder, written.number).read_bytes()
        return raw[begin : begin + int(entry["bytes"])]

    mine: dict[int, Metadata] = {row: {"a": row, "s": str(row)} for row in range(5)}
    others: dict[int, Metadata] = {row: {"a": -row, "zz": [row] * row} for row in range(5, 50)}
    alone = Written(tmp_path, 1, {7: list(range(5))}, mine)
    among = Written(
        tmp_path,
        2,
        {1: list(range(5, 30)), 7: list(range(5)), 9: list(range(30, 50))},
        mine | others,
    )
    assert bytes_of(alone, 7) == bytes_of(among, 7)


# --- damage -------------------------------------------------------------------------------------


def test_damage_to_one_tenant(tmp_path: Path) -> None:
    """Wherever a bit of its bytes changes, this tenant raises and the others answer."""
    written = several(tmp_path)
    expected = {tenant: answers(written.open(), tenant) for tenant in TENANTS}
    entry = written.table()[1]
    hurt, size = int(entry["tenant"]), int(entry["bytes"])
    for place in [0, 1, size // 3, size // 2, size - COLUMN_DTYPE.itemsize, size - 1]:
        written.change(Section.ATTRIBUTES, int(entry["offset"]) + place)
        source = written.open()
        answers(source, TENANTS[0])
        for _ in range(2):
            with pytest.raises(CorruptionError, match="does not match its checksum") as caught:
                ask(source, hurt, {"gone": 1})
        assert "tenant 3 in extent 1" in str(caught.value)
        assert "restore a backup" in str(caught.value)
        assert (caught.value.collection, caught.value.tenant) == ("docs", hurt)
        assert caught.value.extent == 1
        assert isinstance(caught.value, OSError)
        with pytest.raises(CorruptionError):
            list(source.entries(hurt))
        with pytest.raises(CorruptionError):
            list(faults(source, hurt, numbers(), written.metadata.get))
        assert not source.intact(hurt)
        for tenant in set(TENANTS) - {hurt}:
            assert answers(source, tenant) == expected[tenant]
        written.change(Section.ATTRIBUTES, int(entry["offset"]) + place)
    assert answers(written.open(), hurt) == expected[hurt]


def test_damage_to_the_table(tmp_path: Path) -> None:
    written = several(tmp_path)
    written.change(Section.ATTRIBUTE_TENANTS, 3)
    with pytest.raises(CorruptionError, match="ATTRIBUTE_TENANTS part of extent 1"):
        written.open()


def test_table_beyond_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extent = Extent(tmp_path, 1, several(tmp_path).record, "docs")
    table = extent.array(Section.ATTRIBUTE_TENANTS, TENANT_DTYPE).copy()
    table[-1]["offset"] += 1 << 20
    usual = extent.array
    monkeypatch.setattr(
        extent, "array", lambda s, d: table if s == Section.ATTRIBUTE_TENANTS else usual(s, d)
    )
    with pytest.raises(CorruptionError, match="Extent 1 names metadata beyond its end; restore"):
        Attributes(extent)


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path) -> None:
    def metadata(row: int) -> Metadata:
        if row == 3:
            raise OSError("no such page")
        return {"a": row}

    with pytest.raises(OSError, match="no such page"):
        write_attributes(tmp_path, 1, 5, 4, [(1, numbers(1, 2, 3))], metadata)
    assert list(tmp_path.iterdir()) == []


# --- check --------------------------------------------------------------------------------------


def test_faults_name_rows_that_disagree(tmp_path: Path) -> None:
    metadata: dict[int, Metadata] = {row: {"a": row % 3, "l": [row, "x"]} for row in range(20)}
    source = Written(tmp_path, 1, {1: list(range(20))}, metadata).open()
    rows = np.arange(20, dtype=np.uint32)
    assert not list(faults(source, 1, rows, metadata.get))
    assert not list(faults(source, 1, rows[5:9], metadata.get))  # the others died
    assert not list(faults(source, 1, rows[:0], metadata.get))
    for wrong in ({"a": 7, "l": [4, "x"]}, {"a": 1}, None, {"a": 1, "l": [4, "x"], "b": None}):
        said = list(faults(source, 1, rows, (metadata | {4: wrong}).get))
        assert said == ["The metadata index of tenant 1 disagrees with the metadata of 1 rows: 4."]
    more = np.arange(30, dtype=np.uint32)
    said = list(faults(source, 1, more, lambda row: {"a": row % 3, "l": [row, "x"]}))
    assert len(said) == 1
    assert "metadata of 10 rows: 20, 21, 22, 23, 24, …" in said[0]


def test_faults_name_fields_out_of_order(tmp_path: Path) -> None:
    """An index in the wrong order has a sound checksum, and finds too little."""
    metadata: dict[int, Metadata] = {0: {"a": 1, "b": 1}, 1: {"a": 2, "b": 1}}
    source = Written(tmp_path, 1, {1: [0, 1]}, metadata).open()
    entries = list(source.entries(1))
    swapped = [entries[1], entries[0], entries[2]._replace(rows=entries[2].rows[::-1])]
    source.entries = lambda tenant: iter(swapped)  # type: ignore[method-assign]
    said = list(faults(source, 1, numbers(0, 1), metadata.get))
    assert said == [
        "Values of field 'a' of tenant 1 are out of order.",
        "Rows of a value of field 'b' of tenant 1 are out of order.",
    ]
    swapped = [entries[0], entries[0]._replace(rows=numbers()), *entries[1:]]
    said = list(faults(source, 1, numbers(0, 1), metadata.get))
    assert said == ["Values of field 'a' of tenant 1 are out of order."]


@given(st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False)))
def test_stored_metadata_has_the_entries_of_the_original(metadata: dict[str, Any]) -> None:
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(metadata))
    assert sorted(entries_of(again)) == sorted(entries_of(metadata))
