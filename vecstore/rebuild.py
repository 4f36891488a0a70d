"""Writing anew what stands already: postings of another codec, merged postings, raw rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vecstore.build import Builder
from vecstore.built import Built
from vecstore.codecs import Model
from vecstore.division import Assignment
from vecstore.layout import get_bits
from vecstore.rawrows import RawRows, write_rows
from vecstore.row_source import Rows
from vecstore.snapshot import Snapshot
from vecstore.tenant_view import TenantView

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U8 = NDArray[np.uint8]


class Rebuilder(Builder):
    """Writes extents that take the place of others."""

    def merge(
        self, assignments: Sequence[Assignment], numbers: U32, addresses: I64, model: Model
    ) -> Built:
        """Write postings that tenants have as one run each.

        Parameters
        ----------
        assignments : sequence of Assignment
            By ascending tenant.
        numbers : uint32 (rows,), addresses : int64 (rows,)
            The stored rows that their places are about.
        """
        first_postings = np.zeros(len(assignments) + 1, np.int64)
        first_postings[1:] = np.cumsum([len(one.leaves.numbers) for one in assignments])
        with self._building() as built:
            self._put_postings(built, model, assignments, first_postings, numbers, addresses)
        return built

    def write_raw(self, parts: Sequence[RawRows], live: NDArray[np.uint64]) -> Built:
        """Write the live rows of neighbouring raw extents as one."""
        rows = [own.rows(live) for own in parts]
        first, end = parts[0].first_row, parts[-1].end_row
        present = np.zeros(end - first, np.bool_)
        present[np.concatenate(rows) - np.uint32(first)] = True
        ids = [own.many(mine) for own, mine in zip(parts, rows, strict=True)]
        is_int = all(values.dtype == np.int64 for values in ids)
        starts = np.cumsum([0, *map(len, rows)])

        def take(start: int, stop: int) -> U8:
            self.progress("raw rows", start, int(starts[-1]))
            pieces = [
                own.raw(mine[max(0, start - at) : max(0, stop - at)])
                for own, mine, at in zip(parts, rows, starts.tolist(), strict=False)
            ]
            return np.concatenate(pieces)

        with self._building() as built:
            number = self._next_extent()
            built.extents[number] = write_rows(
                self._identity.folder,
                number,
                self._record.number,
                first,
                end - first,
                self._record.dim,
                self._identity.form.number,
                take,
                np.concatenate(ids) if is_int else [str(one) for own in ids for one in own],
                np.concatenate([own.inserted(mine) for own, mine in zip(parts, rows, strict=True)]),
                np.concatenate([own.owners(mine) for own, mine in zip(parts, rows, strict=True)])
                if self._record.tenants
                else None,
                None if present.all() else present,
            )
        return built

    def rewrite(self, snapshot: Snapshot, tenant: TenantView) -> Built:
        """Write all postings of the only tenant anew, each as one run, with this codec.

        Postings, centroids and rows stay what they are; entries of dead rows are left out.
        """
        directory = tenant.index.directory
        assert directory is not None, "a tenant without a directory has no postings to rewrite"
        old_codec = snapshot.extents.codec
        ordinals, entries = tenant.index.entries(old_codec.block_bytes(self._record.dim))
        live = get_bits(snapshot.live, entries)
        numbers, places = np.unique(entries[live], return_inverse=True)
        homes = ordinals[live].astype(np.int32)
        rows = Rows(self._identity, snapshot.addresses(numbers), None)
        one = Assignment(directory.leaves, places.astype(np.int64), homes[:, None], True)
        model = self._train_model(rows, [one])
        with self._building() as built:
            bounds = np.array([0, len(directory.postings)])
            self._put_postings(built, model, [one], bounds, numbers, rows.stored_addresses)
            self._put_directories(built, model, [one])
        return built
