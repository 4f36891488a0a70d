"""Creating a store, and telling whether something is one.

Invariants
----------
* Whatever moment a creation is ended at, by a crash or by the power: there is a whole store, or
  one that the next creation makes whole, and never one that has lost something.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lmdb

from vecstore import layout
from vecstore.errors import FormatVersionError, NotAStoreError, StoreNotFoundError
from vecstore.layout import Kind
from vecstore.transaction import Transaction


def sync_folder(path: Path) -> None:
    """Make renames, creations and removals in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_marker(path: Path) -> None:
    """Refuse what is not a store, or one of another format."""
    if not path.exists():
        raise StoreNotFoundError(
            f"There is no store at {path}; open it with mode='w' to create one."
        )
    marker = path / layout.MARKER_NAME
    if not path.is_dir() or not marker.is_file():
        raise NotAStoreError(f"{path} is not a vecstore; give the path of a store's directory.")
    raw = marker.read_bytes()
    if len(raw) != layout.MARKER.size or not raw.startswith(layout.MAGIC):
        raise NotAStoreError(f"{path} is not a vecstore: its marker file is damaged or foreign.")
    version = layout.MARKER.unpack(raw)[1]
    if version != layout.FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} has format version {version}; this vecstore reads version "
            f"{layout.FORMAT_VERSION}. Install the vecstore that wrote it."
        )


def make_folder(path: Path) -> None:
    """Make the folder of a store, or find that something else is there."""
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
    elif not path.is_dir() or any(_foreign(path)):
        read_marker(path)


def create(path: Path) -> None:
    """Lay out an empty store; the writer's lock must be held.

    The marker comes last, so that half a store is none.  Facts and all folders are durable before
    it: a marker without them means that they were lost.
    """
    if (path / layout.MARKER_NAME).exists():
        return
    (path / layout.EXTENTS_NAME).mkdir(exist_ok=True)
    (path / layout.FACTS_NAME).mkdir(exist_ok=True)
    try:
        _write_first_facts(path / layout.FACTS_NAME)
    except lmdb.InvalidError:
        if any((path / layout.EXTENTS_NAME).iterdir()):
            raise
        # The power went while these facts were first written: nothing was ever stored in them.
        (path / layout.FACTS_NAME / layout.FACTS_FILE).unlink()
        _write_first_facts(path / layout.FACTS_NAME)
    sync_folder(path / layout.FACTS_NAME)
    for folder in (path, *path.absolute().parents):
        with suppress(PermissionError):  # who may not read a folder has not made it
            sync_folder(folder)
    write_marker(path)


def write_marker(path: Path) -> None:
    """Make a store of a folder that holds all else: whole and synced, or not at all."""
    part = path / f"{layout.MARKER_NAME}.part"
    with open(part, "wb") as file:
        file.write(layout.MARKER.pack(layout.MAGIC, layout.FORMAT_VERSION))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path / layout.MARKER_NAME)
    sync_folder(path)


def _write_first_facts(folder: Path) -> None:
    facts = lmdb.open(str(folder), lib_version=0)
    try:
        with facts.begin(write=True) as transaction:
            first = layout.pack(layout.StoreRecord())
            Transaction(transaction, folder.parent).put(layout.key(0, Kind.STORE), first)
    finally:
        facts.close()


def _foreign(path: Path) -> Iterator[Path]:
    """Transaction of a folder that an interrupted creation cannot have left."""
    ours = {layout.EXTENTS_NAME, layout.FACTS_NAME, f"{layout.MARKER_NAME}.part", layout.LOCK_NAME}
    return (entry for entry in path.iterdir() if entry.name not in ours)
