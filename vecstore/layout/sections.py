"""Extents: the header, the sections, and tables in them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

from vecstore.config import CHUNK_ROWS
from vecstore.layout.base import PAGE


class ExtentKind(IntEnum):
    """What an extent holds."""

    RAW = 1
    POSTINGS = 2
    DIRECTORY = 3
    ATTRIBUTES = 4
    PIECE = 5  # of a build under way; see `vecstore.checkpoint`


class Section(IntEnum):
    """Parts of an extent; the type is that of one element."""

    ROWS = 1  # raw rows (count, row bytes); checked by ROW_SUMS
    ROW_SUMS = 2  # u64, xxh3 of each 4,096-byte page of ROWS
    ORDER = 3  # u32, place of the row in order of insertion
    IDS = 4  # u64 ids, or utf8 of all ids
    ID_ENDS = 5  # u64, end of each utf8 id in IDS; absent for int ids
    BLOCKS = 6  # code blocks and lists; checked by the sums in RUNS
    RUNS = 7  # RUN_DTYPE, sorted by tenant and posting
    SIGNS = 8  # f32 (rounds, padded dim), of the rotation
    CODEBOOK = 9  # f32 (parts, part dim, 256), then the scale of error bounds
    MATRIX = 10  # f32 (parts * part dim, dim), its learned rotation
    TENANTS = 11  # TENANT_DTYPE, one per directory, sorted by tenant
    DIRECTORIES = 12  # one after the other; checked by the sums in TENANTS
    ATTRIBUTES = 13  # columns of tenants; checked by the sums in ATTRIBUTE_TENANTS
    ATTRIBUTE_TENANTS = 14  # attributes.TENANT_DTYPE, sorted by tenant
    OWNERS = 15  # u32, tenant of each row; absent in a collection without tenants
    PLACES = 16  # PLACES_DTYPE, one per chunk; absent when every row of the range has a place
    INTS = 17  # i32, of a piece of a build
    FLOATS = 18  # f32, of a piece of a build


SECTIONS_MAX: Final = 16
BULK_SECTIONS: Final = frozenset(
    {Section.ROWS, Section.BLOCKS, Section.DIRECTORIES, Section.ATTRIBUTES}
)

SECTION_DTYPE: Final = np.dtype(
    [("section", "<u4"), ("pad", "<u4"), ("offset", "<u8"), ("bytes", "<u8"), ("sum", "<u8")]
)
assert SECTION_DTYPE.itemsize == 32

HEADER_DTYPE: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("kind", "<u4"),
        ("collection", "<u4"),
        ("codec", "<u4"),  # of postings; the raw form of raw rows
        ("first_row", "<u8"),
        ("count", "<u8"),
        ("dim", "<u4"),
        ("sections", "<u4"),
        ("extent", "<u8"),
        ("bytes", "<u8"),
        ("table", SECTION_DTYPE, (SECTIONS_MAX,)),
        ("sum", "<u8"),
    ]
)
assert HEADER_DTYPE.itemsize == 64 + SECTIONS_MAX * 32 + 8
assert HEADER_DTYPE.itemsize <= PAGE

RUN_DTYPE: Final = np.dtype(
    [
        ("tenant", "<u4"),
        ("posting", "<u4"),
        ("offset", "<u8"),  # from the start of BLOCKS
        ("rows", "<u4"),
        ("blocks", "<u4"),  # 0: a list of the row numbers, u32 (rows,)
        ("sum", "<u8"),  # xxh3 of the run's bytes
    ]
)
assert RUN_DTYPE.itemsize == 32

# A directory, its parts in this order, each at a multiple of 64 bytes:
#
# centroids f32 (postings, dim) | numbers u32 (postings,)
# and for more postings than one:
# centre f32 (dim,) | super-centroids f32 (pages, dim) | PAGE_DTYPE (pages,) | code blocks
#
# The centre is subtracted before rotation; that of a single posting is its centroid.  A posting
# that is a list of rows has no centroid, and its directory no bytes.

TENANT_DTYPE: Final = np.dtype(
    [
        ("tenant", "<u4"),
        ("postings", "<u4"),
        ("pages", "<u4"),
        ("posting", "<u4"),  # number of the first
        ("offset", "<u8"),  # from the start of DIRECTORIES
        ("bytes", "<u8"),  # 0: one posting, a list
        ("sum", "<u8"),  # xxh3 of the directory's bytes
    ]
)
assert TENANT_DTYPE.itemsize == 40

PAGE_DTYPE: Final = np.dtype([("offset", "<u8"), ("blocks", "<u4"), ("rows", "<u4")])
assert PAGE_DTYPE.itemsize == 16

PLACES_DTYPE: Final = np.dtype(
    [
        ("bits", "<u8", (CHUNK_ROWS // 64,)),  # rows of the chunk that have a place
        ("ranks", "<u4", (CHUNK_ROWS // 64,)),  # of them, those before each word
        ("start", "<u4"),  # place of the first of them
        ("pad", "<u4"),
    ]
)
assert PLACES_DTYPE.itemsize == 200
