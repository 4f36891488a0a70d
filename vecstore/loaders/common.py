"""What the readers share: the source, its errors, and files that stand in for memory."""

from __future__ import annotations

import errno
import importlib
import math
import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore.errors import DiskFullError, InvalidArgumentError, VecstoreError

Progress = Callable[[str, int, int], None]

ID_MAX = 2**63 - 1
BLOCK_BYTES = 16 << 20

USUAL_NAMES = (
    "vectors",
    "vector",
    "embeddings",
    "embedding",
    "emb",
    "train",
    "base",
    "data",
)
_OPTIONS = {
    "vector": "vector_column (--vector-column)",
    "id": "id_column (--ids-column)",
    "document": "document_column (--document-column)",
    "metadata": "metadata_columns (--metadata-column)",
    "tenant": "tenant_column (--tenant-column)",
    "array": "array_key (--array)",
}


class SourceFileError(InvalidArgumentError):
    """A file of vectors is missing, unreadable, broken, or not what it was said to be."""


class MissingPackageError(InvalidArgumentError):
    """An optional package is needed and not installed."""


@dataclass(frozen=True, slots=True)
class Source:
    """Vectors of a file, with the ids, metadata, documents and tenants that came with them.

    Attributes
    ----------
    vectors
        (n, d) real numbers, often a memory map; read it in blocks.
    ids
        n ints or n strings, or None.
    metadata
        n dicts or Nones, or None; read from disk row by row.
    documents
        n strings or Nones, or None; read from disk row by row.
    tenants
        For each row a name, or a list of names with the owner first; None unless asked for.
    """

    vectors: NDArray[Any]
    ids: Sequence[str] | NDArray[np.int64] | None = None
    metadata: Sequence[dict[str, Any] | None] | None = None
    documents: Sequence[str | None] | None = None
    tenants: Sequence[str | list[str]] | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Which parts of a file are wanted; None leaves the choice to the reader."""

    vector: str | None = None
    id: str | None = None
    document: str | None = None
    metadata: tuple[str, ...] | None = None
    tenant: str | None = None
    array: str | None = None

    def refuse(self, format: str, *options: str) -> None:
        """Raise if one of these options was given: the format has no use for it."""
        for option in options:
            if getattr(self, option) is not None:
                raise InvalidArgumentError(
                    f"{_OPTIONS[option]} says nothing about a {format} file. Leave it out."
                )


def need(module: str, package: str, extra: str) -> Any:
    """Import an optional package, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"The package {package} is needed and not installed ({error}). "
            f"Install it with: pip install 'vecstore[{extra}]'"
        ) from error


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the operating system's complaints about a file into a `SourceFileError`."""
    try:
        yield
    except VecstoreError:
        raise
    except FileNotFoundError as error:
        raise SourceFileError(f"{name}: no such file. Check the path.") from error
    except IsADirectoryError as error:
        raise SourceFileError(f"{name}: is a folder. Give one file of vectors.") from error
    except PermissionError as error:
        raise SourceFileError(
            f"{name}: permission to read it is denied. Change its mode (chmod u+r) or its owner."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceFileError(f"{name}: cannot be read: {reason}.") from error


@contextmanager
def spooling(name: str) -> Iterator[None]:
    """Turn a full temporary folder into a `DiskFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskFullError(
            f"{name}: no space left in {tempfile.gettempdir()} to unpack it. Free some, or name "
            "another folder in the environment variable TMPDIR."
        ) from error


def check_numbers(name: str, what: str, dtype: np.dtype[Any]) -> None:
    """Raise unless the array holds real numbers."""
    if dtype.kind not in "fiub":
        raise SourceFileError(
            f"{name}: {what} has dtype {dtype}; vectors are real numbers (float16 to float64, or "
            "integers). Convert it before loading."
        )


def check_shape(name: str, what: str, shape: tuple[int, ...]) -> None:
    """Raise unless the shape is (n, d) with n and d at least 1."""
    if len(shape) != 2:
        raise SourceFileError(
            f"{name}: {what} has {len(shape)} dimension{'s' * (len(shape) != 1)} {shape}; vectors "
            "are two-dimensional, (rows, numbers). Reshape it before loading."
        )
    if min(shape) < 1:
        raise SourceFileError(f"{name}: {what} has shape {shape}: it holds no vectors.")


def choose(name: str, asked: str | None, shapes: Mapping[str, str], able: Sequence[str]) -> str:
    """Choose the array or column that holds the vectors.

    Parameters
    ----------
    asked
        The one asked for, or None.
    shapes
        Everything the file has, with a word on what it is (for the message).
    able
        Those among them that could be vectors.
    """
    listing = ", ".join(f"{key} ({what})" for key, what in shapes.items()) or "none"
    remedy = "Name one with array_key (--array) or vector_column (--vector-column)"
    if asked is not None:
        if asked not in shapes:
            raise SourceFileError(f"{name}: has no {asked!r}. It has: {listing}.")
        return asked
    usual = [key for word in USUAL_NAMES for key in able if key.rsplit("/", 1)[-1] == word]
    if len(able) == 1 or usual:
        return usual[0] if usual else able[0]
    if not able:
        raise SourceFileError(
            f"{name}: no vectors found; it has: {listing}. {remedy} if one of them holds vectors."
        )
    raise SourceFileError(f"{name}: several could be the vectors: {listing}. {remedy}.")


class VectorSpool:
    """Rows written to an unnamed temporary file, then mapped: (n, d) without the memory for it."""

    def __init__(self, name: str, dim: int, dtype: np.dtype[Any]) -> None:
        self.rows = 0
        self.dim = dim
        self.dtype = dtype
        self._name = name
        self._file = _temporary(name)

    def append(self, block: NDArray[Any]) -> None:
        """Add rows, (m, d)."""
        with spooling(self._name):
            self._file.write(np.ascontiguousarray(block, self.dtype).data)
        self.rows += len(block)

    def finish(self) -> NDArray[Any]:
        """Map what was written; the file goes when the map goes."""
        with spooling(self._name):
            self._file.flush()
        with self._file:
            return np.memmap(self._file, self.dtype, "r", shape=(self.rows, self.dim))

    def __del__(self) -> None:
        """Close the file of a reading that failed."""
        if hasattr(self, "_file"):
            self._file.close()


class RecordSpool(Sequence[Any]):
    """JSON values kept in an unnamed temporary file, decoded one by one when asked for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._file = _temporary(name)
        self._ends = array("Q", [0])
        self._map: mmap.mmap | None = None
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder().decode
        self.any = False

    def append(self, value: Any) -> None:
        """Add one value; what JSON does not know (dates, decimals) becomes its text."""
        self.any = self.any or value is not None
        encoded = self._encode(value)
        with spooling(self._name):
            self._file.write(encoded)
        self._ends.append(self._ends[-1] + len(encoded))

    def finish(self) -> RecordSpool | None:
        """Map what was written, or return None if every value is None."""
        with spooling(self._name):
            self._file.flush()
        with self._file:
            if not self.any:
                return None
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self

    def __del__(self) -> None:
        """Close the file of a reading that failed."""
        if hasattr(self, "_file"):
            self._file.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        assert self._map is not None
        return self._decode(self._map[self._ends[at] : self._ends[at + 1]])


class ColumnRows(Sequence[dict[str, Any]]):
    """Rows of several aligned arrays, each a dict made when asked for; NaN becomes None."""

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = dict(columns)
        self._length = len(next(iter(self._columns.values())))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        row = {key: column[at : at + 1].tolist()[0] for key, column in self._columns.items()}
        return {key: None if _is_nan(value) else value for key, value in row.items()}


def narrow(block: NDArray[Any], place: Callable[[int], str]) -> NDArray[np.float32]:
    """Convert rows to float32; raise if one holds NaN or what float32 cannot hold.

    Parameters
    ----------
    place
        Names the file and the place of a row of the block, for the message.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        narrowed = block.astype(np.float32, copy=False)
    finite = np.isfinite(narrowed)
    if not finite.all():
        row, column = np.argwhere(~finite)[0].tolist()
        raise SourceFileError(
            f"{place(row)}: number {column} of the vector is {block[row, column]}, which is not a "
            "finite float32. Correct or leave out the row."
        )
    return narrowed


def as_ids(values: Sequence[Any]) -> Sequence[str] | NDArray[np.int64]:
    """Give ids of one kind back in the leanest form: int64 array or list of str."""
    if all(type(value) is int and 0 <= value <= ID_MAX for value in values):
        return np.array(values, np.int64)
    return list(values)


def show_some(names: Iterable[str], limit: int = 12) -> str:
    """List names for a message, not too many."""
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more if listed else "none"


def _temporary(name: str) -> IO[bytes]:
    with spooling(name):
        return cast("IO[bytes]", tempfile.TemporaryFile(prefix="vecstore-", buffering=1 << 20))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
