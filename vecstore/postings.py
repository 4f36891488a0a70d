"""Posting lists in extents: runs of code blocks, each with its place, length and checksum.

A posting is a (tenant, posting number); its entries stand in one run per extent that has any:
a base from the last training and fragments from flushes since.

Invariants
----------
* Runs of an extent are sorted by tenant and posting.
* A run of 4 KB or more starts at a page; a smaller one stays within a page.
* Every run matches its checksum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.codecs import Model
from vecstore.config import BLOCK_ROWS
from vecstore.errors import CorruptionError
from vecstore.extents import Extent, ExtentWriter
from vecstore.kernels import view as v
from vecstore.kernels.closure import count_homes, group_homes
from vecstore.kernels.encode import encode_runs
from vecstore.layout import (
    NO_ROW,
    PAGE,
    RUN_DTYPE,
    SECTION_ALIGN,
    ExtentKind,
    ExtentRecord,
    Section,
    align,
)
from vecstore.yielding import yielding

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
PIECE_BYTES = 16 << 20
ENCODE_PARTS = 8


def group(homes: NDArray[np.int32], postings: int) -> tuple[I64, U32]:
    """Turn homes of rows into rows of postings.

    Parameters
    ----------
    homes : int32 (rows, copies)
        Posting ordinals, -1 for none.
    postings : int

    Returns
    -------
    first : int64 (postings + 1,)
    rows : uint32
        Rows of posting p are rows[first[p]:first[p + 1]], ascending.
    """
    homes = np.ascontiguousarray(homes)
    first = np.zeros(postings + 1, np.int64)
    count_homes(homes, first)
    np.cumsum(first, out=first)
    rows = np.empty(int(first[-1]), np.uint32)
    group_homes(homes, first[:-1].copy(), rows)
    return first, rows


def place_runs(sizes: I64) -> I64:
    """Offsets for runs of the given bytes: aligned to pages, or kept within one."""
    offsets = np.empty(len(sizes), np.int64)
    at = 0
    for i, size in enumerate(sizes.tolist()):
        at = align(at, SECTION_ALIGN)
        if size >= PAGE or at // PAGE != (at + size - 1) // PAGE:
            at = align(at, PAGE)
        offsets[i] = at
        at += size
    return offsets


@dataclass(frozen=True)
class Postings:
    """Postings of some tenants, to be written.

    Attributes
    ----------
    tenants, numbers : uint32 (postings,)
        Tenant and posting number, ascending.
    centroids : float32 (postings, dim)
        Not looked at for lists.
    centres : int64 (postings,)
        Address of what is subtracted before the rotation.
    listed : bool (postings,)
        Those that are written as a list of row numbers instead of codes.
    first : int64 (postings + 1,), places : uint32 (entries,)
        Rows of posting p stand at places[first[p]:first[p + 1]] ...
    rows : uint32, addresses : int64
        ... of these: their numbers, and addresses of their raw vectors.
    """

    tenants: U32
    numbers: U32
    centroids: F32
    centres: I64
    listed: NDArray[np.bool_]
    first: I64
    places: U32
    rows: U32
    addresses: I64


def write_postings(
    folder: Path,
    number: int,
    collection: int,
    model: Model,
    form: int,
    postings: Postings,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
) -> ExtentRecord:
    """Encode rows against the centroids of their postings and write one extent.

    Parameters
    ----------
    model : Model
        Of the posting codec.
    form : int
        Number of the form of raw rows.
    postings : Postings
        Empty ones get no run.
    pool : ThreadPoolExecutor
        Its threads encode.
    progress : callable
        Told the entries that are done.
    """
    counts = np.diff(postings.first)
    blocks = np.where(postings.listed, 0, -(-counts // BLOCK_ROWS))
    view = model.view()
    view[v.RAW_FORM] = form
    sizes = np.where(postings.listed, 4 * counts, blocks * model.codec.run_block_bytes(model.dim))
    offsets = place_runs(sizes)
    runs = np.zeros(len(counts), RUN_DTYPE)
    runs["tenant"] = postings.tenants
    runs["posting"] = postings.numbers
    runs["offset"] = offsets
    runs["rows"] = counts
    runs["blocks"] = blocks
    writer = ExtentWriter(
        folder,
        number,
        ExtentKind.POSTINGS,
        collection=collection,
        dim=model.dim,
        codec=model.codec.kind,
    )
    try:
        writer.begin(Section.BLOCKS)
        for begin, end in _pieces(offsets, sizes):
            base = int(offsets[begin])
            piece = _encode_piece(view, postings, offsets, sizes, begin, end, pool)
            for run in yielding(range(begin, end)):
                start = int(offsets[run]) - base
                data = piece[start : start + int(sizes[run])]
                runs[run]["sum"] = xxhash.xxh3_64_intdigest(data.data)
            writer.pad_to(base)
            writer.write(piece)
            progress(int(postings.first[end]))
        writer.end()
        writer.add(Section.RUNS, runs[counts > 0])
        return writer.finish(int(counts.sum()))
    except BaseException:
        writer.abandon()
        raise


def _pieces(offsets: I64, sizes: I64) -> Iterator[tuple[int, int]]:
    """Cut runs into ranges of about `PIECE_BYTES`."""
    begin = 0
    while begin < len(sizes):
        base = int(offsets[begin])
        end = int(np.searchsorted(offsets + sizes, base + PIECE_BYTES, side="right"))
        end = max(end, begin + 1)
        yield begin, end
        begin = end


def _encode_piece(
    view: I64,
    postings: Postings,
    offsets: I64,
    sizes: I64,
    begin: int,
    end: int,
    pool: ThreadPoolExecutor,
) -> NDArray[np.uint8]:
    """Encode runs `begin` to `end` - 1 side by side."""
    base = int(offsets[begin])
    length = int(offsets[end - 1] + sizes[end - 1]) - base
    piece = np.zeros(length + 64, np.uint8)
    piece = piece[-piece.ctypes.data % 64 :][:length]
    target = int(piece.ctypes.data) - base
    places = postings.places[int(postings.first[begin]) : int(postings.first[end])]
    first = postings.first - postings.first[begin]
    rows, addresses = postings.rows[places], postings.addresses[places]
    for run in (begin + np.flatnonzero(postings.listed[begin:end])).tolist():
        at = int(offsets[run]) - base
        piece[at : at + int(sizes[run])].view(np.uint32)[:] = rows[first[run] : first[run + 1]]

    def encode(span: tuple[int, int]) -> None:
        encode_runs(
            view,
            postings.centroids,
            postings.centres,
            True,
            first,
            addresses,
            rows,
            *span,
            offsets,
            target,
        )

    coded = begin + np.flatnonzero(~postings.listed[begin:end])
    list(pool.map(encode, _spans(coded)))
    return piece


def _spans(runs: I64) -> list[tuple[int, int]]:
    """Divide runs into some ranges of neighbours, without the runs between them."""
    breaks = np.flatnonzero(np.diff(runs) != 1) + 1
    spans = []
    for part in np.split(runs, breaks):
        if len(part):
            cuts = np.linspace(0, len(part), min(len(part), ENCODE_PARTS) + 1).astype(int)
            first = int(part[0])
            spans += [(first + int(a), first + int(b)) for a, b in pairwise(cuts)]
    return spans


def _offset(field: str) -> int:
    return int(RUN_DTYPE.fields[field][1])  # type: ignore[index]


assert _offset("posting") == v.STORED_POSTING
assert _offset("offset") == v.STORED_OFFSET
assert _offset("rows") == v.STORED_ROWS
assert _offset("blocks") == v.STORED_BLOCKS
assert _offset("sum") == v.STORED_SUM
assert RUN_DTYPE.itemsize == v.STORED_RUN_BYTES


class PostingRuns:
    """The runs of one mapped postings extent.

    Attributes
    ----------
    runs : RUN_DTYPE (n,)
    checked : bool (n,)
        Those that matched their checksums; kernels set it too.
    """

    def __init__(self, extent: Extent, run_block_bytes: int) -> None:
        self.extent = extent
        self._run_block_bytes = run_block_bytes
        self.runs = extent.array(Section.RUNS, RUN_DTYPE)
        self._blocks: NDArray[np.uint8] = extent.array(Section.BLOCKS, np.uint8)
        self.tenants: U32 = np.ascontiguousarray(self.runs["tenant"])
        coded = self.runs["blocks"].astype(np.int64) * run_block_bytes
        lengths = np.where(self.runs["blocks"] > 0, coded, 4 * self.runs["rows"].astype(np.int64))
        ends = self.runs["offset"] + lengths.astype(np.uint64)
        if len(self.runs) and int(ends.max()) > self._blocks.nbytes:
            raise extent.corrupt(f"Extent {extent.number} names a run beyond its end.")
        self.checked = np.zeros(len(self.runs), np.bool_)

    @property
    def part(self) -> tuple[int, ...]:
        """What kernels find its runs by: PART_FIELDS numbers, valid as long as this is."""
        return (
            self.tenants.ctypes.data,
            self.extent.address(Section.RUNS),
            len(self.runs),
            self.extent.address(Section.BLOCKS),
            self.checked.ctypes.data,
        )

    def data(self, run: int) -> NDArray[np.uint8]:
        """Bytes of a run."""
        _, _, start, rows, blocks, _ = self.runs[run].item()
        return self._blocks[start : start + (blocks * self._run_block_bytes or 4 * rows)]

    def intact(self, run: int) -> bool:
        """Hold a run against its checksum."""
        found = xxhash.xxh3_64_intdigest(self.data(run).data)
        return bool(found == int(self.runs[run]["sum"]))

    def entries(self, run: int, block_bytes: int) -> U32:
        """Row numbers that a run holds, in order."""
        if not self.runs[run]["blocks"]:
            listed: U32 = self.data(run).view(np.uint32)
            return listed
        data = self.data(run)[: int(self.runs[run]["blocks"]) * block_bytes]
        numbers: U32 = data.view(np.uint32).reshape(-1, block_bytes // 4)[:, -BLOCK_ROWS:].ravel()
        rows: U32 = numbers[numbers != np.uint32(NO_ROW)]
        return rows

    def damage(self, run: int) -> CorruptionError:
        """Build the error for a run that does not match its checksum."""
        entry = self.runs[run]
        return self.extent.corrupt(
            f"Posting {int(entry['posting'])} of tenant {int(entry['tenant'])} in extent "
            f"{self.extent.number} does not match its checksum; restore a backup.",
            node=int(entry["posting"]),
            tenant=int(entry["tenant"]) or None,
        )
