"""What a long build has finished, kept so that one that was cut short goes on where it was.

A build of many rows finishes pieces: the cell of each row of a range, the centroids of some
cells, the homes of their rows, an extent of raw rows, the postings.  Each piece is an extent like
any other, whole and synced before one transaction names it; the record that names them all begins
with a fingerprint of everything that they follow from.  When the same rows are brought into the
same state again, by the same load or by the next writer's maintenance, the pieces are taken up.  In
the transaction that publishes the build they are given up, or become extents of the collection.

Invariants
----------
* A collection has one record, of one build; no reader looks at it or at what it names.
* A piece is only taken up with every checksum in it verified, and with the fingerprint of the
  build that wrote it; otherwise all of them are given up, and the build begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

import vecstore
from vecstore import clustering, config, layout
from vecstore.built import Built
from vecstore.codecs import find_codec
from vecstore.errors import DiskFullError, VecstoreError
from vecstore.extents import Extent, ExtentWriter
from vecstore.facts import Edit, mark_retired, put_store, read_store
from vecstore.layout import (
    BuildRecord,
    ExtentKind,
    ExtentRecord,
    Kind,
    PieceRecord,
    Section,
)
from vecstore.lookups import build_pieces, build_record, read_state, refuse_dropped
from vecstore.publish import ExtentNumbers
from vecstore.reclaim import remove_retired
from vecstore.shares import NewRows, Share
from vecstore.soundness import flaws
from vecstore.stages import Keeper, Piece
from vecstore.writing import Writing

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
KEPT_ROWS_MIN = 200_000
"""Rows that a build must bring in for its pieces to be kept: with fewer it takes seconds."""
PIECE_ROWS = 1 << 18
"""Rows of one piece: some seconds of work, which is what is lost."""
_BLOCK_BYTES = 32 << 20
_BLOCK_IDS = 65_536


class Checkpoint:
    """The pieces of one build.

    Parameters
    ----------
    writing : Writing
        The build lock must be held.
    numbers : ExtentNumbers
    fingerprint : bytes
        Of what the pieces follow from; empty for a build that is not kept.  Pieces of any other
        are given up at once.
    """

    def __init__(self, writing: Writing, numbers: ExtentNumbers, fingerprint: bytes) -> None:
        self._writing = writing
        self._environment = writing.environment
        self._identity = writing.identity
        self._numbers = numbers
        self._fingerprint = fingerprint
        self._key = layout.key(writing.collection, Kind.BUILD)
        self._pieces: dict[tuple[str, int, int], PieceRecord] = {}
        with writing.reading() as transaction:
            known = build_record(transaction, writing.collection)
            codec = read_state(transaction, writing.collection).codec
        self._codec = find_codec(codec, writing.identity.record.dim)
        if known is None:
            return
        if known.fingerprint == fingerprint and all(map(self._is_sound, known.pieces)):
            self._pieces = {(one.stage, one.tenant, one.first): one for one in known.pieces}
        else:
            give_up(writing)

    @property
    def keeps(self) -> bool:
        """Whether pieces are kept at all."""
        return bool(self._fingerprint)

    def keeper(self, tenant: int, rows: int) -> Keeper | None:
        """Keeper of the pieces of a tenant; None when it has too few rows for that."""
        return _TenantKeeper(self, tenant) if self._fingerprint and rows >= KEPT_ROWS_MIN else None

    def owns(self, number: int) -> bool:
        """Tell whether an extent is a piece, the file of which stays when the build fails."""
        return any(one.number == number for one in self._pieces.values())

    # --- extents of the collection to be ---------------------------------------------------

    def extent(self, stage: str, first: int, digest: bytes) -> tuple[int, ExtentRecord] | None:
        """Find an extent that was written from the same input; see `add_extent`."""
        found = self._pieces.get((stage, 0, first))
        return (found.number, found.extent) if found and found.digest == digest else None

    def add_extent(
        self, stage: str, first: int, digest: bytes, number: int, record: ExtentRecord
    ) -> None:
        """Keep an extent that is whole and synced.

        Parameters
        ----------
        stage : str
        first : int
        digest : bytes
            Of what it follows from beside the fingerprint.
        """
        if self._fingerprint:
            self._name(PieceRecord(stage, 0, first, digest, number, record))

    # --- pieces of a division --------------------------------------------------------------

    def find(self, stage: str, tenant: int, first: int) -> Piece | None:
        """Copy a piece out of its extent."""
        found = self._pieces.get((stage, tenant, first))
        if found is None:
            return None
        extent = self._open(found)
        ints: I32 = np.array(extent.array(Section.INTS, np.int32))
        floats: F32 = np.array(extent.array(Section.FLOATS, np.float32))
        extent.close()
        return ints, floats.reshape(-1, self._identity.record.dim)

    def keep(self, stage: str, tenant: int, first: int, piece: Piece) -> None:
        """Write a piece and name it."""
        number = self._numbers()
        writer = ExtentWriter(
            self._identity.folder,
            number,
            ExtentKind.PIECE,
            collection=self._writing.collection,
            dim=self._identity.record.dim,
        )
        try:
            writer.add(Section.INTS, piece[0])
            writer.add(Section.FLOATS, piece[1])
            record = writer.finish(len(piece[0]))
        except BaseException:
            writer.abandon()
            raise
        self._name(PieceRecord(stage, tenant, first, b"", number, record))

    # --- the record ------------------------------------------------------------------------

    def finish(self, edit: Edit, builts: Iterable[Built]) -> None:
        """Give up what has not become part of the collection, in the transaction that publishes."""
        if self._pieces:
            named = {number for built in builts for number in built.extents}
            edit.transaction.delete(self._key)
            edit.retire_extents(
                one.number for one in self._pieces.values() if one.number not in named
            )

    def _name(self, piece: PieceRecord) -> None:
        place = piece.stage, piece.tenant, piece.first
        before = self._pieces.get(place)
        self._pieces[place] = piece
        record = BuildRecord(self._fingerprint, list(self._pieces.values()))
        with self._writing.committing(), self._environment.write() as transaction:
            refuse_dropped(transaction, self._identity)
            store = read_store(transaction)
            store.next_extent = self._numbers.value
            put_store(transaction, store)
            if before is not None:
                mark_retired(transaction, before.number)
            transaction.put(self._key, layout.pack(record))

    def _open(self, piece: PieceRecord) -> Extent:
        return Extent(self._identity.folder, piece.number, piece.extent, self._identity.name)

    def _is_sound(self, piece: PieceRecord) -> bool:
        """Look at every checksum of a piece."""
        try:
            extent = self._open(piece)
            return not any(flaws(self._identity, self._codec, extent))
        except (VecstoreError, OSError):
            return False


class _TenantKeeper:
    """Keeps pieces of the division of one tenant; see `Keeper`."""

    def __init__(self, checkpoint: Checkpoint, tenant: int) -> None:
        self._checkpoint = checkpoint
        self._tenant = tenant
        self.rows = PIECE_ROWS

    def find(self, stage: str, first: int) -> Piece | None:
        return self._checkpoint.find(stage, self._tenant, first)

    def keep(self, stage: str, first: int, piece: Piece) -> None:
        self._checkpoint.keep(stage, self._tenant, first, piece)


def give_up(writing: Writing) -> bool:
    """Forget what a build that was cut short has kept; False when there is nothing.

    The build lock must be held.
    """
    with writing.reading() as transaction:
        pieces = build_pieces(transaction, writing.collection)
    if not pieces:
        return False
    with writing.committing():
        with writing.environment.write() as transaction:
            transaction.delete(layout.key(writing.collection, Kind.BUILD))
            for one in pieces:
                mark_retired(transaction, one.number)  # a backup may be copying it
        with suppress(DiskFullError):  # the next writer removes them
            remove_retired(writing.environment)
    return True


def fingerprint(writing: Writing, shares: Iterable[Share], new: NewRows | None) -> bytes:
    """Hash all that the pieces of a build follow from; empty when it is too small to be kept.

    Stored rows stand for themselves by number: neither the number of a row nor its vector ever
    changes.
    """
    if not any(len(one.stored) + len(one.places) >= KEPT_ROWS_MIN for one in shares):
        return b""
    digest = xxhash.xxh3_128()

    def tell(text: str) -> None:
        digest.update(text.encode())

    def add(array: NDArray[Any]) -> None:
        tell(f"{array.dtype} {array.shape}")
        digest.update(np.ascontiguousarray(array).data)

    tell(f"{vecstore.__version__} {_shaping()}")
    digest.update(writing.identity.packed)
    for share in shares:
        tell(f"{share.tenant} {share.train} {share.copies}")
        add(share.stored)
        add(share.places)
    if new is not None:
        add(new.owners)
        for start in range(0, len(new.ids), _BLOCK_IDS):
            ids = new.ids[start : start + _BLOCK_IDS]
            add(ids) if isinstance(ids, np.ndarray) else digest.update(layout.pack(ids))
        step = max(1, _BLOCK_BYTES // (4 * writing.identity.record.dim))
        for start in range(0, len(new.vectors), step):
            add(np.asarray(new.vectors[start : start + step], np.float32))
    return digest.digest()


def _shaping() -> str:
    """Constants that decide what pieces there are and what is in them."""
    return f"{PIECE_ROWS} {config.POSTING_ROWS} {config.POSTING_ROWS_MAX} {clustering.CELL_LEAVES}"
