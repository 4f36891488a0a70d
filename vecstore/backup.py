"""Copying a store while it is written to.

A read transaction comes first: extents that are retired while it lives keep their files.  Then
LMDB copies its facts as the last commit left them, and the copy says which extents it names.

Invariants
----------
* The copy is one committed state, whole; it is there under its name when all of it is synced.
* A copy that fails leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
import msgspec

from vecstore import layout
from vecstore.clustering import Progress
from vecstore.creation import sync_folder, write_marker
from vecstore.disk_errors import disk_errors, explain
from vecstore.errors import CorruptionError, InvalidArgumentError, VecstoreError
from vecstore.extents import extent_path
from vecstore.layout import ExtentRecord
from vecstore.lookups import build_pieces, extent_records, read_catalogue
from vecstore.storage import Environment
from vecstore.transaction import Transaction

_PIECE_BYTES = 8 << 20


def back_up(environment: Environment, dest: Path, progress: Progress) -> None:
    """Copy the store to `dest`, as the last commit before or during the call left it.

    Parameters
    ----------
    dest : Path
        Absolute; not there, or an empty folder.
    progress : callable
        `progress(stage, done, total)`: "facts" in steps, "extents" in bytes.

    Raises
    ------
    InvalidArgumentError, DiskFullError, CorruptionError
        Nothing was changed.
    """
    dest = Path(os.path.realpath(dest))
    source = Path(os.path.realpath(environment.path))
    if dest.is_relative_to(source):
        raise InvalidArgumentError(
            f"dest {dest} is within the store {source}; choose a folder outside of it."
        )
    with _typed(dest):
        if os.path.lexists(dest) and (not dest.is_dir() or any(dest.iterdir())):
            raise InvalidArgumentError(
                f"dest {dest} exists and is no empty folder; choose another path."
            )
        with _part_folder(dest) as part:
            _copy(environment, part, progress)
            _publish(part, dest)


@contextmanager
def _typed(dest: Path) -> Iterator[None]:
    """Turn what goes wrong into typed errors that name `dest`."""
    try:
        with disk_errors(dest):
            yield
    except FileNotFoundError as error:
        if isinstance(error, VecstoreError):
            raise
        raise explain(error, dest) from error


@contextmanager
def _part_folder(dest: Path) -> Iterator[Path]:
    """Make the folder that is to become `dest`; when anything fails, it goes with all in it."""
    part = dest.with_name(f"{dest.name}.part")
    made = [folder for folder in dest.parents if not folder.exists()]
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        for folder in made:
            sync_folder(folder.parent)
        try:
            part.mkdir()
        except FileExistsError:
            raise InvalidArgumentError(
                f"{part} exists: another backup to {dest} is under way, or one was killed. "
                f"Remove it, or choose another path."
            ) from None
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except BaseException:
        for folder in made:
            with suppress(OSError):  # others may have put something there meanwhile
                folder.rmdir()
        raise


def _publish(part: Path, dest: Path) -> None:
    """Give a whole copy its name, durably or not at all."""
    existed = dest.exists()
    os.rename(part, dest)
    try:
        sync_folder(dest.parent)
    except BaseException:
        os.rename(dest, part)
        if existed:
            dest.mkdir()
        raise


def _copy(environment: Environment, part: Path, progress: Progress) -> None:
    """Copy facts and extents into an empty folder; the marker comes last."""
    facts, extents = part / layout.FACTS_NAME, part / layout.EXTENTS_NAME
    facts.mkdir()
    extents.mkdir()
    pin = environment.read()
    try:
        progress("facts", 0, 1)
        environment.copy_facts(facts)
        progress("facts", 1, 1)
        try:
            named = _named_extents(facts)
        except (lmdb.Error, msgspec.DecodeError, struct.error) as error:
            raise explain(error, environment.path) from error
        total, done = sum(record.bytes for record in named.values()), 0
        progress("extents", 0, total)
        for number, record in sorted(named.items()):
            for count in _copy_extent(environment.extents, extents, number, record):
                done += count
                progress("extents", done, total)
        sync_folder(extents)
    finally:
        pin.abort()
    write_marker(part)


def _named_extents(facts: Path) -> dict[int, ExtentRecord]:
    """All extents that copied facts name."""
    with (
        lmdb.open(str(facts), readonly=True, lock=False, lib_version=0) as copied,
        copied.begin() as transaction,
    ):
        wrapped = Transaction(transaction, facts.parent)
        named: dict[int, ExtentRecord] = {}
        for collection in read_catalogue(wrapped).values():
            named |= extent_records(wrapped, collection.number)
            pieces = build_pieces(wrapped, collection.number)
            named |= {one.number: one.extent for one in pieces}
        return named


def _copy_extent(source: Path, folder: Path, number: int, record: ExtentRecord) -> Iterator[int]:
    """Copy one file and sync it; yields the bytes of each piece."""
    path = extent_path(source, number)
    copied = 0
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise CorruptionError(
            f"{path} is missing, so the store cannot be copied whole; see what `check` says of it.",
            extent=number,
        ) from None
    with file, open(extent_path(folder, number), "wb") as copy:
        while piece := file.read(_PIECE_BYTES):
            copy.write(piece)
            copied += len(piece)
            yield len(piece)
        copy.flush()
        os.fsync(copy.fileno())
    if copied != record.bytes:
        raise CorruptionError(
            f"{path} has {copied} bytes instead of {record.bytes}, so the store cannot be copied "
            f"whole; see what `check` says of it.",
            extent=number,
        )
