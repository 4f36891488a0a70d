"""JSON lines, plain or gzipped: one object a line, read as a stream.

{"id": ..., "vector": [...], "metadata": {...}, "document": "..."}; other keys are left out
unless asked for. Vectors, metadata, documents and tenants go to temporary files, so that memory
holds one block of lines and the ids.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import numpy as np

from vecstore.loaders.common import (
    Columns,
    Progress,
    RecordSpool,
    Source,
    SourceFileError,
    VectorSpool,
    as_ids,
    narrow,
    show_some,
)
from vecstore.loaders.tenants import TenantSpool

BLOCK_LINES = 4096
LINE_BYTES_MAX = 64 << 20
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def open_jsonl(path: Path, columns: Columns, progress: Progress) -> Source:
    """Read JSON lines."""
    with path.open("rb") as raw:
        size = path.stat().st_size
        reader = _Reader(f"{path}", columns)
        for number, line in _lines(f"{path}", raw):
            reader.take(number, line)
            if number % BLOCK_LINES == 0 and size:
                progress("read", min(raw.tell(), size), size)
    source = reader.finish()
    if size:
        progress("read", size, size)
    return source


def _lines(name: str, raw: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Give the lines that are not blank, with their numbers from 1."""
    zipped = raw.peek(2).startswith(_GZIP)
    number = 0
    try:
        with cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if zipped else raw as stream:
            lines = iter(lambda: stream.readline(LINE_BYTES_MAX), b"")
            for number, line in enumerate(lines, 1):
                if len(line) == LINE_BYTES_MAX:
                    raise SourceFileError(
                        f"{name}: line {number} is longer than {LINE_BYTES_MAX:,} bytes. Write one "
                        'object a line: {"id": ..., "vector": [...]}.'
                    )
                text = line.removeprefix(_BOM) if number == 1 else line
                if text.strip():
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceFileError(
            f"{name}: the gzip stream is cut short or damaged after line {number} ({error}). "
            "Copy or download it again."
        ) from error


class _Reader:
    """Takes lines one by one; knows what the first one looked like."""

    def __init__(self, name: str, columns: Columns) -> None:
        self._name = name
        self._columns = columns
        self._vector_key = columns.vector or "vector"
        self._decode = _decoder(columns, self._vector_key)
        self._spool: VectorSpool | None = None
        self._block = np.empty((0, 0))
        self._numbers: list[int] = []
        self._ids: list[int | str] = []
        self._id_kind: type | None = None
        self._metadata = RecordSpool(name)
        self._documents = RecordSpool(name)
        self._tenants = None if columns.tenant is None else TenantSpool(name)
        self._first = 0

    def take(self, number: int, line: bytes) -> None:
        """Read one line."""
        try:
            record = self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._explain(number, line, error) from error
        vector: list[float] = record.vector
        if self._spool is None:
            self._begin(number, vector)
        if len(vector) != self._block.shape[1]:
            raise self._at(
                number,
                f"the vector has {len(vector)} numbers, the one in line {self._first} has "
                f"{self._block.shape[1]}. All must have the same length.",
            )
        self._block[len(self._numbers)] = vector
        self._numbers.append(number)
        if len(self._numbers) == BLOCK_LINES:
            self._flush()
        self._take_id(number, record.id)
        self._documents.append(record.document)
        if self._tenants is not None:
            try:
                self._tenants.append(record.tenant)
            except TypeError as error:
                raise self._at(number, f"key {self._columns.tenant!r}: {error}.") from error
        if self._columns.metadata is None:
            self._metadata.append(record.metadata)
        else:
            values = {key: getattr(record, f"m{i}") for i, key in enumerate(self._columns.metadata)}
            self._metadata.append(
                {key: value for key, value in values.items() if value is not msgspec.UNSET}
            )

    def finish(self) -> Source:
        """Map what was read."""
        if self._spool is None:
            raise SourceFileError(f"{self._name}: holds no vectors: every line is blank.")
        self._flush()
        return Source(
            self._spool.finish(),
            as_ids(self._ids) if self._id_kind else None,
            self._metadata.finish(),
            self._documents.finish(),
            None if self._tenants is None else self._tenants.finish(),
        )

    def _begin(self, number: int, vector: list[float]) -> None:
        if not vector:
            raise self._at(number, "the vector is empty. Give at least one number.")
        self._spool = VectorSpool(self._name, len(vector), np.dtype(np.float32))
        self._block = np.empty((BLOCK_LINES, len(vector)))
        self._first = number

    def _flush(self) -> None:
        assert self._spool is not None
        block = self._block[: len(self._numbers)]
        self._spool.append(narrow(block, lambda row: f"{self._name}: line {self._numbers[row]}"))
        self._numbers.clear()

    def _take_id(self, number: int, identity: Any) -> None:
        kind = None if identity is msgspec.UNSET else type(identity)
        if number == self._first:
            self._id_kind = kind
        if kind is not self._id_kind:
            raise self._at(
                number,
                f"{_id_kind(kind)}, line {self._first} {_id_kind(self._id_kind)}. Give every line "
                "an id of one kind, or none.",
            )
        if kind is not None:
            self._ids.append(identity)

    def _explain(self, number: int, line: bytes, error: Exception) -> SourceFileError:
        """Say what is wrong with a line that does not decode."""
        if not isinstance(error, msgspec.ValidationError):
            return self._at(
                number,
                f"invalid JSON ({error}). Correct it; if it is the last line, the file may be cut "
                "short.",
            )
        try:
            loose = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            loose = None
        if not isinstance(loose, dict):
            return self._at(
                number, 'not a JSON object. Write one a line: {"id": ..., "vector": [...]}.'
            )
        columns = self._columns
        for key in filter(None, (self._vector_key, columns.id, columns.document, columns.tenant)):
            if key not in loose:
                return self._at(
                    number,
                    f"no {key!r}; its keys are {show_some(loose)}. Name another with "
                    "vector_column (--vector-column), id_column (--ids-column), "
                    "document_column (--document-column) or tenant_column (--tenant-column).",
                )
        return self._at(number, f"{error}. Expected {self._expected()}.")

    def _expected(self) -> str:
        return (
            f"{self._vector_key!r} a list of numbers, the id a string or an integer, the document "
            "a string, the metadata an object"
        )

    def _at(self, number: int, what: str) -> SourceFileError:
        return SourceFileError(f"{self._name}: line {number}: {what}")


def _id_kind(kind: type | None) -> str:
    return "has no id" if kind is None else f"has an id of type {kind.__name__}"


def _decoder(columns: Columns, vector_key: str) -> Any:
    """Make a decoder for exactly the keys that are wanted; one wanted twice is read once."""
    unset, text = msgspec.UnsetType, str | None
    # Attribute, key, type, and the default of what may be missing; what must be there comes first.
    wanted: list[tuple[Any, ...]] = [("vector", vector_key, list[float])]
    if columns.id is not None:
        wanted.append(("id", columns.id, int | str))
    if columns.document is not None:
        wanted.append(("document", columns.document, text))
    if columns.tenant is not None:
        wanted.append(("tenant", columns.tenant, Any))
    if columns.id is None:
        wanted.append(("id", "id", int | str | unset, msgspec.UNSET))
    if columns.document is None:
        wanted.append(("document", "document", text, None))
    if columns.metadata is None:
        wanted.append(("metadata", "metadata", dict[str, Any] | None, None))
    for i, key in enumerate(columns.metadata or ()):
        wanted.append((f"m{i}", key, Any, msgspec.UNSET))
    fields: dict[str, tuple[Any, ...]] = {}
    same: dict[str, Any] = {}
    for attribute, key, *kind in wanted:
        if key in fields:
            same[attribute] = property(attrgetter(fields[key][0]))
        else:
            fields[key] = (attribute, *kind)
    rename = {attribute: key for key, (attribute, *_) in fields.items()}
    record = msgspec.defstruct("Record", fields.values(), namespace=same, rename=rename)
    return msgspec.json.Decoder(record).decode
