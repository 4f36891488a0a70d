"""Looking at every checksum of an extent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vecstore import layout
from vecstore.attributes import Attributes
from vecstore.codecs import Codec
from vecstore.directory import Directories
from vecstore.extent_set import Identity
from vecstore.extents import Extent
from vecstore.layout import ExtentKind, Section
from vecstore.postings import PostingRuns
from vecstore.rawrows import page_sums


def flaws(identity: Identity, codec: Codec, extent: Extent) -> Iterator[str]:
    """Say what is damaged in an extent, in which the header is sound.

    Parameters
    ----------
    identity : Identity
    codec : Codec
        Of its postings.

    Raises
    ------
    CorruptionError
        A part that is checked as a whole is damaged.
    """
    for section in Section:
        if extent.has(section) and section not in layout.BULK_SECTIONS:
            extent.array(section, np.uint8)
    if extent.kind == ExtentKind.RAW:
        for page in damaged_pages(extent):
            yield f"page {page} of raw rows"
    if extent.kind == ExtentKind.DIRECTORY:
        directories = Directories(extent, codec, identity.record.metric)
        for tenant in directories.tenants.tolist():
            directories.find(tenant)
    if extent.kind == ExtentKind.POSTINGS:
        runs = PostingRuns(extent, codec.run_block_bytes(identity.record.dim))
        for run in range(len(runs.runs)):
            if not runs.intact(run):
                yield str(runs.damage(run))
    if extent.kind == ExtentKind.ATTRIBUTES:
        index = Attributes(extent)
        for tenant in index.tenants.tolist():
            if not index.intact(tenant):
                yield f"the metadata index of tenant {tenant} is damaged"


def damaged_pages(extent: Extent) -> Iterator[int]:
    """Pages of raw rows that do not match their checksums."""
    rows = extent.array(Section.ROWS, np.uint8).data
    sums = extent.array(Section.ROW_SUMS, np.uint64).tolist()
    for page, found in enumerate(page_sums(rows)):
        if page >= len(sums) or found != sums[page]:
            yield page
