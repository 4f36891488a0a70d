"""parquet: a column of lists of numbers, read batch by batch into a temporary file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore.errors import VecstoreError
from vecstore.loaders.common import (
    BLOCK_BYTES,
    Columns,
    Progress,
    RecordSpool,
    Source,
    SourceFileError,
    VectorSpool,
    as_ids,
    choose,
    narrow,
    need,
    show_some,
)
from vecstore.loaders.tenants import TenantSpool


def open_parquet(path: Path, columns: Columns, progress: Progress) -> Source:
    """Read a parquet file; needs pyarrow."""
    pyarrow = need("pyarrow", "pyarrow", "parquet")
    parquet = need("pyarrow.parquet", "pyarrow", "parquet")
    try:
        with path.open("rb") as raw:
            file = parquet.ParquetFile(
                raw, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
            )
            return _Reader(f"{path}", pyarrow, file, columns).read(progress)
    except VecstoreError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (f"{error}".splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SourceFileError(
            f"{path}: cut short or damaged, or no parquet file at all: {reason}. Copy or download "
            "it again."
        ) from error
    finally:
        pyarrow.default_memory_pool().release_unused()


class _Reader:
    """One parquet file and what is wanted of it."""

    def __init__(self, name: str, pyarrow: Any, file: Any, columns: Columns) -> None:
        self._name = name
        self._types = pyarrow.types
        self._pyarrow = pyarrow
        self._file = file
        schema = {field.name: field.type for field in file.schema_arrow}
        self._vector = self._choose_vector(columns.vector, schema)
        self._id = self._wanted(columns.id, "id", schema)
        self._document = self._wanted(columns.document, "document", schema)
        self._whole = None if columns.metadata else self._wanted(None, "metadata", schema)
        self._fields = columns.metadata or ()
        for key in self._fields:
            self._wanted(key, key, schema)
        self._tenant = columns.tenant
        if self._tenant is not None:
            self._wanted(self._tenant, self._tenant, schema)
        self._ids: list[Any] = []
        self._metadata = RecordSpool(name)
        self._documents = RecordSpool(name)
        self._tenants = None if self._tenant is None else TenantSpool(name)
        self._spool: VectorSpool | None = None

    def read(self, progress: Progress) -> Source:
        """Read all batches."""
        total, done = self._file.metadata.num_rows, 0
        if total == 0:
            raise SourceFileError(f"{self._name}: has no rows: it holds no vectors.")
        wanted = [self._vector, self._id, self._document, self._tenant, self._whole, *self._fields]
        names = list(dict.fromkeys(name for name in wanted if name is not None))
        for batch in self._file.iter_batches(self._batch_rows(total), columns=names):
            self._take_vectors(batch.column(self._vector), done)
            self._take_rest(batch, done)
            done += len(batch)
            progress("read", done, total)
        assert self._spool is not None
        return Source(
            self._spool.finish(),
            None if self._id is None else as_ids(self._ids),
            self._metadata.finish(),
            self._documents.finish(),
            None if self._tenants is None else self._tenants.finish(),
        )

    def _batch_rows(self, total: int) -> int:
        sizes = self._file.metadata
        bytes_all: int = sum(
            sizes.row_group(i).total_byte_size for i in range(sizes.num_row_groups)
        )
        return max(1, min(65_536, BLOCK_BYTES * total // max(1, bytes_all)))

    def _choose_vector(self, asked: str | None, schema: dict[str, Any]) -> str:
        able = [key for key, kind in schema.items() if self._number_type(kind) is not None]
        shapes = {key: f"{kind}" for key, kind in schema.items()}
        chosen = choose(self._name, asked, shapes, able)
        if chosen not in able:
            raise SourceFileError(
                f"{self._name}: column {chosen!r} is {shapes[chosen]}; vectors are lists of "
                f"numbers, as in: {show_some(able)}. Choose with vector_column (--vector-column)."
            )
        return chosen

    def _number_type(self, kind: Any) -> Any:
        """Return the type of the numbers of a column of lists, else None."""
        types = self._types
        kind = _storage(self._pyarrow, kind)
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            value = kind.value_type
            return value if types.is_floating(value) or types.is_integer(value) else None
        return None

    def _wanted(self, asked: str | None, usual: str, schema: dict[str, Any]) -> str | None:
        if asked is None:
            return usual if usual in schema else None
        if asked not in schema:
            raise SourceFileError(f"{self._name}: has no {asked!r}. It has: {show_some(schema)}.")
        return asked

    def _take_vectors(self, column: Any, start: int) -> None:
        if isinstance(column, self._pyarrow.ExtensionArray):
            column = column.storage
        self._refuse_null(column, start, "no vector")
        flat = column.flatten()
        lengths = self._lengths(column)
        dim = self._spool.dim if self._spool else int(lengths[0])
        other = np.flatnonzero(lengths != dim)
        if len(other):
            raise self._at(
                start + int(other[0]),
                f"the vector has {int(lengths[other[0]])} numbers, the one in row 0 has {dim}. "
                "All must have the same length.",
            )
        if dim == 0:
            raise self._at(start, "the vector is empty. Give at least one number.")
        if flat.null_count:
            row = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // dim
            raise self._at(start + row, "the vector holds a null. Correct or leave out the row.")
        block: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(len(column), dim)
        if self._spool is None:
            self._spool = VectorSpool(self._name, dim, np.dtype(np.float32))
        self._spool.append(narrow(block, lambda row: f"{self._name}: row {start + row}"))

    def _lengths(self, column: Any) -> NDArray[np.int64]:
        if self._types.is_fixed_size_list(column.type):
            return np.full(len(column), column.type.list_size)
        lengths: NDArray[np.int64] = np.diff(column.offsets.to_numpy())
        return lengths

    def _refuse_null(self, column: Any, start: int, what: str) -> None:
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise self._at(start + row, f"{what} (null). Fill it in or leave out the row.")

    def _take_rest(self, batch: Any, start: int) -> None:
        if self._id is not None:
            column = batch.column(self._id)
            self._refuse_null(column, start, f"no id in column {self._id!r}")
            self._each(column, start, self._id, self._take_id)
        if self._document is not None:
            self._each(batch.column(self._document), start, self._document, self._take_document)
        if self._tenants is not None:
            assert self._tenant is not None
            self._each(batch.column(self._tenant), start, self._tenant, self._tenants.append)
        if self._whole is not None:
            self._each(batch.column(self._whole), start, self._whole, self._take_metadata)
        if self._fields:
            for record in batch.select(list(self._fields)).to_pylist():
                self._metadata.append(record)

    def _each(self, column: Any, start: int, key: str, take: Callable[[Any], None]) -> None:
        """Hand every value over; add the row to what it complains about."""
        for row, value in enumerate(column.to_pylist(), start):
            try:
                take(value)
            except TypeError as error:
                raise self._at(row, f"column {key!r}: {error}.") from error

    def _take_id(self, value: Any) -> None:
        if type(value) not in (int, str):
            raise TypeError(f"{value!r} is no id; ids are integers or strings")
        self._ids.append(value)

    def _take_document(self, value: Any) -> None:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{value!r} is no document; documents are strings")
        self._documents.append(value)

    def _take_metadata(self, value: Any) -> None:
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise TypeError(f"invalid JSON ({error})") from error
        elif isinstance(value, list):
            value = dict(value)
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"{value!r} is no metadata; it is an object, as struct or JSON text")
        self._metadata.append(value)

    def _at(self, row: int, what: str) -> SourceFileError:
        return SourceFileError(f"{self._name}: row {row}: {what}")


def _storage(pyarrow: Any, kind: Any) -> Any:
    return kind.storage_type if isinstance(kind, pyarrow.BaseExtensionType) else kind
