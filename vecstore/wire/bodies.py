"""Bodies of requests and answers.

Vectors come as JSON lists or, in one string, as base64 of little-endian float32; in msgpack as
lists or as those bytes.  Unknown fields are refused, so that a misspelt one is not overlooked.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from vecstore.config import DIM_MAX, INT_ID_MAX, K_MAX

Vector: TypeAlias = list[float] | bytes
Vectors: TypeAlias = list[list[float] | float] | bytes
OneId: TypeAlias = int | str
Ids: TypeAlias = list[OneId] | OneId
Metadata: TypeAlias = list[dict[str, Any] | None] | dict[str, Any] | None
Documents: TypeAlias = list[str | None] | str | None
Where: TypeAlias = dict[str, Any] | None
Count: TypeAlias = Annotated[int, Meta(ge=1, le=K_MAX)]
Limit: TypeAlias = Annotated[int, Meta(ge=0, le=INT_ID_MAX)] | None
Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """Root of all bodies of requests."""


class Options(Request):
    """Options of a collection; on an existing one, those given are compared."""

    dim: Annotated[int, Meta(ge=1, le=DIM_MAX)] | None = None
    metric: str | None = None
    tenants: bool | None = None
    codec: str | None = None
    raw: str | None = None


class Rows(Request):
    """Rows to write."""

    ids: Ids
    vectors: Vectors
    metadata: Metadata = None
    documents: Documents = None


class LoadRows(Rows):
    """Rows to write, of several tenants: for each its owner, or owner and grantees."""

    tenants: list[str | list[str]] | None = None


class Selection(Request):
    """Rows to delete: by ids, by a filter, or those that both name."""

    ids: Ids | None = None
    where: Where = None


class Names(Request):
    """Ids to read."""

    ids: Ids


class Condition(Request):
    """Rows to count."""

    where: Where = None


class Question(Request):
    """One query."""

    vector: Vector
    k: Count = 10
    where: Where = None
    recall: Share | None = None
    include: list[str] = msgspec.field(default_factory=lambda: ["metadata"])


class Explain(Request):
    """One query that is to be explained."""

    vector: Vector
    k: Count = 10
    where: Where = None
    recall: Share | None = None


class Questions(Request):
    """A batch of queries."""

    vectors: Vectors
    k: Count = 10
    where: Where = None
    recall: Share | None = None


class Grant(Request):
    """Rows to grant to another tenant."""

    ids: Ids
    to: str


class Revoke(Request):
    """Grants to end."""

    ids: Ids
    from_: str = msgspec.field(name="from")


class Quota(Request):
    """What a tenant may store and ask for; null lifts a limit."""

    rows: Limit = None
    k: Limit = None
    query_bytes: Limit = None
    where: Limit = None


class TuneRequest(Request):
    """What to tune for."""

    queries: Vectors | None = None
    recall: float = 0.95
    k: Count = 10
    ram_bytes: int | None = None
    disk_bytes: int | None = None
    codecs: list[str] | None = None


class RepairRequest(Request):
    """What may be given up to make the rest whole."""

    drop_damaged: bool = False


# --- answers -----------------------------------------------------------------------------------


class CollectionNames(msgspec.Struct):
    """Names of collections, sorted."""

    collections: list[str]


class CollectionInfo(msgspec.Struct):
    """A collection and its options."""

    name: str
    dim: int
    metric: str
    tenants: bool
    codec: str
    raw: str


class TenantNames(msgspec.Struct):
    """Names of tenants, sorted."""

    tenants: list[str]


class Done(msgspec.Struct):
    """The call was carried out."""

    done: bool = True


class Number(msgspec.Struct):
    """How many rows, or grants, the call was about."""

    count: int


class HitBody(msgspec.Struct):
    """One row found; `vecstore.Hit`."""

    id: OneId
    distance: float | None = None
    metadata: dict[str, Any] | None = None
    document: str | None = None
    vector: Vector | None = None
    tenant: str | None = None


class Hits(msgspec.Struct):
    """Rows, nearest first; in answers to ids aligned with them, null for unknown ones."""

    hits: list[HitBody | None]


class VectorRows(msgspec.Struct):
    """Vectors (n, dim), aligned with the ids asked for."""

    vectors: Vectors


class ResultBody(msgspec.Struct):
    """Answers to a batch, each of n by k; `vecstore.Result`.

    Places without an answer hold -1 or null in ids and null in distances; in msgpack, ids of a
    collection with int ids are int64 and distances float32, both little-endian and padded with
    -1 and +inf.
    """

    ids: list[list[OneId | None]] | bytes
    distances: list[list[float | None]] | bytes
    tenants: list[list[str | None]] | None = None


class ExplanationBody(msgspec.Struct):
    """How a query was answered; `vecstore.Explanation`."""

    plan: list[str]
    rows: int
    probes: int
    postings: int
    scanned: int
    refined: int
    reranked: int
    bytes: int
    asked: int
    asked_bytes: int
    disk_bytes: int
    microseconds: float
    hits: list[HitBody]


class ViolationBody(msgspec.Struct):
    """An invariant that does not hold; `vecstore.Violation`."""

    invariant: str
    where: str
    detail: str


class Violations(msgspec.Struct):
    """What is wrong with the store; empty when it is sound."""

    violations: list[ViolationBody]


class Sentences(msgspec.Struct):
    """What was done, in sentences."""

    sentences: list[str]


class Figures(msgspec.Struct):
    """Figures, as `stats()` gives them."""

    stats: dict[str, Any]


class TuningBody(msgspec.Struct):
    """A decision of `tune` and its evidence; `vecstore.Tuning`, or null."""

    tuning: dict[str, Any] | None


class BackupName(msgspec.Struct):
    """Name of a backup within the folder that the service was started with."""

    name: str


class Imported(msgspec.Struct):
    """How much of an import was stored."""

    rows: int


class Fault(msgspec.Struct, omit_defaults=True):
    """What went wrong.

    Attributes
    ----------
    type : str
        Name of the class of the library's errors.
    message : str
    details : dict
        Attributes of the error.
    """

    type: str
    message: str
    details: dict[str, Any] = {}


class FaultBody(msgspec.Struct):
    """Body of every answer that is not a success."""

    error: Fault
    request_id: str = ""
