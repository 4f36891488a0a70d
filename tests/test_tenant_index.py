"""Where a tenant's runs are: what the kernels make of the extents, against plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import examples
from vecstore.kernels import view as v
from vecstore.kernels.runs import find_runs, lay_out_runs
from vecstore.layout import RUN_DTYPE

tenants = st.integers(0, 4) | st.just(2**32 - 1)
stored_runs = st.lists(st.tuples(tenants, st.integers(0, 9)), max_size=12)


def stored(extent: int, runs: list[tuple[int, int]]) -> Any:
    """One extent's table of runs, sorted as it is on disk, all other fields told apart."""
    table = np.zeros(len(runs), RUN_DTYPE)
    for place, (tenant, posting) in enumerate(sorted(runs)):
        number = 100 * extent + place
        table[place] = (tenant, posting, 64 * number, number, 1_000 + number, 2**64 - 1 - number)
    return table


@settings(max_examples=examples(200))
@given(
    st.lists(stored_runs, max_size=4),
    tenants,
    st.sets(st.integers(0, 9), min_size=1),
)
def test_runs_of_a_tenant(
    extents: list[list[tuple[int, int]]], tenant: int, postings: set[int]
) -> None:
    """By posting, then by extent, the oldest first; runs of postings that are no more left out."""
    tables = [stored(extent, runs) for extent, runs in enumerate(extents)]
    owners = [np.ascontiguousarray(table["tenant"]) for table in tables]
    checked = [np.zeros(len(table), np.bool_) for table in tables]
    parts = np.array(
        [
            (own.ctypes.data, table.ctypes.data, len(table), 10**6 * place, marks.ctypes.data)
            for place, (own, table, marks) in enumerate(zip(owners, tables, checked, strict=True))
        ],
        np.int64,
    ).reshape(len(tables), v.PART_FIELDS)
    numbers = np.array(sorted(postings), np.uint32)
    spans = np.empty((len(tables), 2), np.int64)
    count = find_runs(parts, tenant, spans)
    assert count == sum(own == tenant for runs in extents for own, _ in runs)
    first = np.empty(len(numbers) + 1, np.int64)
    found = np.full((count, v.RUN_FIELDS), -1, np.int64)
    kept = lay_out_runs(parts, spans, numbers.ctypes.data, first, found)
    wanted, starts = [], [0]
    for posting in numbers.tolist():
        for part, table in enumerate(tables):
            for place, run in enumerate(table.tolist()):
                if run[:2] == (tenant, posting):
                    address = 10**6 * part + run[2]
                    mark = checked[part].ctypes.data + place
                    wanted.append([address, run[4], run[5] - 2**64, mark, run[3], part, place])
        starts.append(len(wanted))
    assert found[:kept].tolist() == wanted
    assert first.tolist() == starts
    assert (found[kept:] == -1).all()
