"""Idempotency keys: a write that is sent again is answered again, and not carried out twice.

That a write was carried out is remembered by its own transaction (`vecstore.receipts`), so it
outlives the process that wrote.  Here is what the process itself knows: which writes are under way,
so that one that comes meanwhile waits; what was refused; and the answers of verbs that are no
single transaction (`tune`, `compact`, `repair`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import xxhash

from vecstore.errors import InvalidArgumentError

KEPT_S: Final = 86_400.0
KEPT_MAX: Final = 10_000
_KEY_BYTES_MAX: Final = 256


@dataclass
class Reply:
    """The answer to a write, once there is one."""

    fingerprint: bytes
    at: float
    status: int = 0
    body: bytes = b""
    media_type: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)


def place_of(caller: str, key: str) -> bytes:
    """Tell an idempotency key of one caller from every other; nobody can make two alike.

    Raises
    ------
    InvalidArgumentError
        The key is empty or too long.
    """
    if not key or len(key) > _KEY_BYTES_MAX:
        raise InvalidArgumentError(
            f"Idempotency-Key has {len(key)} characters; use 1 to {_KEY_BYTES_MAX}."
        )
    named = f"{len(caller)} {caller} {key}".encode()
    return hashlib.blake2b(named, digest_size=16).digest()


def fingerprint_of(*parts: bytes) -> bytes:
    """Tell calls apart: by verb, path, query, form of the answer and body."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def key_was_used() -> InvalidArgumentError:
    """Make the error for a key that came with another call."""
    return InvalidArgumentError(
        "This Idempotency-Key came with another call before; use a new one."
    )


class Replies:
    """Answers to writes by the place of their keys."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Reply] = OrderedDict()

    async def earlier(self, place: bytes, fingerprint: bytes) -> Reply | None:
        """Find the answer to a call that came before; None when this is the first.

        The caller then ends with `keep` or `forget`.

        Raises
        ------
        InvalidArgumentError
            The key was used for another call.
        """
        while (known := self._kept.get(place)) is not None:
            if known.fingerprint != fingerprint:
                raise key_was_used()
            await known.ready.wait()
            if known.status:
                return known
            # The first call failed and was forgotten; this one tries.
        self._kept[place] = Reply(fingerprint, time.monotonic())
        self._drop_old()
        return None

    def keep(self, place: bytes, status: int, body: bytes, media_type: str) -> None:
        """Remember an answer."""
        reply = self._kept[place]
        reply.status, reply.body, reply.media_type = status, body, media_type
        reply.ready.set()

    def forget(self, place: bytes) -> None:
        """Let the call be tried again."""
        reply = self._kept.pop(place, None)
        if reply is not None:
            reply.ready.set()

    def _drop_old(self) -> None:
        oldest = time.monotonic() - KEPT_S
        for place, reply in list(self._kept.items())[:2]:
            if reply.ready.is_set() and (reply.at < oldest or len(self._kept) > KEPT_MAX):
                del self._kept[place]
