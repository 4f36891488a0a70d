"""Errors on the wire: each class of `vecstore.errors` by its name, with one HTTP status.

Both directions go through `STATUSES`, so an error raised in the service arrives as the same class
with the same message. What is no error of the library's is told as "InternalError", without its
text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from vecstore import errors
from vecstore.errors import VecstoreError
from vecstore.wire.bodies import Fault

STATUSES: Final[dict[type[VecstoreError], int]] = {
    errors.InvalidArgumentError: 400,
    errors.InvalidVectorError: 400,
    errors.FilterError: 400,
    errors.TenantRequiredError: 400,
    errors.AccessDeniedError: 403,
    errors.QuotaExceededError: 403,
    errors.ReadOnlyError: 403,
    errors.UnknownIdError: 404,
    errors.CollectionNotFoundError: 404,
    errors.CollectionMismatchError: 409,
    errors.DuplicateIdError: 409,
    errors.TargetNotMetError: 409,
    errors.RequestTooLargeError: 413,
    errors.RateLimitedError: 429,
    errors.CorruptionError: 500,
    errors.FormatVersionError: 500,
    errors.NotAStoreError: 500,
    errors.StoreNotFoundError: 500,
    errors.VecstoreError: 500,
    errors.ForkedStoreError: 503,
    errors.StoreClosedError: 503,
    errors.UnavailableError: 503,
    errors.WriterLockedError: 503,
    errors.ServiceTimeoutError: 504,
    errors.DiskFullError: 507,
}
INTERNAL: Final = "InternalError"
_BY_NAME = {kind.__name__: kind for kind in STATUSES}
_CORRUPTION = ("collection", "tenant", "node", "extent")


def _known(error: VecstoreError) -> type[VecstoreError]:
    """Class of the library that an error is, or derives from."""
    return next((kind for kind in type(error).__mro__ if kind in STATUSES), VecstoreError)


def status_of(error: BaseException) -> int:
    """HTTP status of an error; a class of the service's own may have another than its base."""
    if not isinstance(error, VecstoreError):
        return 500
    return getattr(error, "status", STATUSES[_known(error)])


def fault_of(error: BaseException, hidden: Iterable[tuple[str, str]] = ()) -> Fault:
    """Describe an error for the wire.

    Parameters
    ----------
    error : BaseException
    hidden : iterable of (str, str)
        What must not be in the message, and what stands there instead.
    """
    if not isinstance(error, VecstoreError):
        return Fault(INTERNAL, "The service failed to carry out the call; its log says why.")
    message = f"{error}"
    for text, shown in hidden:
        message = message.replace(text, shown)
    details: dict[str, Any] = {}
    if isinstance(error, errors.CorruptionError):
        details = {name: getattr(error, name) for name in _CORRUPTION}
    elif isinstance(error, errors.UnavailableError) and error.retry_after_s is not None:
        details = {"retry_after_s": error.retry_after_s}
    return Fault(_known(error).__name__, message, details)


def error_of(fault: Fault) -> VecstoreError:
    """Make the error that a fault tells of."""
    kind = _BY_NAME.get(fault.type, VecstoreError)
    if kind is errors.CorruptionError:
        known = {name: fault.details.get(name) for name in _CORRUPTION}
        return errors.CorruptionError(fault.message, **known)
    error = kind(fault.message)
    if isinstance(error, errors.UnavailableError):
        error.retry_after_s = fault.details.get("retry_after_s")
    return error


def unavailable(message: str, retry_after_s: float = 1.0) -> errors.UnavailableError:
    """Make the error for a service that has too much to do at the moment."""
    error = errors.UnavailableError(message)
    error.retry_after_s = retry_after_s
    return error
