"""The verbs of the service, one line each: path, role, bodies.

Routes, OpenAPI document and client are all made from this table.  A path's `{name}` segments are
percent-encoded, so a name may hold any character.  Verbs about rows take the tenants in the query
string: `?tenant=acme`, repeated to read several as one, as in `docs.tenant("acme", "globex")`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final
from urllib.parse import quote, urlencode

from vecstore.wire import bodies

PREFIX: Final = "/v1"


class Role(IntEnum):
    """What a key allows; each includes those below it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


class Where(IntEnum):
    """Where a verb is carried out."""

    READER = 1
    """In the process that got the request, on a store opened for reading."""

    WRITER = 2
    """In the one process that writes."""


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes
    ----------
    name : str
    method, path : str
    role : Role
        That a key must have.  Verbs that write rows have `READ` here: the store that such a key
        is handed is open for reading, and refuses.
    where : Where
    request, answer : type or None
        Bodies; None for none, or for a stream.
    summary : str
    tenants : bool
        It takes `?tenant=`.
    repeatable : bool
        Carried out twice it leaves what once leaves, and answers alike.
    slow : bool
        It may take minutes, so no time limit applies.
    """

    name: str
    method: str
    path: str
    role: Role
    where: Where
    request: type[bodies.Request] | None
    answer: Any
    summary: str
    tenants: bool = False
    repeatable: bool = True
    slow: bool = False

    @property
    def takes_key(self) -> bool:
        """Whether an idempotency key makes it happen once."""
        return self.where is Where.WRITER and self.name != "import"

    @property
    def leaves_receipt(self) -> bool:
        """Whether its one transaction remembers that key; what is slow may have several."""
        return self.where is Where.WRITER and not self.slow

    @property
    def streams(self) -> bool:
        """Whether it answers with a stream."""
        return self.answer is None

    def url(self, names: dict[str, str], tenants: tuple[str, ...] | None = None) -> str:
        """Path and query string of a call."""
        path = self.path
        for key, value in names.items():
            path = path.replace(f"{{{key}}}", quote(value, safe=""))
        if tenants is None:
            return path
        return f"{path}?{urlencode([('tenant', name) for name in tenants])}"


_ALL = f"{PREFIX}/collections"
_ONE = f"{_ALL}/{{collection}}"
_R, _W, _A = Role.READ, Role.WRITE, Role.ADMIN
_HERE, _THERE = Where.READER, Where.WRITER

_TABLE = (
    Verb(
        "query", "POST", f"{_ONE}/query", _R, _HERE, bodies.Question, bodies.Hits,
        "Find the rows nearest to one vector", tenants=True,
    ),
    Verb(
        "search", "POST", f"{_ONE}/search", _R, _HERE, bodies.Questions, bodies.ResultBody,
        "Find the rows nearest to each of many vectors", tenants=True,
    ),
    Verb(
        "explain", "POST", f"{_ONE}/explain", _R, _HERE, bodies.Explain, bodies.ExplanationBody,
        "Answer a query and tell how", tenants=True,
    ),
    Verb(
        "get", "POST", f"{_ONE}/get", _R, _HERE, bodies.Names, bodies.Hits,
        "Return rows by id, null for unknown ones", tenants=True,
    ),
    Verb(
        "vectors", "POST", f"{_ONE}/vectors", _R, _HERE, bodies.Names, bodies.VectorRows,
        "Return vectors by id", tenants=True,
    ),
    Verb(
        "count", "POST", f"{_ONE}/count", _R, _HERE, bodies.Condition, bodies.Number,
        "Count rows", tenants=True,
    ),
    Verb(
        "upsert", "POST", f"{_ONE}/upsert", _R, _THERE, bodies.Rows, bodies.Done,
        "Insert rows, or replace whole rows whose ids exist", tenants=True,
    ),
    Verb(
        "add", "POST", f"{_ONE}/add", _R, _THERE, bodies.Rows, bodies.Done,
        "Insert rows; refuse ids that exist", tenants=True, repeatable=False,
    ),
    Verb(
        "load", "POST", f"{_ONE}/load", _R, _THERE, bodies.LoadRows, bodies.Done,
        "Upsert rows of several tenants, or many rows",
    ),
    Verb(
        "delete", "POST", f"{_ONE}/delete", _R, _THERE, bodies.Selection, bodies.Number,
        "Delete rows by ids, by a filter, or both", tenants=True, repeatable=False,
    ),
    Verb(
        "grant", "POST", f"{_ONE}/grant", _R, _THERE, bodies.Grant, bodies.Number,
        "Let another tenant see rows", tenants=True, repeatable=False,
    ),
    Verb(
        "revoke", "POST", f"{_ONE}/revoke", _R, _THERE, bodies.Revoke, bodies.Number,
        "End grants", tenants=True, repeatable=False,
    ),
    Verb(
        "collections", "GET", _ALL, _R, _HERE, None, bodies.CollectionNames,
        "Names of all collections",
    ),
    Verb(
        "collection", "GET", _ONE, _R, _HERE, None, bodies.CollectionInfo,
        "A collection's options",
    ),
    Verb(
        "open", "POST", f"{_ONE}/open", _R, _HERE, bodies.Options, bodies.CollectionInfo,
        "A collection's options, compared with those given",
    ),
    Verb(
        "create", "PUT", _ONE, _W, _THERE, bodies.Options, bodies.CollectionInfo,
        "Get a collection, or create it",
    ),
    Verb(
        "drop", "DELETE", _ONE, _A, _THERE, None, bodies.Done,
        "Delete a collection and all it holds", repeatable=False,
    ),
    Verb(
        "stats", "GET", f"{_ONE}/stats", _R, _HERE, None, bodies.Figures,
        "Size, shape and calibration of a collection",
    ),
    Verb(
        "tenants", "GET", f"{_ONE}/tenants", _R, _HERE, None, bodies.TenantNames,
        "Names of all tenants",
    ),
    Verb(
        "drop_tenant", "DELETE", f"{_ONE}/tenants/{{name}}", _A, _THERE, None, bodies.Done,
        "Delete a tenant with all its rows, for everybody",
    ),
    Verb(
        "set_quota", "PUT", f"{_ONE}/tenants/{{name}}/quota", _A, _THERE, bodies.Quota, bodies.Done,
        "Limit what a tenant may store and ask for",
    ),
    Verb(
        "compact", "POST", f"{_ONE}/compact", _A, _THERE, None, bodies.Done,
        "Merge extents and give the space of dead rows back", slow=True,
    ),
    Verb(
        "tune", "POST", f"{_ONE}/tune", _A, _THERE, bodies.TuneRequest, bodies.TuningBody,
        "Choose codec and effort by measurement", repeatable=False, slow=True,
    ),
    Verb(
        "tuning", "GET", f"{_ONE}/tuning", _R, _HERE, None, bodies.TuningBody,
        "The last decision of tune, or null",
    ),
    Verb(
        "export", "GET", f"{_ONE}/export", _R, _HERE, None, None,
        "All rows of one committed state as JSON lines, gzipped", tenants=True, slow=True,
    ),
    Verb(
        "import", "POST", f"{_ONE}/import", _R, _THERE, None, bodies.Imported,
        "Upsert rows from JSON lines, plain or gzipped, some hundreds at a time",
        tenants=True, slow=True,
    ),
    Verb(
        "map", "GET", f"{_ONE}/map", _R, _HERE, None, bodies.Figures,
        "The clustering in two dimensions: centroids and sizes of postings", tenants=True,
    ),
    Verb(
        "store_stats", "GET", f"{PREFIX}/stats", _R, _HERE, None, bodies.Figures,
        "Collections and bytes of the store",
    ),
    Verb(
        "activity", "GET", f"{PREFIX}/activity", _R, _HERE, None, bodies.Figures,
        "Calls and latencies of the last minutes",
    ),
    Verb(
        "check", "POST", f"{PREFIX}/check", _A, _HERE, None, bodies.Violations,
        "Verify every invariant and checksum", slow=True,
    ),
    Verb(
        "repair", "POST", f"{PREFIX}/repair", _A, _THERE, bodies.RepairRequest, bodies.Sentences,
        "Make anew what follows from rows and facts", slow=True,
    ),
    Verb(
        "backup", "GET", f"{PREFIX}/backup", _A, _HERE, None, None,
        "A copy of the store as one commit left it, as a tar stream", slow=True,
    ),
    Verb(
        "keep_backup", "POST", f"{PREFIX}/backups", _A, _HERE, None, bodies.BackupName,
        "Back up into the folder that the service was started with", repeatable=False, slow=True,
    ),
)  # fmt: skip

VERBS: Final = {verb.name: verb for verb in _TABLE}
