"""Bugs planted on purpose: a harness that does not notice them is worth nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmdb
import numpy as np

import vecstore
from vecstore import extents, facts, postings, rawrows, storage, write
from vecstore.extents import extent_path
from vecstore.storage import Environment


def commit_before_fsync() -> None:
    """An extent is synced only after the commit that names it."""
    late: list[int] = []
    committed = Environment.write

    def keep(descriptor: int) -> None:
        late.append(os.dup(descriptor))

    @contextmanager
    def write_first(environment: Environment) -> Iterator[Any]:
        with committed(environment) as transaction:
            yield transaction
        while late:
            descriptor = late.pop()
            os.fsync(descriptor)
            os.close(descriptor)

    extents.os = SimpleNamespace(**{**vars(os), "fsync": keep})  # type: ignore[attr-defined]
    Environment.write = write_first  # type: ignore[assignment]


def folder_not_synced() -> None:
    """A new extent's name is left to the system."""
    extents.sync_folder = lambda path: None


def unlink_before_commit() -> None:
    """A retired extent goes at once, and not after the synced commit."""
    retire = facts.Edit.retire_extents

    def early(edit: Any, numbers: Any) -> None:
        numbers = list(numbers)
        retire(edit, numbers)
        for number in numbers:
            extent_path(_folder(), number).unlink(missing_ok=True)
        time.sleep(0.02 if numbers else 0)

    facts.Edit.retire_extents = early  # type: ignore[method-assign]


def _folder() -> Path:
    return next(iter(Environment._shared.values())).extents


def commit_not_synced() -> None:
    """LMDB leaves syncing to the system."""
    opened = lmdb.open

    def lazy(*args: Any, **options: Any) -> Any:
        return opened(*args, **{**options, "sync": False})

    storage.lmdb = SimpleNamespace(**{**vars(lmdb), "open": lazy})  # type: ignore[attr-defined]


def opened_without_sync() -> None:
    """A writer takes what it finds for durable."""
    Environment.sync = lambda environment: None  # type: ignore[method-assign]


def two_commits() -> None:
    """A call is stored in two parts."""
    put = write.Writer._put_log

    def halves(writer: Any, batch: Any, add: bool) -> None:
        n = len(batch.ids)
        for part in (slice(0, n // 2), slice(n // 2, n)):
            if n < 2 or batch.tenancy is not None:
                put(writer, batch, add)
                return
            put(writer, _part(batch, part), add)
            time.sleep(0.01)

    write.Writer._put_log = halves  # type: ignore[method-assign]


def _part(batch: Any, part: slice) -> Any:
    places = np.arange(len(batch.ids))[part]
    return write.Batch(
        batch.ids.part(places),
        batch.vectors[part],
        None if batch.metadata is None else batch.metadata[part],
        None if batch.documents is None else batch.documents[part],
    )


def failed_commit_forgotten() -> None:
    """After a failed commit the next call writes on."""
    Environment.refuses_writes = property(lambda _: "", lambda *_: None)  # type: ignore[assignment]


def failed_call_keeps_its_rows() -> None:
    """A failed sync of an extent is told, but the commit that names it is made all the same."""
    finish = extents.ExtentWriter.finish

    def careless(writer: Any, count: int) -> Any:
        try:
            return finish(writer, count)
        except vecstore.VecstoreError as error:
            errors.append(error)
            writer._file = open(writer._path, "r+b")  # noqa: SIM115
            return finish(writer, count)

    errors: list[vecstore.VecstoreError] = []
    put = write.Writer.put

    def tell(writer: Any, batch: Any, **options: Any) -> None:
        put(writer, batch, **options)
        if errors:
            raise vecstore.DiskFullError(str(errors.pop()))

    extents.ExtentWriter.finish = careless  # type: ignore[method-assign]
    write.Writer.put = tell  # type: ignore[method-assign]


def acknowledged_early() -> None:
    """`lives.live` acknowledges a call before it makes it."""


def checksums_not_looked_at() -> None:
    """Rows and runs count as looked at from the beginning."""
    made_rows, made_runs = rawrows.RawRows.__init__, postings.PostingRuns.__init__

    def rows(self: Any, *args: Any) -> None:
        made_rows(self, *args)
        self._checked[:] = ~np.uint64(0)

    def runs(self: Any, *args: Any) -> None:
        made_runs(self, *args)
        self.checked[:] = True

    rawrows.RawRows.__init__ = rows  # type: ignore[method-assign]
    postings.PostingRuns.__init__ = runs  # type: ignore[method-assign]
