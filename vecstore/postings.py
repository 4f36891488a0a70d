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

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.codecs import Model
from vecstore.config import BLOCK_ROWS
from vecstore.errors import CorruptionError
from vecstore.extents import Extent, ExtentWriter
from vecstore.kernels.encode import encode_runs
from vecstore.kernels.view import RAW_FORM
from vecstore.layout import NO_ROW, PAGE, RUN_DTYPE, ExtentKind, ExtentRecord, Section, align

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
PIECE_BYTES = 16 << 20
ENCODE_PARTS = 8


def group(homes: NDArray[np.int32], numbers: U32, postings: int) -> tuple[I64, U32]:
    """Turn homes of rows into rows of postings.

    Parameters
    ----------
    homes : int32 (rows, copies)
        Posting ordinals, -1 for none.
    numbers : uint32 (rows,)
        Row number of each.
    postings : int

    Returns
    -------
    first : int64 (postings + 1,)
    rows : uint32
        Rows of posting p are rows[first[p]:first[p + 1]], ascending.
    """
    which, column = np.nonzero(homes >= 0)
    home = homes[which, column]
    rows = numbers[which]
    order = np.lexsort((rows, home))
    first = np.zeros(postings + 1, np.int64)
    first[1:] = np.cumsum(np.bincount(home, minlength=postings))
    return first, rows[order]


def place_runs(sizes: I64) -> I64:
    """Offsets for runs of the given bytes: aligned to pages, or kept within one."""
    offsets = np.empty(len(sizes), np.int64)
    at = 0
    for i, size in enumerate(sizes.tolist()):
        if size >= PAGE or at // PAGE != (at + size - 1) // PAGE:
            at = align(at, PAGE)
        offsets[i] = at
        at += size
    return offsets


def write_postings(
    folder: Path,
    number: int,
    collection: int,
    tenant: int,
    model: Model,
    form: int,
    centroids: F32,
    postings: U32,
    first: I64,
    rows: U32,
    addresses: I64,
    pool: ThreadPoolExecutor,
) -> ExtentRecord:
    """Encode rows against the centroids of their postings and write one extent.

    Parameters
    ----------
    model : Model
        Of the posting codec.
    form : int
        Number of the form of raw rows.
    centroids : float32 (postings, dim)
    postings : uint32 (postings,)
        Posting numbers, ascending.  Empty postings get no run.
    first, rows
        From `group`.
    addresses : int64
        Addresses of the raw rows, aligned with `rows`.
    pool : ThreadPoolExecutor
        Its threads encode.
    """
    counts = np.diff(first)
    blocks = -(-counts // BLOCK_ROWS)
    view = model.view()
    view[RAW_FORM] = form
    sizes = blocks * model.codec.run_block_bytes(model.dim)
    offsets = place_runs(sizes)
    runs = np.zeros(len(postings), RUN_DTYPE)
    runs["tenant"] = tenant
    runs["posting"] = postings
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
        begin = 0
        while begin < len(postings):
            base = int(offsets[begin])
            end = int(np.searchsorted(offsets + sizes, base + PIECE_BYTES, side="right"))
            end = max(end, begin + 1)
            length = int(offsets[end - 1] + sizes[end - 1]) - base
            piece = np.zeros(length + 64, np.uint8)
            piece = piece[-piece.ctypes.data % 64 :][:length]
            target = int(piece.ctypes.data) - base
            cuts = np.linspace(begin, end, ENCODE_PARTS + 1).astype(int)

            def encode(part: int, target: int = target, cuts: I64 = cuts) -> None:
                encode_runs(
                    view,
                    centroids,
                    True,
                    first,
                    addresses,
                    rows,
                    cuts[part],
                    cuts[part + 1],
                    offsets,
                    target,
                )

            list(pool.map(encode, range(ENCODE_PARTS)))
            for run in range(begin, end):
                start = int(offsets[run]) - base
                data = piece[start : start + int(sizes[run])]
                runs[run]["sum"] = xxhash.xxh3_64_intdigest(data.data)
            writer.pad_to(base)
            writer.write(piece)
            begin = end
        writer.end()
        writer.add(Section.RUNS, runs[counts > 0])
        return writer.finish(int(counts.sum()))
    except BaseException:
        writer.abandon()
        raise


class PostingRuns:
    """The runs of one mapped postings extent."""

    def __init__(self, extent: Extent, run_block_bytes: int) -> None:
        self.extent = extent
        self._run_block_bytes = run_block_bytes
        self.runs = extent.array(Section.RUNS, RUN_DTYPE)
        self.address = extent.address(Section.BLOCKS)
        blocks = extent.array(Section.BLOCKS, np.uint8)
        lengths = self.runs["blocks"].astype(np.uint64) * np.uint64(run_block_bytes)
        ends = self.runs["offset"] + lengths
        if len(self.runs) and int(ends.max()) > blocks.nbytes:
            raise extent.corrupt(f"Extent {extent.number} names a run beyond its end.")
        self.checked = np.zeros(len(self.runs), np.bool_)

    def data(self, run: int) -> NDArray[np.uint8]:
        """Bytes of a run."""
        entry = self.runs[run]
        start = int(entry["offset"])
        end = start + int(entry["blocks"]) * self._run_block_bytes
        data: NDArray[np.uint8] = self.extent.array(Section.BLOCKS, np.uint8)[start:end]
        return data

    def intact(self, run: int) -> bool:
        """Hold a run against its checksum."""
        found = xxhash.xxh3_64_intdigest(self.data(run).data)
        return bool(found == int(self.runs[run]["sum"]))

    def entries(self, run: int, block_bytes: int) -> U32:
        """Row numbers that a run holds, in order."""
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
        )
