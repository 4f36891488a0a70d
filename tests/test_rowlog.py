"""The row log: entries of several rows, read back whole, whatever they are divided into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernel_checks import address
from tests.store_checks import normal
from vecstore import layout, rowlog
from vecstore.errors import CorruptionError
from vecstore.extent_set import Identity
from vecstore.ids import parse_ids
from vecstore.layout import CollectionRecord, Kind, StateRecord
from vecstore.rowlog import RowLog, log_entries, read_log
from vecstore.transaction import Transaction

DIM = 3
NUMBER = 7
IDENTITY = Identity("docs", CollectionRecord(NUMBER, DIM, 0, True, "auto", "float32", 0), Path())
ROW_BYTES = IDENTITY.row_bytes


class Entries:
    """What `Transaction.scan` gives of some entries."""

    def __init__(self, entries: list[tuple[bytes, bytes]]) -> None:
        self.entries = entries

    def scan(self, prefix: bytes, start: bytes) -> Any:
        """Walk the entries from a key on."""
        return (pair for pair in self.entries if pair[0] >= start)


def raw(count: int) -> Any:
    return normal(count, DIM, seed=count).view(np.uint8).reshape(count, ROW_BYTES)


def ids_in(log: RowLog) -> list[Any]:
    return [log.id_at(place) for place in range(log.count)]


ids_of_calls = st.one_of(
    st.lists(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=9, unique=True), max_size=5),
    st.lists(st.lists(st.text(min_size=1, max_size=9).filter(str.isprintable), min_size=1,
                      max_size=9, unique=True), max_size=5),
)  # fmt: skip


@given(ids_of_calls, st.integers(1, 4), st.data())
def test_rows_come_back(calls: list[list[Any]], together: int, data: st.DataObject) -> None:
    is_int = bool(calls) and isinstance(calls[0][0], int)
    state, log, entries = StateRecord(int_ids=is_int), RowLog(IDENTITY), Entries([])
    numbers, owners, wanted, vectors = [], [], [], [np.zeros((0, ROW_BYTES), np.uint8)]
    first = 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rowlog, "LOG_ENTRY_BYTES", together * ROW_BYTES)
        patch.setattr(rowlog, "LOG_ROOM_BYTES", 2 * ROW_BYTES)
        for ids in calls:
            has_tenants = data.draw(st.booleans())
            own = data.draw(
                st.lists(st.integers(1, 3), min_size=len(ids), max_size=len(ids))
                if has_tenants
                else st.just([0] * len(ids))
            )
            rows = raw(len(ids))
            new = list(log_entries(NUMBER, first, np.array(own, np.uint32), parse_ids(ids), rows))
            assert len(new) == -(-len(ids) // together)
            entries.entries += new
            log.catch_up(entries, state)  # type: ignore[arg-type]
            numbers += range(first, first + len(ids))
            owners += own
            wanted += ids
            vectors.append(rows)
            first += len(ids) + data.draw(st.integers(0, 2))
    late = RowLog(IDENTITY)
    late.catch_up(entries, state)  # type: ignore[arg-type]
    for one in (log, late):
        assert one.count == len(numbers)
        assert one.numbers[: one.count].tolist() == numbers
        assert ids_in(one) == wanted
        assert one.owners[: one.count].tolist() == owners
        assert np.array_equal(one.vectors[: one.count], np.concatenate(vectors))
        for tenant in (1, 2, 3):
            places = [place for place, owner in enumerate(owners) if owner == tenant]
            assert one.places(tenant, one.count).tolist() == places
    begin = data.draw(st.integers(0, first + 2))
    rest = log.since(begin)
    start = sum(number < begin for number in numbers)
    assert (rest is log) == (start == 0)
    assert rest.numbers[: rest.count].tolist() == numbers[start:]
    assert ids_in(rest) == wanted[start:]
    assert rest.owners[: rest.count].tolist() == owners[start:]
    assert np.array_equal(rest.vectors[: rest.count], np.concatenate(vectors)[start:])
    assert log.numbers[: log.count].tolist() == numbers, "snapshots share the log as it was"
    for tenant in (1, 2, 3):
        places = [place for place, owner in enumerate(owners[start:]) if owner == tenant]
        assert rest.places(tenant, rest.count).tolist() == places
    rows = raw(2)
    extra = list(log_entries(NUMBER, first, np.zeros(2, np.uint32), parse_ids([1, 2]), rows))
    if is_int and begin <= first:
        entries.entries += extra
        rest.catch_up(entries, StateRecord(int_ids=True, log_first=begin))  # type: ignore[arg-type]
        assert rest.numbers[: rest.count].tolist() == [*numbers[start:], first, first + 1]


def test_memory_is_used_again_when_nobody_looks_at_it() -> None:
    rows, state = raw(8), StateRecord(int_ids=True)
    log, places = RowLog(IDENTITY), []
    for generation in range(6):
        first = 8 * generation
        new = log_entries(NUMBER, first, np.zeros(8, np.uint32), parse_ids(list(range(8))), rows)
        log.catch_up(Entries(list(new)), state)  # type: ignore[arg-type]
        places.append(address(log.vectors))
        held = log.ints[2:4] if generation == 2 else None
        log = log.since(first + 8)
        if held is not None:
            kept = held
    assert len(set(places[:3])) == len(set(places[3:])) == 1
    assert places[2] != places[3], "somebody holds ids of it"
    assert kept.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("payload", "is_int"),
    [
        (b"", False),
        (layout.LOG_HEAD.pack(0, 0), False),
        (layout.LOG_HEAD.pack(1, 1) + bytes(8) + b"a" + bytes(ROW_BYTES - 1), False),
        (layout.LOG_HEAD.pack(1, 1) + bytes(8) + b"a" + bytes(ROW_BYTES + 1), False),
        (layout.LOG_HEAD.pack(2, 2) + bytes(16) + b"ab" + bytes(ROW_BYTES), False),
        (layout.LOG_HEAD.pack(1, 1) + bytes(8) + b"a" + bytes(ROW_BYTES), True),
    ],
)
def test_lengths_must_agree(tmp_path: Path, payload: bytes, is_int: bool) -> None:
    with (
        lmdb.open(str(tmp_path / "facts")) as environment,
        environment.begin(write=True) as transaction,
    ):
        entries = Transaction(transaction, tmp_path)
        entries.put(layout.key_u32(NUMBER, Kind.LOG, 9), payload)
        with pytest.raises(CorruptionError, match=r"row log of collection 'docs' has .* at row 9"):
            list(read_log(entries, IDENTITY, is_int))
