"""Merging extents and giving space back.

Flushes leave small extents, deletes and replaced rows leave dead bytes.  Extents of about one
size are merged when there are `TIER_EXTENTS` of them, so a row is written again a logarithmic
number of times; when a share of all rows is dead, postings are written anew without them and raw
extents that are mostly dead with what is left.  Postings, centroids and row numbers stay: only
where things stand changes, in one commit each.

Invariants
----------
* What can be found before a merge can be found after it, at the same distances.
* A row that was revoked keeps its entries as long as it is listed as revoked: granted again, it is
  taken to stand in a posting.
* A merged extent is retired, and its file removed once no reader is older.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore import idle, layout
from vecstore.attributes import Attributes
from vecstore.balance import Entries, trim
from vecstore.built import Built
from vecstore.clustering import Progress, worker_pool
from vecstore.codecs import Model, train_model
from vecstore.config import EXTENT_BYTES_MAX, EXTENT_BYTES_MIN
from vecstore.directory import Directories, Leaves
from vecstore.division import Assignment
from vecstore.extents import Extent
from vecstore.facts import Edit
from vecstore.layout import Kind
from vecstore.postings import PostingRuns
from vecstore.publish import ExtentNumbers, abandon, clear_retired, publishing
from vecstore.rawrows import RawRows, extent_rows
from vecstore.rebuild import Rebuilder
from vecstore.row_source import Rows
from vecstore.rowsets import distinct, starts
from vecstore.snapshot import Snapshot
from vecstore.tenant_view import TenantView, rows_under
from vecstore.writing import Writing

T = TypeVar("T", PostingRuns, RawRows, Attributes)
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
TIER_EXTENTS = 4
TIER_BYTES = 1 << 20
"""Extents up to this size are of the lowest tier; each further one holds those up to
`TIER_EXTENTS` times as large."""
READER_WAITS = 10
READER_WAIT_S = 0.02
"""Between two merges: readers in the middle of a query keep the files of the first from going."""
DIRECTORIES_MAX = 8
"""Extents of directories, most of which is replaced by then."""


class Compactor:
    """Merges the extents of one collection; the write lock must be held."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._identity = writing.identity

    def tend(self, progress: Progress) -> bool:
        """Merge what is due, one tier of each kind at most; False when nothing was."""
        return self._run(self._due(progress), progress)

    def compact(self, progress: Progress) -> None:
        """Merge everything that can be."""
        self._run(self._everything(progress), progress)

    def _run(self, steps: list[Callable[[], None]], progress: Progress) -> bool:
        """Take steps, each of which holds the maps of what it replaces; False without any."""
        done = bool(steps)
        while steps:
            steps.pop(0)()
            self._writing.newest()  # what this process read last would keep the space of its files
            waits = 0
            while clear_retired(self._writing) and steps and waits < READER_WAITS:
                waits += 1
                progress("wait for readers", waits, READER_WAITS)
                time.sleep(READER_WAIT_S)
        return done

    def _due(self, progress: Progress) -> list[Callable[[], None]]:
        snapshot = self._writing.newest()
        extents = snapshot.extents
        stored = sum(own.stored for own in extents.raws)
        worn = idle.dead_rows(snapshot) > idle.DEAD_SHARE * stored
        with self._writing.captured() as captured:
            all_postings = idle.has_dead_entries(captured)
            unread = idle.mostly_unread(captured)
        postings = extents.postings if all_postings else _full_tier(extents.postings) or unread
        is_most = 2 * _room(postings) > _room(extents.postings)
        return self._steps(
            postings,
            extents.attributes if worn else _full_tier(extents.attributes),
            self._raw_groups(snapshot, idle.RAW_DEAD_SHARE / 2 if is_most else idle.RAW_DEAD_SHARE),
            extents.directories if len(extents.directories) > DIRECTORIES_MAX else {},
            progress,
        )

    def _everything(self, progress: Progress) -> list[Callable[[], None]]:
        snapshot = self._writing.newest()
        extents = snapshot.extents
        return self._steps(
            extents.postings,
            extents.attributes,
            self._raw_groups(snapshot, 0.0),
            extents.directories if len(extents.directories) > 1 else {},
            progress,
        )

    def _steps(
        self,
        postings: Sequence[PostingRuns],
        attributes: Sequence[Attributes],
        raws: Sequence[Sequence[RawRows]],
        directories: Mapping[int, Directories],
        progress: Progress,
    ) -> list[Callable[[], None]]:
        """Steps that merge some extents of each kind, those that need least room first."""
        steps: list[Callable[[], None]] = [partial(self._raws, group, progress) for group in raws]
        if attributes:
            steps.append(partial(self._attributes, attributes, progress))
        if len(postings) == len(self._writing.newest().extents.postings):
            if fragments := _fragments(postings):
                steps.append(partial(self._postings, fragments, progress))
            steps.append(partial(self._all_postings, progress))
        elif postings:
            steps.append(partial(self._postings, postings, progress))
        if directories:
            steps.append(partial(self._directories, directories, progress))
        return steps

    # --- postings --------------------------------------------------------------------------

    def _all_postings(self, progress: Progress) -> None:
        """Write all live entries as one extent."""
        if parts := self._writing.newest().extents.postings:
            self._postings(parts, progress)

    def _postings(self, parts: Sequence[PostingRuns], progress: Progress) -> None:
        """Write the live entries of some extents as one, each posting as one run."""
        tenants = np.unique(np.concatenate([part.tenants for part in parts])).tolist()
        chosen = {part.extent.number for part in parts}
        with self._writing.captured() as captured:
            snapshot = captured.snapshot
            wanted = {
                place
                for place, part in enumerate(snapshot.extents.postings)
                if part.extent.number in chosen
            }
            merged: list[tuple[Leaves, U32, NDArray[np.int32]]] = []
            for tenant in tenants:
                progress("merge", len(merged), len(tenants))
                own = self._entries(captured.view(tenant), wanted, progress)
                if own is not None:
                    merged.append(own)
        rows = distinct(np.concatenate([np.zeros(0, np.uint32), *(own for _, own, _ in merged)]))
        self._writing.searcher.check_rows(snapshot, rows)
        assignments = [
            Assignment(leaves, np.searchsorted(rows, own).astype(np.int64), homes, False)
            for leaves, own, homes in merged
        ]
        model = self._model(snapshot)

        def write(builder: Rebuilder) -> list[Built]:
            if not assignments:
                return []
            return [builder.merge(assignments, rows, snapshot.addresses(rows), model)]

        self._replace(snapshot, [part.extent for part in parts], write, progress)

    def _entries(
        self, view: TenantView, wanted: set[int], progress: Progress
    ) -> tuple[Leaves, U32, NDArray[np.int32]] | None:
        """Live entries that a tenant has in some extents, and the postings that they are in.

        Returns
        -------
        leaves, rows uint32 (n,), homes int32 (n, 1); None when there is none
        """
        codec, dim = view.snapshot.extents.codec, view.snapshot.identity.record.dim
        ordinals, rows = view.index.entries(codec.block_bytes(dim), wanted)
        live = layout.get_bits(view.snapshot.live, rows)  # with revoked ones, see `membership`
        directory = view.index.directory
        if not live.any() or directory is None:
            return None
        leaves = directory.leaves
        found = Entries.union(Entries(ordinals[live], rows[live].astype(np.int64)))
        if not leaves.listed:
            found = self._trim(view, leaves, found, progress)
        first = starts(found.ordinals)
        used = found.ordinals[first]
        homes = np.repeat(
            np.arange(len(used), dtype=np.int32), np.diff(first, append=len(found.ordinals))
        )
        centroids = leaves.centroids if leaves.listed else leaves.centroids[used]
        part = Leaves(view.number, leaves.numbers[used], centroids, leaves.centre)
        return part, found.places.astype(np.uint32), homes[:, None]

    def _trim(
        self, view: TenantView, leaves: Leaves, found: Entries, progress: Progress
    ) -> Entries:
        """Drop entries that rows have beyond the homes they would choose."""

        def take(numbers: I64) -> F32:
            progress("trim", int(numbers[0]), view.rows)
            rows = numbers.astype(np.uint32)
            self._writing.searcher.check_rows(view.snapshot, rows)
            stored = Rows(self._identity, view.snapshot.addresses(rows), None)
            return stored.take(np.arange(len(rows)))

        return trim(found, np.ascontiguousarray(leaves.centroids), take)

    def _model(self, snapshot: Snapshot) -> Model:
        """What the posting codec learned."""
        for directories in snapshot.extents.directories.values():
            return directories.model
        record = self._identity.record
        none = np.zeros((0, record.dim), np.float32)
        centre = np.zeros(record.dim, np.float32)
        return train_model(snapshot.extents.codec, record.metric, record.seed, centre, none)

    # --- metadata and vectors --------------------------------------------------------------

    def _attributes(self, sources: Sequence[Attributes], progress: Progress) -> None:
        """Write some indexes of metadata as one, without the rows that ended."""
        numbers = np.unique(np.concatenate([np.asarray(own.tenants) for own in sources]))
        collection = self._identity.record.number
        with self._writing.captured() as captured:
            snapshot, transaction = captured.snapshot, captured.transaction

            def metadata(row: int) -> dict[str, Any] | None:
                return snapshot.metadata(transaction, [row])[0]

            def tenants() -> Iterator[tuple[int, U32]]:
                for number in numbers.tolist():
                    view = captured.view(number)
                    held = [entry.rows for own in sources for entry in own.entries(int(number))]
                    rows = distinct(np.concatenate([np.zeros(0, np.uint32), *held]))
                    rows = rows[layout.get_bits(snapshot.live, rows)]
                    if view.record.ever_granted:
                        revoked = rows_under(
                            transaction, collection, Kind.REVOKED, number, view.record.revoked
                        )
                        rows = np.intersect1d(rows, np.union1d(view.row_numbers(), revoked))
                    yield number, rows.astype(np.uint32)

            def write(builder: Rebuilder) -> list[Built]:
                built = Built(self._identity)
                builder.put_attributes(built, tenants(), metadata)
                return [built]

            self._replace(snapshot, [own.extent for own in sources], write, progress)

    def _raws(self, group: Sequence[RawRows], progress: Progress) -> None:
        """Write the live rows of neighbouring raw extents as one."""
        snapshot = self._writing.newest()
        rows = [own.rows(snapshot.live) for own in group]
        for mine in rows:
            self._writing.searcher.check_rows(snapshot, mine)

        def write(builder: Rebuilder) -> list[Built]:
            return [builder.write_raw(group, snapshot.live)] if any(map(len, rows)) else []

        self._replace(snapshot, [own.extent for own in group], write, progress)

    def _raw_groups(self, snapshot: Snapshot, dead_share: float) -> list[list[RawRows]]:
        """Neighbouring raw extents to be written as one."""
        everything = dead_share == 0.0
        row_bytes = self._identity.row_bytes
        stored = sum(own.stored for own in snapshot.extents.raws)
        size_max = extent_rows(row_bytes, stored) * row_bytes
        groups: list[list[RawRows]] = []
        for _, run in groupby(
            snapshot.extents.raws, lambda own: -1 if everything else _tier(own.extent)
        ):
            members = list(run)
            size = 0
            group: list[RawRows] = []
            for own in members:
                size += own.extent.record.bytes
                if group and size > size_max:
                    groups.append(group)
                    group, size = [], own.extent.record.bytes
                group.append(own)
            groups.append(group)
        due = []
        for group in groups:
            stored = sum(own.stored for own in group)
            dead = stored - sum(len(own.rows(snapshot.live)) for own in group)
            many = len(group) >= (2 if everything else TIER_EXTENTS)
            if many or dead > dead_share * stored:
                due.append(group)
        return due

    def _directories(self, old: Mapping[int, Directories], progress: Progress) -> None:
        """Write the directories that tenants have as one extent, without those replaced."""
        current: dict[int, int] = {}
        prefix = layout.key(self._identity.record.number, Kind.TENANT)
        with self._writing.captured() as captured:
            snapshot = captured.snapshot
            for key, value in captured.transaction.scan(prefix):
                record = layout.unpack(value, type=layout.TenantRecord)
                if record.directory:
                    current[int(layout.U32.unpack(key[-4:])[0])] = record.directory

        def write(builder: Rebuilder) -> list[Built]:
            built = Built(self._identity)
            found = (
                snapshot.extents.directory(tenant, number)
                for tenant, number in sorted(current.items())
            )
            leaves = (directory.leaves for directory in found if directory is not None)
            if current:
                builder.put_directories(built, self._model(snapshot), leaves)
            return [built]

        def publish(edit: Edit, builts: Sequence[Built]) -> None:
            for tenant in filter(edit.knows, current):  # some may have been dropped meanwhile
                edit.tenant(tenant).directory = builts[0].directory

        self._replace(snapshot, [own.extent for own in old.values()], write, progress, publish)

    # --- publishing ------------------------------------------------------------------------

    def _replace(
        self,
        snapshot: Snapshot,
        old: Sequence[Extent],
        write: Callable[[Rebuilder], list[Built]],
        progress: Progress,
        publish: Callable[[Edit, Sequence[Built]], None] | None = None,
    ) -> None:
        """Write new extents and let them take the place of old ones, in one commit."""
        environment = self._writing.environment
        numbers = ExtentNumbers(environment)
        pool = worker_pool(self._writing.workers)
        builts: list[Built] = []
        try:
            codec = snapshot.extents.codec
            builts = write(Rebuilder(self._identity, codec, numbers, pool, progress))
            with publishing(self._writing, numbers) as edit:
                edit.retire_extents(extent.number for extent in old)
                for built in builts:
                    edit.add_extents(built.extents)
                if publish is not None:
                    publish(edit, builts)
        except BaseException:
            abandon(environment, self._identity, builts)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _tier(extent: Extent) -> int:
    """Size class of an extent."""
    size, tier = extent.record.bytes, 0
    while size > TIER_BYTES:
        size //= TIER_EXTENTS
        tier += 1
    return tier


def _fragments(parts: Sequence[PostingRuns]) -> list[PostingRuns]:
    """All but the largest extent, where they are to become one before that is merged with it.

    Many short runs take far more room than a few long ones.  So the old files and the new one never
    stand side by side as a whole: what the short runs waste is given back first.
    """
    by_size = sorted(parts, key=lambda part: part.extent.record.bytes)[:-1]
    return by_size if len(by_size) > 1 and _room(by_size) > EXTENT_BYTES_MIN else []


def _room(parts: Sequence[PostingRuns]) -> int:
    """Bytes of some extents."""
    return sum(part.extent.record.bytes for part in parts)


def _full_tier(parts: Sequence[T]) -> list[T]:
    """Extents of the lowest tier that has enough of them to be merged, and is not full."""
    tiers: dict[int, list[T]] = {}
    for part in parts:
        if part.extent.record.bytes < EXTENT_BYTES_MAX // TIER_EXTENTS:
            tiers.setdefault(_tier(part.extent), []).append(part)
    for _, members in sorted(tiers.items()):
        if len(members) >= TIER_EXTENTS:
            return members
    return []
