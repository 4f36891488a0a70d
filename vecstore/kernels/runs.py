"""Where the runs of one tenant are: their table out of the tables of all extents."""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import load_i64, load_u32
from vecstore.kernels.view import (
    PART_BLOCKS,
    PART_CHECKED,
    PART_COUNT,
    PART_RUNS,
    PART_TENANTS,
    RUN_ADDRESS,
    RUN_BLOCKS,
    RUN_CHECKED,
    RUN_PART,
    RUN_PLACE,
    RUN_ROWS,
    RUN_SUM,
    STORED_BLOCKS,
    STORED_OFFSET,
    STORED_POSTING,
    STORED_ROWS,
    STORED_RUN_BYTES,
    STORED_SUM,
)


@kernel
def _lower_bound(values, count, wanted):
    """Place of the first of ascending uint32 values at an address that is not below `wanted`."""
    low = np.int64(0)
    high = np.int64(count)
    while low < high:
        middle = (low + high) >> 1
        if np.int64(load_u32(values, middle)) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def find_runs(parts, tenant, spans):
    """Find the runs of a tenant in each extent.

    Parameters
    ----------
    parts : int64 (extents, PART_FIELDS)
    tenant : int64
    spans : int64 (extents, 2)
        Receives the first of its runs, and the one after the last.

    Returns
    -------
    int64
        How many there are.
    """
    total = np.int64(0)
    for part in range(parts.shape[0]):
        tenants = parts[part, PART_TENANTS]
        count = parts[part, PART_COUNT]
        spans[part, 0] = _lower_bound(tenants, count, tenant)
        spans[part, 1] = _lower_bound(tenants, count, tenant + 1)
        total += spans[part, 1] - spans[part, 0]
    return total


@kernel
def _ordinal(numbers, postings, stored):
    """Place of a stored run's posting among those that count, or -1."""
    number = np.int64(load_u32(stored + STORED_POSTING, 0))
    place = _lower_bound(numbers, postings, number)
    if place < postings and np.int64(load_u32(numbers, place)) == number:
        return place
    return np.int64(-1)


@kernel
def lay_out_runs(parts, spans, numbers, first_run, table):
    """Make the table of a tenant's runs, by posting and then by extent.

    Runs of postings that are no more are left out.

    Parameters
    ----------
    parts, spans
        As `find_runs` takes and gives them.
    numbers : int64
        Address of the tenant's posting numbers, uint32 ascending.
    first_run : int64 (postings + 1,)
        Receives where the runs of each posting begin.
    table : int64 (n, RUN_FIELDS)
        Receives the runs; n is what `find_runs` counted.

    Returns
    -------
    int64
        Runs in the table.
    """
    postings = first_run.shape[0] - 1
    first_run[:] = 0
    for part in range(parts.shape[0]):
        for run in range(spans[part, 0], spans[part, 1]):
            ordinal = _ordinal(numbers, postings, parts[part, PART_RUNS] + STORED_RUN_BYTES * run)
            if ordinal >= 0:
                first_run[ordinal + 1] += 1
    for ordinal in range(postings):
        first_run[ordinal + 1] += first_run[ordinal]
    for part in range(parts.shape[0]):
        for run in range(spans[part, 0], spans[part, 1]):
            stored = parts[part, PART_RUNS] + STORED_RUN_BYTES * run
            ordinal = _ordinal(numbers, postings, stored)
            if ordinal >= 0:
                entry = table[first_run[ordinal]]
                first_run[ordinal] += 1
                entry[RUN_ADDRESS] = parts[part, PART_BLOCKS] + load_i64(stored + STORED_OFFSET, 0)
                entry[RUN_BLOCKS] = load_u32(stored + STORED_BLOCKS, 0)
                entry[RUN_SUM] = load_i64(stored + STORED_SUM, 0)
                entry[RUN_CHECKED] = parts[part, PART_CHECKED] + run
                entry[RUN_ROWS] = load_u32(stored + STORED_ROWS, 0)
                entry[RUN_PART] = part
                entry[RUN_PLACE] = run
    for ordinal in range(postings, 0, -1):  # each has moved to where the next begins
        first_run[ordinal] = first_run[ordinal - 1]
    first_run[0] = 0
    return first_run[postings]
