"""A secondary index over metadata: immutable extents that turn conditions into sets of rows.

Everything of a tenant lies contiguous: its columns (`columns`) by field, then type, then value,
then row; behind them the names of its fields and the table of its columns.  A row that several
tenants see is indexed under each of them, so that a query never looks at another tenant's bytes.

Invariants
----------
* The tenants of an extent are strictly ascending.
* A tenant's bytes match its checksum, which is looked at on the tenant's first use.
* The index holds exactly `entries_of(metadata)` of every row it was written from.
"""

from vecstore.attributes.checks import faults
from vecstore.attributes.index import Attributes, Entry, matching
from vecstore.attributes.writer import TENANT_DTYPE, entries_of, write_attributes

__all__ = [
    "TENANT_DTYPE",
    "Attributes",
    "Entry",
    "entries_of",
    "faults",
    "matching",
    "write_attributes",
]
