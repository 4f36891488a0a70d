"""The error tree: every failure a caller can meet, each also the matching builtin.

A message says what happened, with which value, and what to do about it.  Messages are
plain sentences; structured facts that a program may want are attributes.
"""

from __future__ import annotations


class VecstoreError(Exception):
    """Root of all errors raised on purpose by vecstore."""


class InvalidArgumentError(VecstoreError, ValueError):
    """An argument has the wrong type, range or shape."""


class InvalidVectorError(InvalidArgumentError):
    """A vector cannot be stored or searched: shape, NaN, infinity, overflow, zero norm."""


class DuplicateIdError(InvalidArgumentError):
    """An id occurs twice in one call, or exists already where it must not."""


class FilterError(InvalidArgumentError):
    """A ``where`` clause is malformed or not supported."""


class TenantRequiredError(InvalidArgumentError):
    """A collection with tenants was addressed without one."""


class CollectionMismatchError(InvalidArgumentError):
    """An existing collection differs from what the caller asked for."""


class QuotaExceededError(InvalidArgumentError):
    """A tenant's quota does not allow the call."""


class RequestTooLargeError(InvalidArgumentError):
    """A call to the service has more bytes, rows or hits than it takes at once."""


class UnknownIdError(VecstoreError, KeyError):
    """No live row has this id."""

    def __str__(self) -> str:
        """Return the message as written; KeyError alone would quote it."""
        return str(self.args[0]) if self.args else ""


class CollectionNotFoundError(UnknownIdError):
    """The store has no collection of this name."""


class StoreNotFoundError(VecstoreError, FileNotFoundError):
    """Nothing is stored at this path."""


class NotAStoreError(VecstoreError, OSError):
    """The path holds something that is not a vecstore."""


class TargetNotMetError(InvalidArgumentError):
    """No candidate of `tune` reaches the recall within the budgets; nothing was changed."""


class FormatVersionError(VecstoreError, OSError):
    """The store was written by a version whose format this one cannot read."""


class WriterLockedError(VecstoreError, OSError):
    """Another writer has the store open."""


class ReadOnlyError(VecstoreError, PermissionError):
    """A write was asked of something that can only be read."""


class AccessDeniedError(VecstoreError, PermissionError):
    """The service does not know the key, or the key does not allow the call."""


class UnavailableError(VecstoreError, ConnectionError):
    """The service cannot be reached or has too much to do; the call may be repeated.

    Attributes
    ----------
    retry_after_s : float or None
        Seconds to wait before; None when the service did not say.
    """

    retry_after_s: float | None = None


class RateLimitedError(UnavailableError):
    """The key has used up the calls that it may make at this time."""


class ServiceTimeoutError(VecstoreError, TimeoutError):
    """The service did not answer in time."""


class DiskFullError(VecstoreError, OSError):
    """The file system has no room left; nothing of the call was stored."""


class StoreClosedError(VecstoreError, ValueError):
    """The store was closed before the call."""


class ForkedStoreError(VecstoreError, RuntimeError):
    """The process was forked after the store was opened."""


class CorruptionError(VecstoreError, OSError):
    """Stored bytes are not what was written.

    Attributes
    ----------
    collection, tenant, node, extent
        Where the damage is, as far as it is known; otherwise None.
    """

    def __init__(
        self,
        message: str,
        *,
        collection: str | None = None,
        tenant: int | str | None = None,
        node: int | None = None,
        extent: int | None = None,
    ) -> None:
        super().__init__(message)
        self.collection = collection
        self.tenant = tenant
        self.node = node
        self.extent = extent
