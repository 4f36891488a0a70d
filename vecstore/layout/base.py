"""Names of files, and numbers that all parts of the format share."""

from __future__ import annotations

import struct
from typing import Final

FORMAT_VERSION: Final = 1
MAGIC: Final = b"VECSTORE"
MARKER: Final = struct.Struct("<8sI")
MARKER_NAME: Final = "VECSTORE"
LOCK_NAME: Final = "writer.lock"
FACTS_NAME: Final = "facts"
FACTS_FILE: Final = "data.mdb"
EXTENTS_NAME: Final = "extents"
PAGE: Final = 4096
SECTION_ALIGN: Final = 64

NO_ROW: Final = 0xFFFF_FFFF
"""Marks an empty place in a block."""


def align(offset: int, to: int) -> int:
    """Round `offset` up to a multiple of `to`."""
    return -(-offset // to) * to


def padded_dim(dim: int) -> int:
    """Dimension of rotated vectors: the next multiple of 64."""
    return align(dim, 64)
