"""A tenant's directory: centroids, their pages, and how queries are rotated.

Centroids are rows of a second level: each stands in two pages, coded against the page's
super-centroid in the same blocks as rows (one page, once, when there are few).  The extent is
small beside the postings and is read in place from its map.

Invariants
----------
* Every posting of the tenant has exactly one centroid, at its ordinal, and stands in at least
  one page.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import choose_homes, kmeans
from vecstore.config import BLOCK_ROWS, ONE_PASS_CENTROIDS_MAX, PAGE_CENTROIDS
from vecstore.extents import Extent, ExtentWriter
from vecstore.kernels import view as v
from vecstore.kernels.encode import encode_runs
from vecstore.kernels.rotation import ROUNDS
from vecstore.layout import (
    NO_ROW,
    PAGE_DTYPE,
    ExtentKind,
    ExtentRecord,
    Section,
    padded_dim,
    rabitq_block_bytes,
)
from vecstore.postings import group

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]


def draw_signs(dim: int, seed: int) -> F32:
    """Draw the random signs of a collection's rotation, float32 (rounds, padded dim)."""
    flips = np.random.default_rng(seed).integers(0, 2, (ROUNDS, padded_dim(dim)))
    return np.asarray(1 - 2 * flips, dtype=np.float32)


def geometry(dim: int, metric: int, codec: int, block_bytes: int, centre: F32, signs: F32) -> I64:
    """Begin a kernel view with what encoding needs; the arrays must outlive it."""
    view = np.zeros(v.VIEW_FIELDS, np.int64)
    view[v.DIM] = dim
    view[v.PADDED] = padded_dim(dim)
    view[v.METRIC] = metric
    view[v.CODEC] = codec
    view[v.BLOCK_BYTES] = block_bytes
    view[v.CENTRE] = centre.ctypes.data
    view[v.SIGNS] = signs.ctypes.data
    return view


def make_pages(centroids: F32, seed: int) -> tuple[F32, I64, U32]:
    """Group centroids under super-centroids.

    Returns
    -------
    supers : float32 (pages, dim)
    first : int64 (pages + 1,)
    ordinals : uint32
        Centroids of page p are ordinals[first[p]:first[p + 1]].
    """
    n = len(centroids)
    if n <= ONE_PASS_CENTROIDS_MAX:
        whole = centroids.mean(axis=0, keepdims=True, dtype=np.float32)
        return whole, np.array([0, n], np.int64), np.arange(n, dtype=np.uint32)
    supers = kmeans(centroids, round(2 * n / PAGE_CENTROIDS), seed, PAGE_CENTROIDS)
    homes = choose_homes(centroids, supers, np.arange(len(supers)))
    first, ordinals = group(homes, np.arange(n, dtype=np.uint32), len(supers))
    return supers, first, ordinals


def write_directory(
    folder: Path,
    number: int,
    collection: int,
    tenant: int,
    view: I64,
    centroids: F32,
    postings: U32,
    centre: F32,
    signs: F32,
    seed: int,
) -> ExtentRecord:
    """Write the directory extent of one tenant.

    Parameters
    ----------
    view : int64 array
        From `geometry`.
    centroids : float32 (postings, dim)
    postings : uint32 (postings,)
        Posting number of each centroid.
    centre, signs : float32
        Of the collection's rotation.
    """
    supers, first, ordinals = make_pages(centroids, seed)
    dim = centroids.shape[1]
    block_bytes = rabitq_block_bytes(dim)
    pages = np.zeros(len(supers), PAGE_DTYPE)
    pages["rows"] = np.diff(first)
    pages["blocks"] = -(-pages["rows"].astype(np.int64) // BLOCK_ROWS)
    ends = np.cumsum(pages["blocks"].astype(np.int64)) * block_bytes
    pages["offset"][1:] = ends[:-1]
    codes = np.zeros(int(ends[-1]) + 64, np.uint8)
    codes = codes[-codes.ctypes.data % 64 :][: int(ends[-1])]
    page_view = view.copy()
    page_view[v.CODEC] = v.RABITQ
    page_view[v.BLOCK_BYTES] = block_bytes
    page_view[v.RAW_FORM] = v.RAW_FLOAT32  # centroids are
    addresses = centroids.ctypes.data + 4 * dim * ordinals.astype(np.int64)
    encode_runs(
        page_view,
        supers,
        False,
        first,
        addresses,
        ordinals,
        0,
        len(supers),
        pages["offset"].astype(np.int64),
        int(codes.ctypes.data),
    )
    writer = ExtentWriter(folder, number, ExtentKind.DIRECTORY, collection=collection, dim=dim)
    try:
        writer.add(Section.TENANTS, np.array([tenant], np.uint32))
        writer.add(Section.CENTRE, centre)
        writer.add(Section.SIGNS, signs)
        writer.add(Section.SUPERS, supers)
        writer.add(Section.PAGES, pages)
        writer.add(Section.PAGE_BLOCKS, codes)
        writer.add(Section.CENTROIDS, centroids)
        writer.add(Section.POSTINGS, postings)
        return writer.finish(len(centroids))
    except BaseException:
        writer.abandon()
        raise


class Directory:
    """A mapped directory extent, and its part of the kernel view."""

    def __init__(self, extent: Extent) -> None:
        dim = extent.dim
        self.extent = extent
        self.tenant = int(extent.array(Section.TENANTS, np.uint32)[0])
        self.centre: F32 = extent.array(Section.CENTRE, np.float32)
        self.signs: F32 = extent.array(Section.SIGNS, np.float32)
        self.supers: F32 = extent.array(Section.SUPERS, np.float32).reshape(-1, dim)
        self.pages = extent.array(Section.PAGES, PAGE_DTYPE)
        self.centroids: F32 = extent.array(Section.CENTROIDS, np.float32).reshape(-1, dim)
        self.postings: U32 = extent.array(Section.POSTINGS, np.uint32)
        blocks = extent.array(Section.PAGE_BLOCKS, np.uint8)
        start = np.int64(blocks.ctypes.data)
        self.page_address: I64 = start + self.pages["offset"].astype(np.int64)
        self.page_blocks: I64 = self.pages["blocks"].astype(np.int64)
        self.page_ordinals: U32 = self._ordinals(blocks, dim)
        if len(self.page_ordinals) and int(self.page_ordinals.max()) >= len(self.centroids):
            raise extent.corrupt(f"Directory extent {extent.number} names a missing centroid.")

    def _ordinals(self, blocks: NDArray[np.uint8], dim: int) -> U32:
        """Centroids that the pages name, in page order, copies included."""
        words = blocks.view(np.uint32).reshape(-1, rabitq_block_bytes(dim) // 4)
        numbers: U32 = words[:, -BLOCK_ROWS:]
        named: U32 = numbers[numbers != np.uint32(NO_ROW)]
        return named

    def fill(self, view: I64) -> None:
        """Write this directory's part of a kernel view."""
        view[v.CENTRE] = self.centre.ctypes.data
        view[v.SIGNS] = self.signs.ctypes.data
        view[v.PAGES] = len(self.supers)
        view[v.SUPERS] = self.supers.ctypes.data
        view[v.PAGE_ADDRESS] = self.page_address.ctypes.data
        view[v.PAGE_BLOCKS] = self.page_blocks.ctypes.data
        view[v.POSTINGS] = len(self.centroids)
        view[v.CENTROIDS] = self.centroids.ctypes.data
