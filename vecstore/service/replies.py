"""Idempotency keys: a write that is sent again is answered again, and not carried out twice.

The process that writes keeps the answers, for a day at most; they end with it. A caller that
repeats a call after that process was killed carries it out anew: for upsert, revoke and
drop_tenant that is the same; `delete` and `grant` then count less; `add` of the same rows finds
them (DuplicateIdError).
"""

from __future__ import annotations

import asyncio
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


class Replies:
    """Answers to writes by the key of the caller and its idempotency key."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Reply] = OrderedDict()

    async def earlier(self, caller: str, key: str, *parts: bytes) -> Reply | None:
        """Find the answer to a call that came before; None when this is the first.

        The caller then ends with `keep` or `forget`.

        Parameters
        ----------
        caller, key : str
        *parts : bytes
            What makes the call the same one: verb, names, form and body.

        Raises
        ------
        InvalidArgumentError
            The key was used for another call.
        """
        if not key or len(key) > _KEY_BYTES_MAX:
            raise InvalidArgumentError(
                f"Idempotency-Key has {len(key)} characters; use 1 to {_KEY_BYTES_MAX}."
            )
        digest = xxhash.xxh3_128()
        for part in parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        fingerprint = digest.digest()
        place = (caller, key)
        while (known := self._kept.get(place)) is not None:
            if known.fingerprint != fingerprint:
                raise InvalidArgumentError(
                    f"Idempotency-Key {key!r} came with another call before; use a new one."
                )
            await known.ready.wait()
            if known.status:
                return known
            # The first call failed and was forgotten; this one tries.
        self._kept[place] = Reply(fingerprint, time.monotonic())
        self._drop_old()
        return None

    def keep(self, caller: str, key: str, status: int, body: bytes, media_type: str) -> None:
        """Remember an answer."""
        reply = self._kept[caller, key]
        reply.status, reply.body, reply.media_type = status, body, media_type
        reply.ready.set()

    def forget(self, caller: str, key: str) -> None:
        """Let the call be tried again."""
        reply = self._kept.pop((caller, key), None)
        if reply is not None:
            reply.ready.set()

    def _drop_old(self) -> None:
        oldest = time.monotonic() - KEPT_S
        for place, reply in list(self._kept.items())[:2]:
            if reply.ready.is_set() and (reply.at < oldest or len(self._kept) > KEPT_MAX):
                del self._kept[place]
