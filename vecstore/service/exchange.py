"""One call and its answer as ASGI has them: headers, a bounded body, bytes back."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final, Protocol

from vecstore.errors import InvalidArgumentError, RequestTooLargeError, ServiceTimeoutError
from vecstore.service.options import Options
from vecstore.service.packing import Unpacker
from vecstore.wire.faults import unavailable

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_START: Final = secrets.token_hex(3)
_NUMBERS: Final = itertools.count()
_ONCE: Final = frozenset(
    {
        b"authorization", b"content-encoding", b"host", b"idempotency-key", b"origin",
        b"sec-fetch-site",
    }
)  # fmt: skip
_SAFE: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)


class Held(Protocol):
    """Counts the bytes of bodies that are held in memory."""

    bodies_bytes: int


class BodyTimeoutError(ServiceTimeoutError):
    """The caller did not send the body in time."""

    status = 408


class Exchange:
    """One HTTP call.

    Parameters
    ----------
    scope, receive, send
        As ASGI gives them.
    options : Options
    held : Held
        Bytes that all calls hold; the caller takes `held_bytes` off it in the end.
    """

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, options: Options, held: Held
    ) -> None:
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.raw_headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.headers = dict(self.raw_headers)
        self._receive = receive
        self._send = send
        self._options = options
        self._held = held
        self.body_bytes = 0
        self.held_bytes = 0
        self.status = 0
        given = self.text("x-request-id")
        if given is None or not _REQUEST_ID.fullmatch(given):
            given = f"{os.getpid():x}-{_START}-{next(_NUMBERS):x}"
        self.request_id = given

    def text(self, name: str) -> str | None:
        """Return a header."""
        value = self.headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def refuse_repeated(self) -> None:
        """Refuse a head that says twice what is decided by: others may have gone by the other one.

        Raises
        ------
        InvalidArgumentError
        """
        if len(self.headers) == len(self.raw_headers):
            return
        names = [name for name, _ in self.raw_headers]
        for name in _ONCE.intersection(names):
            if names.count(name) > 1:
                raise InvalidArgumentError(f"{name.decode().title()} comes twice; send it once.")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body as it comes, however long it is.

        Raises
        ------
        BodyTimeoutError
            A chunk did not come in time.
        InvalidArgumentError
            The caller went away.
        """
        more = True
        while more:
            try:
                async with asyncio.timeout(self._options.body_timeout_s):
                    chunk, more = await self._next(None)
            except TimeoutError:
                raise BodyTimeoutError("The body did not come in time.") from None
            yield chunk

    async def raw_body(self) -> bytes:
        """Return the whole body as it came.

        Raises
        ------
        RequestTooLargeError, BodyTimeoutError, InvalidArgumentError
        """
        limit = self._options.body_bytes_max
        self._hold_length(limit)
        try:
            async with asyncio.timeout(self._options.body_timeout_s):
                raw, more = await self._next(limit)
                if more:
                    parts = [raw]
                    while more:
                        chunk, more = await self._next(limit)
                        parts.append(chunk)
                    raw = b"".join(parts)
        except TimeoutError:
            raise BodyTimeoutError("The body did not come in time.") from None
        return raw

    async def body(self) -> bytes:
        """Return the whole body, unpacked if it is gzipped; raises as `raw_body` does."""
        raw = await self.raw_body()
        encoding = self.headers.get(b"content-encoding", b"identity").lower()
        if encoding == b"identity":
            return raw
        if encoding != b"gzip":
            raise InvalidArgumentError(f"Content-Encoding is {encoding!r}; use gzip, or none.")
        limit = self._options.body_bytes_max
        unpacker, parts, size = Unpacker(), [], 0
        for part in unpacker.pieces(raw):
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            self._hold(len(part))
            parts.append(part)
        unpacker.end()
        return b"".join(parts)

    def _hold_length(self, limit: int) -> None:
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)

    async def _next(self, limit: int | None) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise InvalidArgumentError("The caller went away before the body was there.")
        chunk: bytes = message.get("body", b"")
        self.body_bytes += len(chunk)
        if limit is not None:
            if self.body_bytes > limit:
                raise _too_large(limit)
            self._hold(len(chunk))
        return chunk, message.get("more_body", False)

    def _hold(self, size: int) -> None:
        """Count bytes that are held until the call ends."""
        self.held_bytes += size
        self._held.bodies_bytes += size
        if self._held.bodies_bytes > self._options.bodies_bytes_max:
            raise unavailable("The service holds too many large bodies; try again.")

    async def answer(
        self,
        status: int,
        body: bytes,
        media_type: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """Send an answer as a whole."""
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", media_type.encode()),
                    (b"content-length", b"%d" % len(body)),
                    (b"x-request-id", self.request_id.encode()),
                    *_SAFE,
                    *headers,
                ],
            }
        )
        await self._send(
            {"type": "http.response.body", "body": b"" if self.method == "HEAD" else body}
        )

    async def stream(
        self,
        parts: AsyncGenerator[bytes, None],
        media_type: str,
        headers: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        """Send an answer piece by piece, waiting for the caller to take it.

        The first piece is made before anything is sent, so that a call that fails at once is
        answered with its error.
        """
        first = await anext(parts, b"")
        self.status = 200
        await self._send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", media_type.encode()),
                    (b"x-request-id", self.request_id.encode()),
                    *_SAFE,
                    *headers,
                ],
            }
        )
        gone = asyncio.ensure_future(self._gone())
        try:
            await self._piece(first)
            async for part in parts:
                if gone.done():
                    return
                await self._piece(part)
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await parts.aclose()

    async def _piece(self, part: bytes) -> None:
        async with asyncio.timeout(self._options.body_timeout_s):
            await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def _gone(self) -> None:
        """Wait until the caller goes away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"The body has more than {limit} bytes; divide the call, or start the service with a "
        f"higher limit."
    )
