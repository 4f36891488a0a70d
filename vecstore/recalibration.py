"""Which tenants are to be calibrated, and when.

A calibration says which effort reaches which recall; it is measured when postings are made, and
again when there are many more or fewer rows than were measured, or many others.  It may come a
while after the rows: until then the earlier one serves, or for new postings a cautious default.
"""

from __future__ import annotations

from vecstore import layout
from vecstore.calibrate import calibrate
from vecstore.clustering import Progress
from vecstore.config import GROWTH_MAX, RENEWAL_MAX, RUN_ROWS_MAX
from vecstore.layout import TENANT_NONE, Kind, TenantRecord
from vecstore.tenant_view import TenantView
from vecstore.writing import Captured, Writing


class Recalibration:
    """Calibrates tenants of one collection; the build lock must be held."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._considered: set[int] = set()
        self._looked = False

    def consider(self, tenant: int) -> None:
        """Look at a tenant, whose postings have changed."""
        self._considered.add(tenant)

    def run(self, progress: Progress) -> None:
        """Calibrate all that need it."""
        while self.run_one(progress):
            pass

    def run_one(self, progress: Progress) -> bool:
        """Calibrate the next tenant that needs it; False when none does."""
        view = self._next()
        if view is None:
            return False
        calibrate(self._writing, view, progress)
        self._considered.discard(view.number)
        return True

    def _next(self) -> TenantView | None:
        """Next tenant whose calibration is missing or too old."""
        with self._writing.captured() as captured:
            if not self._looked:  # an earlier process may not have come to it
                self._considered |= self._all(captured)
                self._looked = True
            while self._considered:
                view = captured.view(min(self._considered))
                directory = view.index.directory
                if directory is not None and len(directory.postings) > 1 and outdated(view.record):
                    return view
                self._considered.discard(view.number)
        return None

    def _all(self, captured: Captured) -> set[int]:
        """Tenants whose calibration is missing or too old."""
        if not self._writing.identity.record.tenants:
            return {TENANT_NONE}
        found = set()
        for key, value in captured.transaction.scan(
            layout.key(self._writing.collection, Kind.TENANT)
        ):
            record = layout.unpack(value, type=TenantRecord)
            if record.trained_rows > RUN_ROWS_MAX and outdated(record):
                found.add(int(layout.U32.unpack(key[-4:])[0]))
        return found


def outdated(record: TenantRecord) -> bool:
    """Tell whether there are many more or fewer rows than were calibrated, or many others."""
    rows, then = record.rows + record.granted, record.calibrated_rows
    if rows > GROWTH_MAX * then or GROWTH_MAX * rows < then:
        return True
    came = record.indexed_rows - record.calibrated_indexed
    return came - (rows - then) > RENEWAL_MAX * then
