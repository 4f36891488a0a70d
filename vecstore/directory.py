"""Directories of tenants: centroids of their postings, and the pages that lead to them.

Centroids are rows of a second level: each stands in two pages, coded against the page's
super-centroid in the same blocks as rows (one page, once, when there are few).  A directory is
one piece of an extent, read in place from its map and held against its own checksum on its
first use, so that nothing of another tenant is read for it.

Invariants
----------
* Every posting of the tenant has exactly one centroid, at its ordinal, and stands in at least
  one page; a single posting needs no page, a list of rows no centroid.
* Directories of an extent are sorted by tenant; a tenant's newest one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
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
    SECTION_ALIGN,
    TENANT_DTYPE,
    ExtentKind,
    ExtentRecord,
    Section,
    align,
)
from vecstore.postings import group

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U8 = NDArray[np.uint8]
PAGE_CODEC = find_codec("rabitq1")


@dataclass(frozen=True)
class Leaves:
    """Postings of one tenant.

    Attributes
    ----------
    tenant : int
    numbers : uint32 (postings,)
        Posting numbers, ascending.
    centroids : float32 (postings, dim)
        (0, dim) for the single posting that is a list of rows.
    centre : float32 (dim,)
        Subtracted from rows and queries before they are rotated.
    """

    tenant: int
    numbers: U32
    centroids: F32
    centre: F32

    @property
    def listed(self) -> bool:
        """Whether the posting is a list of rows."""
        return not len(self.centroids)


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
    first, ordinals = group(homes, len(supers))
    return supers, first, ordinals


def _encode_pages(model: Model, leaves: Leaves, seed: int) -> tuple[F32, NDArray[Any], U8]:
    """Super-centroids, table of pages and code blocks of a tenant's centroids."""
    centroids = np.ascontiguousarray(leaves.centroids)
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
    pages_model = replace(model, codec=PAGE_CODEC, centre=leaves.centre, codebook=None, matrix=None)
    encode_runs(
        pages_model.view(),
        supers,
        np.zeros(len(supers), np.int64),
        False,
        first,
        centroids.ctypes.data + 4 * dim * ordinals.astype(np.int64),
        ordinals,
        0,
        len(supers),
        pages["offset"].astype(np.int64),
        int(codes.ctypes.data),
    )
    return supers, pages, codes


def write_directories(
    folder: Path,
    number: int,
    collection: int,
    model: Model,
    parts: Iterable[Leaves],
    seed: int,
) -> ExtentRecord:
    """Write an extent with the directories of some tenants.

    Parameters
    ----------
    model : Model
        Of the posting codec; what it learned is kept beside the directories.
    parts : iterable of Leaves
        By ascending tenant.
    """
    dim = model.dim
    writer = ExtentWriter(folder, number, ExtentKind.DIRECTORY, collection=collection, dim=dim)
    table: list[tuple[int, ...]] = []
    try:
        writer.begin(Section.DIRECTORIES)
        for leaves in parts:
            pieces: list[NDArray[Any]] = []
            pages = 0
            if not leaves.listed:
                pieces = [leaves.centroids, leaves.numbers]
            if len(leaves.numbers) > 1:
                supers, page_table, codes = _encode_pages(model, leaves, seed)
                pieces += [leaves.centre, supers, page_table, codes]
                pages = len(supers)
            summer = xxhash.xxh3_64()
            place = size = 0
            for piece in pieces:
                writer.pad(SECTION_ALIGN)
                at = writer.write(piece)
                place = at if size == 0 else place
                gap = at - place - size
                summer.update(bytes(gap))
                summer.update(np.ascontiguousarray(piece).data)
                size = at - place + piece.nbytes
            first = int(leaves.numbers[0])
            row = (leaves.tenant, len(leaves.numbers), pages, first, place, size)
            table.append((*row, summer.intdigest()))
        writer.end()
        writer.add(Section.TENANTS, np.array(table, TENANT_DTYPE))
        writer.add(Section.SIGNS, model.signs)
        if model.codebook is not None:
            scale = np.float32(model.error_scale)
            writer.add(Section.CODEBOOK, np.append(model.codebook.ravel(), scale))
        if model.matrix is not None:
            writer.add(Section.MATRIX, model.matrix)
        return writer.finish(len(table))
    except BaseException:
        writer.abandon()
        raise


class Shape(NamedTuple):
    """An entry of the table of tenants, as `TENANT_DTYPE`."""

    tenant: int
    postings: int
    pages: int
    posting: int
    offset: int
    bytes: int
    sum: int


assert Shape._fields == TENANT_DTYPE.names
assert PAGE_DTYPE.itemsize == v.STORED_PAGE_BYTES
assert PAGE_DTYPE.fields["blocks"][1] == v.STORED_PAGE_BLOCKS  # type: ignore[index]


class Directories:
    """A mapped extent of directories."""

    def __init__(self, extent: Extent, codec: Codec, metric: int) -> None:
        self.extent = extent
        self.codec = codec
        self.table = extent.array(Section.TENANTS, TENANT_DTYPE)
        self._tenants: U32 = np.ascontiguousarray(self.table["tenant"])
        self._data: U8 = extent.array(Section.DIRECTORIES, np.uint8)
        codebook = matrix = None
        scale = 1.0
        if codec.parts:
            parts = extent.array(Section.CODEBOOK, np.float32)
            shape = (codec.parts, codec.part_dim(extent.dim), -1)
            codebook, scale = parts[:-1].reshape(shape), float(parts[-1])
        if codec.turned:
            matrix = extent.array(Section.MATRIX, np.float32).reshape(-1, extent.dim)
        centre = np.zeros(extent.dim, np.float32)
        signs = extent.array(Section.SIGNS, np.float32)
        self.model = Model(codec, metric, centre, signs, codebook, matrix, scale)
        self.view = self.model.view()
        self.address = extent.address(Section.DIRECTORIES)

    def find(self, tenant: int) -> Directory | None:
        """Directory of a tenant, its checksum looked at; None when it has none here."""
        place = int(self._tenants.searchsorted(np.uint32(tenant)))
        if place == len(self._tenants) or self._tenants[place] != tenant:
            return None
        shape = Shape(*self.table[place].item())
        data = self._data[shape.offset : shape.offset + shape.bytes]
        if len(data) != shape.bytes or xxhash.xxh3_64_intdigest(data.data) != shape.sum:
            raise self.extent.corrupt(
                f"The directory of tenant {tenant} in extent {self.extent.number} does not match "
                f"its checksum; restore a backup.",
                tenant=tenant or None,
            )
        return Directory(self, shape, data)

    @property
    def tenants(self) -> U32:
        """Tenants that have a directory here, ascending."""
        return self._tenants


class Directory:
    """One tenant's directory, and its part of the kernel view.

    Attributes
    ----------
    count : int
        Postings.
    listed : bool
        Whether the only posting is a list of rows.
    numbers_address : int
        Where `postings` are.
    """

    def __init__(self, directories: Directories, shape: Shape, data: U8) -> None:
        self.tenant = shape.tenant
        self.count = shape.postings
        self.listed = not shape.bytes
        self.extent = directories.extent
        self.nbytes = 512 + shape.bytes
        self._directories = directories
        self._pages = shape.pages
        self._data = data
        self._address = directories.address + shape.offset
        dim = directories.extent.dim
        self._numbers_at = align(4 * dim * shape.postings, SECTION_ALIGN)
        self._centre_at = 0
        if self._pages:
            self._centre_at = align(self._numbers_at + 4 * shape.postings, SECTION_ALIGN)
        self._supers_at = align(self._centre_at + 4 * dim, SECTION_ALIGN)
        self._table_at = align(self._supers_at + 4 * dim * shape.pages, SECTION_ALIGN)
        self._codes_at = align(self._table_at + PAGE_DTYPE.itemsize * shape.pages, SECTION_ALIGN)
        self.numbers_address = self._address + self._numbers_at
        if self.listed:
            self._only: U32 = np.array([shape.posting], np.uint32)
            self.numbers_address = self._only.ctypes.data

    @property
    def postings(self) -> U32:
        """Posting numbers, ascending."""
        if self.listed:
            return self._only
        return self._data[self._numbers_at :][: 4 * self.count].view(np.uint32)

    @property
    def centroids(self) -> F32:
        """Centroids of the postings, float32 (postings, dim); (0, dim) for a list."""
        dim = self.extent.dim
        count = 0 if self.listed else self.count
        return self._data[: 4 * dim * count].view(np.float32).reshape(count, dim)

    @property
    def supers(self) -> F32:
        """Super-centroids, float32 (pages, dim)."""
        dim, pages = self.extent.dim, self._pages
        return self._data[self._supers_at :][: 4 * dim * pages].view(np.float32).reshape(pages, dim)

    @property
    def model(self) -> Model:
        """The posting codec with the tenant's own centre."""
        if self.listed:
            return self._directories.model
        centre = self._data[self._centre_at :][: 4 * self.extent.dim].view(np.float32)
        return replace(self._directories.model, centre=centre)

    @property
    def leaves(self) -> Leaves:
        """Postings and centroids."""
        return Leaves(self.tenant, self.postings, self.centroids, self.model.centre)

    def page_ordinals(self) -> U32:
        """Centroids that the pages name, in page order, copies included."""
        if not self._pages:
            return np.arange(len(self.centroids), dtype=np.uint32)
        words = self._data[self._codes_at :].view(np.uint32)
        block_words = PAGE_CODEC.block_bytes(self.extent.dim) // 4
        numbers: U32 = words.reshape(-1, block_words)[:, -BLOCK_ROWS:]
        named: U32 = numbers[numbers != np.uint32(NO_ROW)]
        return named

    def fill(self, view: I64) -> None:
        """Write this directory's part of a kernel view."""
        view[: v.MODEL_FIELDS] = self._directories.view[: v.MODEL_FIELDS]
        if self.listed:
            return
        address = self._address
        view[v.CENTRE] = address + self._centre_at
        view[v.POSTINGS] = self.count
        view[v.CENTROIDS] = address
        if self._pages:
            view[v.PAGES] = self._pages
            view[v.SUPERS] = address + self._supers_at
            view[v.PAGE_TABLE] = address + self._table_at
            view[v.PAGE_CODES] = address + self._codes_at
