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

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import choose_homes, kmeans
from vecstore.codecs import Codec, Model, find_codec
from vecstore.config import BLOCK_ROWS, ONE_PASS_CENTROIDS_MAX, PAGE_CENTROIDS
from vecstore.extents import Extent, ExtentWriter
from vecstore.kernels import view as v
from vecstore.kernels.encode import encode_runs
from vecstore.layout import (
    NO_ROW,
    PAGE_DTYPE,
    ExtentKind,
    ExtentRecord,
    Section,
)
from vecstore.postings import group

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
PAGE_CODEC = find_codec("rabitq1")


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
    model: Model,
    centroids: F32,
    postings: U32,
    seed: int,
) -> ExtentRecord:
    """Write the directory extent of one tenant.

    Parameters
    ----------
    model : Model
        Of the posting codec; it is kept with the directory.
    centroids : float32 (postings, dim)
    postings : uint32 (postings,)
        Posting number of each centroid.
    """
    supers, first, ordinals = make_pages(centroids, seed)
    dim = centroids.shape[1]
    block_bytes = PAGE_CODEC.block_bytes(dim)
    pages = np.zeros(len(supers), PAGE_DTYPE)
    pages["rows"] = np.diff(first)
    pages["blocks"] = -(-pages["rows"].astype(np.int64) // BLOCK_ROWS)
    ends = np.cumsum(pages["blocks"].astype(np.int64)) * block_bytes
    pages["offset"][1:] = ends[:-1]
    codes = np.zeros(int(ends[-1]) + 64, np.uint8)
    codes = codes[-codes.ctypes.data % 64 :][: int(ends[-1])]
    pages_model = replace(model, codec=PAGE_CODEC, codebook=None, matrix=None)
    addresses = centroids.ctypes.data + 4 * dim * ordinals.astype(np.int64)
    encode_runs(
        pages_model.view(),
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
        writer.add(Section.CENTRE, model.centre)
        writer.add(Section.SIGNS, model.signs)
        if model.codebook is not None:
            parts = np.append(model.codebook.ravel(), np.float32(model.error_scale))
            writer.add(Section.CODEBOOK, parts)
        if model.matrix is not None:
            writer.add(Section.MATRIX, model.matrix)
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

    def __init__(self, extent: Extent, codec: Codec, metric: int) -> None:
        dim = extent.dim
        self.extent = extent
        self.tenant = int(extent.array(Section.TENANTS, np.uint32)[0])
        self.model = self._read_model(codec, metric)
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

    def _read_model(self, codec: Codec, metric: int) -> Model:
        """Model of the posting codec."""
        extent = self.extent
        codebook = matrix = None
        scale = 1.0
        if codec.parts:
            parts = extent.array(Section.CODEBOOK, np.float32)
            shape = (codec.parts, codec.part_dim(extent.dim), -1)
            codebook, scale = parts[:-1].reshape(shape), float(parts[-1])
        if codec.turned:
            matrix = extent.array(Section.MATRIX, np.float32).reshape(-1, extent.dim)
        centre = extent.array(Section.CENTRE, np.float32)
        signs = extent.array(Section.SIGNS, np.float32)
        return Model(codec, metric, centre, signs, codebook, matrix, scale)

    def _ordinals(self, blocks: NDArray[np.uint8], dim: int) -> U32:
        """Centroids that the pages name, in page order, copies included."""
        words = blocks.view(np.uint32).reshape(-1, PAGE_CODEC.block_bytes(dim) // 4)
        numbers: U32 = words[:, -BLOCK_ROWS:]
        named: U32 = numbers[numbers != np.uint32(NO_ROW)]
        return named

    def fill(self, view: I64) -> None:
        """Write this directory's part of a kernel view."""
        self.model.fill(view)
        view[v.PAGES] = len(self.supers)
        view[v.SUPERS] = self.supers.ctypes.data
        view[v.PAGE_ADDRESS] = self.page_address.ctypes.data
        view[v.PAGE_BLOCKS] = self.page_blocks.ctypes.data
        view[v.POSTINGS] = len(self.centroids)
        view[v.CENTROIDS] = self.centroids.ctypes.data
