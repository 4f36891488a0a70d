"""What can go wrong with LMDB and the file system, as typed errors that say what to do."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import msgspec

from vecstore.config import READERS_MAX
from vecstore.errors import CorruptionError, DiskFullError, VecstoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    msgspec.DecodeError,
    struct.error,
)


def lacks_room(text: str) -> bool:
    """Tell whether LMDB's message is about a write that found no room.

    It reports one that was cut short as an I/O error.
    """
    return any(os.strerror(code) in text for code in (*_FULL, errno.EIO))


def explain(error: Exception, path: Path) -> VecstoreError:
    """Build the typed error for a failure of LMDB, of the file system or of stored bytes."""
    text = str(error)
    if isinstance(error, VecstoreError):
        return error
    if isinstance(error, lmdb.MapFullError):
        return DiskFullError(
            f"The facts of {path} have outgrown their address range; reopen the store on a "
            f"system that grants a larger one (ulimit -v)."
        )
    if isinstance(error, _DAMAGE):
        return CorruptionError(f"The facts of {path} are damaged ({text}); restore a backup.")
    if isinstance(error, lmdb.PanicError):
        return VecstoreError(
            f"{path} can neither be read nor written since a write of its facts failed; close "
            f"the store everywhere in this process and reopen it."
        )
    if isinstance(error, lmdb.ReadersFullError):
        return VecstoreError(
            f"{path} has {READERS_MAX} readers already; close some processes or threads."
        )
    if isinstance(error, lmdb.Error):
        if lacks_room(text):
            return DiskFullError(
                f"No room to write to {path}, or its device fails ({text}); nothing of the call "
                f"was stored."
            )
        return VecstoreError(f"LMDB failed on {path}: {text}.")
    if isinstance(error, OSError) and error.errno in _FULL:
        return DiskFullError(
            f"No room to write to {path} ({os.strerror(error.errno or 0)}); free some space "
            f"and repeat the call: nothing of it was stored."
        )
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return VecstoreError(
            f"The process may open no more files, of which {path} needs one per extent; "
            f"raise the limit (ulimit -n)."
        )
    return VecstoreError(f"{path} cannot be used: {text}.")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn failures of LMDB and of the file system into typed errors that name `path`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (lmdb.Error, OSError) as error:
        if isinstance(error, VecstoreError):
            raise
        raise explain(error, path) from error
