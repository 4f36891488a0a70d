"""Where prepared data lives, how it gets there, and how it is checked.

Everything is kept outside the repository, under ``VECSTORE_DATA`` or the user cache directory.
A set is a folder of files and a manifest that records the size and SHA-256 of each.

Invariants: a file appears under its final name only when complete (temporary name, fsync,
rename); the manifest is written last and removed first, so a folder with a manifest is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
_HASH_BLOCK_BYTES = 1 << 22


def root() -> Path:
    """Return the folder that holds all prepared data (it need not exist yet)."""
    chosen = os.environ.get("VECSTORE_DATA")
    if chosen:
        return Path(chosen).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache_home) if cache_home else Path.home() / ".cache"
    return base / "vecstore" / "data"


def folder(name: str) -> Path:
    """Return the folder of one set."""
    return root() / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends without an error.

    On an error the temporary file is removed and whatever was at `path` stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary_name = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=f".tmp{path.suffix}", dir=path.parent
    )
    os.close(handle)
    temporary = Path(temporary_name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)  # mkstemp makes files private
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write `array` as a C-contiguous ``.npy`` file, atomically."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


def save_json(path: Path, value: object) -> None:
    """Write `value` as JSON in UTF-8, atomically."""
    text = json.dumps(value, ensure_ascii=False, indent=1 if isinstance(value, dict) else None)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(where: Path, facts: dict[str, Any]) -> None:
    """Record every file in `where`, with `facts` beside them; this marks the set as whole."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(where.iterdir())
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    }
    save_json(where / MANIFEST, {"format": MANIFEST_FORMAT, **facts, "files": files})


def read_manifest(where: Path) -> dict[str, Any] | None:
    """Return the manifest in `where`, or None when the set was never finished."""
    try:
        manifest: dict[str, Any] = load_json(where / MANIFEST)
    except FileNotFoundError:
        return None
    return manifest if manifest.get("format") == MANIFEST_FORMAT else None


def clear(where: Path) -> None:
    """Remove a set's files, the manifest first."""
    if not where.is_dir():
        return
    (where / MANIFEST).unlink(missing_ok=True)
    for path in where.iterdir():
        if path.is_file():
            path.unlink()


def problems(where: Path, manifest: dict[str, Any], *, hashes: bool = True) -> list[str]:
    """List what differs between the files in `where` and the manifest; empty when all is well.

    Parameters
    ----------
    where : Path
        Folder of the set.
    manifest : dict
        As read by `read_manifest`.
    hashes : bool
        Also read every file and compare its SHA-256, not only its size.
    """
    found: list[str] = []
    for name, expected in manifest["files"].items():
        path = where / name
        if not path.is_file():
            found.append(f"{name} is absent")
        elif path.stat().st_size != expected["bytes"]:
            found.append(f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}")
        elif hashes and sha256(path) != expected["sha256"]:
            found.append(f"{name} has another SHA-256 than recorded")
    return found
