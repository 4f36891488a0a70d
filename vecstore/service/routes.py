"""From method and path to a verb."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from vecstore.errors import InvalidArgumentError
from vecstore.wire.verbs import VERBS, Verb

_KEPT_MAX: Final = 4_096
_KEPT_BYTES_MAX: Final = 1_024
"""Longer ones are read anew each time, so that callers without a key cannot fill the memory."""

_Shape = tuple[str | None, ...]


@dataclass(frozen=True)
class Match:
    """A verb and the names in the path."""

    verb: Verb
    names: dict[str, str]


class NoRouteError(LookupError):
    """No verb has this path, or not with this method.

    Attributes
    ----------
    allowed : tuple of str
        Methods that the path has.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(allowed)
        self.allowed = allowed


def _shape(path: str) -> _Shape:
    return tuple(None if part[:1] == "{" else part for part in path.split("/"))


_ROUTES: Final[dict[_Shape, dict[str, Verb]]] = {}
for _verb in VERBS.values():
    _ROUTES.setdefault(_shape(_verb.path), {})[_verb.method] = _verb
_BY_LENGTH: Final[dict[int, list[tuple[_Shape, dict[str, Verb]]]]] = {}
for _one, _methods in _ROUTES.items():
    _BY_LENGTH.setdefault(len(_one), []).append((_one, _methods))


def find_route(method: str, raw_path: bytes) -> Match:
    """Find the verb of a call; `raw_path` is percent-encoded, so names may hold slashes.

    Raises
    ------
    NoRouteError
    InvalidArgumentError
        A name is no UTF-8.
    """
    if len(raw_path) > _KEPT_BYTES_MAX:
        return _find_route(method, raw_path)
    return _kept_route(method, raw_path)


def _find_route(method: str, raw_path: bytes) -> Match:
    parts = raw_path.decode("latin-1").split("/")
    for shape, methods in _BY_LENGTH.get(len(parts), ()):
        if any(want is not None and want != part for want, part in zip(shape, parts, strict=True)):
            continue
        verb = methods.get(method)
        if verb is None:
            raise NoRouteError(tuple(sorted(methods)))
        keys = verb.path.split("/")
        names = {
            key[1:-1]: decode_name(part)
            for key, part, want in zip(keys, parts, shape, strict=True)
            if want is None
        }
        return Match(verb, names)
    raise NoRouteError(())


_kept_route = lru_cache(_KEPT_MAX)(_find_route)


def find_tenants(query: bytes) -> tuple[str, ...] | None:
    """Read `tenant=...&tenant=...`; None when the query string is empty.

    Raises
    ------
    InvalidArgumentError
        It holds anything else.
    """
    if not query:
        return None
    return _find_tenants(query) if len(query) > _KEPT_BYTES_MAX else _kept_tenants(query)


def _find_tenants(query: bytes) -> tuple[str, ...]:
    names = []
    for pair in query.decode("latin-1").split("&"):
        key, _, value = pair.partition("=")
        if key != "tenant":
            raise InvalidArgumentError(
                f"The query string has {decode_name(key)!r}; a verb about rows takes tenant=name, "
                f"once or more."
            )
        names.append(decode_name(value.replace("+", " ")))
    return tuple(names)


_kept_tenants = lru_cache(_KEPT_MAX)(_find_tenants)


def decode_name(text: str) -> str:
    """Decode a percent-encoded name."""
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgumentError(f"The name {text!r} in the URL is no UTF-8.") from None
