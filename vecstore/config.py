"""Options, limits and their cross-checks; nothing here touches data.

Sizes are in rows or bytes as their names say.  The values that shape an index were chosen by
measurement; the figures stand in ``bench/results`` and beside the constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vecstore.errors import InvalidArgumentError

BLOCK_ROWS: Final = 32
"""Rows of one code block: the kernel keeps one accumulator for each."""

CHUNK_ROWS: Final = 1024
"""Rows of one entry of the row-address table; every raw extent starts at a multiple."""

DIM_MAX: Final = 65_536
ROWS_MAX: Final = 2**32 - 2**20
ID_BYTES_MAX: Final = 256
INT_ID_MAX: Final = 2**63 - 1
K_MAX: Final = 2**31 - 1
ANSWERS_MAX: Final = 2**28
"""Places of one batch's result at most (12 bytes each, and as much again while it runs)."""
COLLECTION_NAME_BYTES_MAX: Final = 256
TENANT_NAME_BYTES_MAX: Final = 256
METADATA_DEPTH_MAX: Final = 64
FILTER_DEPTH_MAX: Final = 32
"""Levels of a `where` clause: itself, and one for each $and, $or, $not around a condition."""

FILTER_TERMS_MAX: Final = 1_024
FILTER_BYTES_MAX: Final = 16 << 20
"""Bytes of names and operands in a `where` clause, 16 added for each of them."""

BULK_ROWS_MIN: Final = 4_096
"""A call with at least this many rows (or the fraction below of the indexed ones, whichever is
more) skips the row log and is written as extents."""

LOG_ROWS_MAX: Final = 4_096
"""The row log is flushed to extents when it holds more than this, or ...."""

LOG_INDEXED_FRACTION: Final = 1 / 64
"""... this fraction of the indexed rows, whichever is more, but never more than ..."""

LOG_BYTES_MAX: Final = 32 << 20
"""... these bytes of vectors (and at least `CHUNK_ROWS` rows)."""

LOG_ENTRY_BYTES: Final = 32 << 10
"""Rows of one call stand together in an entry of the row log, about so many bytes of vectors."""

LOG_ROOM_BYTES: Final = 64 << 20
"""Addresses that a process sets aside for the vectors of a row log, but ...; memory is taken as
they fill, and none is ever copied to a larger place unless maintenance is off."""

LOG_ROOM_ROWS: Final = 1 << 17
"""... for this many rows at most."""

GROWTH_MAX: Final = 2.0
"""A tenant is calibrated anew when it has this many times the rows that it was calibrated with, or
that part of them, ...."""

RENEWAL_MAX: Final = 0.5
"""... or when this many times as many were replaced by others since."""

POSTING_ROWS: Final = 100
"""Primary rows per posting that training aims at (1 % centroids)."""

POSTING_ROWS_MAX: Final = 512
"""Entries, copies included, that one posting of a fresh build may hold."""

POSTING_ENTRIES_MAX: Final = 400
"""Entries of a posting from which on it is divided; those of a fresh build have 200 in the mean,
those of a collection that grew by small calls 260."""

POSTING_ENTRIES_MIN: Final = 80
"""Entries below which a posting is dissolved: less than the smaller part of a division has."""

COPIES: Final = 2
"""Places of a row: its primary posting and one chosen as in SOAR."""

COPIES_ROWS_MIN: Final = 16_384
"""Rows of a tenant from which on a second copy pays: below, it costs half as many bytes again and
saves no time (SIFT, tenants of 4,000 to 34,000 rows)."""

SOAR_LAMBDA: Final = 1.0
PAGE_CENTROIDS: Final = 256
ONE_PASS_CENTROIDS_MAX: Final = 2_048

LIST_BYTES_MAX: Final = 64 << 10
"""Raw bytes of a tenant up to which its posting is a list of rows, read exactly, without codes."""

RUN_ROWS_MAX: Final = 2_048
"""Rows of a tenant up to which they make one posting, scanned whole."""

INDEX_CACHE_BYTES: Final = 32 << 20
"""Bytes of the tables of tenants used last that a process keeps, for each collection; as much again
for its views of them."""

EXTENT_BYTES_MAX: Final = 256 << 20
EXTENT_BYTES_MIN: Final = 8 << 20
EXTENT_PARTS: Final = 8
"""Raw rows of a collection, or of a load, stand in about so many extents if these are not larger or
smaller than that."""
MAP_BYTES: Final = 1 << 40
MAP_BYTES_MIN: Final = 1 << 30
READERS_MAX: Final = 1_024
CHANGES_KEPT: Final = 1_024
"""Change records kept for readers that are behind; older readers load the state whole."""

RECALL_DEFAULT: Final = 0.95

SQUARE_MAX: Final = 1e36
"""Squared length of a vector at most, so that no float32 distance or factor overflows."""

SQUARE_MIN: Final = 1.2e-38
"""Squared length below which a vector has no direction in float32 (it is denormal)."""


class Metric(IntEnum):
    """Distance of a collection; the number is stored and known to the kernels."""

    L2 = 0
    COSINE = 1
    IP = 2

    @classmethod
    def parse(cls, name: str) -> Metric:
        """Return the metric called `name` ("l2", "cosine" or "ip")."""
        try:
            return cls[name.upper()] if name == name.lower() else cls[""]
        except (KeyError, AttributeError):
            raise InvalidArgumentError(f"metric is {name!r}; use 'l2', 'cosine' or 'ip'.") from None

    @property
    def label(self) -> str:
        """The name users write."""
        return self.name.lower()


@dataclass(frozen=True)
class Effort:
    """How much of the index one query reads.

    Attributes
    ----------
    probes : int
        Postings scanned at most: those whose rank by distance, as a share of this, and whose
        excess, as a share of `spread`, together do not exceed 1.
    bound : float
        Fraction of the code's error bound used when a row is excluded; 1.0 is the full bound.
    spread : float
        Excess at which no posting is scanned: by how much a centroid is farther than the nearest,
        as a share of that distance, in the index's own (squared for l2).
    """

    probes: int
    bound: float
    spread: float
