"""Passing calls that write on to the process that writes, over a Unix-domain socket.

The body is passed on as it came, with the headers that matter; the process that writes looks at the
key itself and trusts nobody.  While it is being started again, calls wait for it a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

from vecstore.errors import UnavailableError
from vecstore.wire.faults import unavailable
from vecstore.wire.verbs import Verb

WAIT_S: Final = 3.0
"""How long a call waits for the process that writes to come back."""

_PAUSE_S: Final = 0.02
_IDLE_MAX: Final = 32
_IDLE_S: Final = 20.0
"""Well before the other side closes a connection, which a call could meet on its way."""

_HEAD_BYTES_MAX: Final = 1 << 16
PASSED: Final = (
    b"authorization",
    b"content-type",
    b"content-encoding",
    b"accept",
    b"idempotency-key",
)
Answer = tuple[int, dict[bytes, bytes], bytes]
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Forwarder:
    """Calls the process that writes.

    Parameters
    ----------
    path : str
        Its socket.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[tuple[_Connection, float]] = []

    async def call(
        self,
        verb: Verb,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes | AsyncIterator[bytes],
        request_id: str,
    ) -> Answer:
        """Pass a call on: status, headers and body of its answer.

        Raises
        ------
        UnavailableError
            The process that writes is not there, or ended while it had the call.
        """
        head = [verb.method.encode() + b" " + target + b" HTTP/1.1", b"host: localhost"]
        head += [name + b": " + value for name, value in headers if name in PASSED]
        head.append(b"x-request-id: " + request_id.encode())
        has_key = any(name == b"idempotency-key" for name, _ in headers)
        streamed = not isinstance(body, bytes)
        if isinstance(body, bytes):
            head.append(b"content-length: " + str(len(body)).encode())
        else:
            head.append(b"transfer-encoding: chunked")
        start = b"\r\n".join(head) + b"\r\n\r\n"
        until = time.monotonic() + WAIT_S
        while True:
            reader, writer = connection = await self._connect(until)
            whole = True
            try:
                writer.write(start)
                if isinstance(body, bytes):
                    writer.write(body)
                    await writer.drain()
                    answer = await _read(reader)
                else:
                    answer, whole = await _stream(reader, writer, body)
            except (OSError, EOFError, ValueError) as error:
                writer.close()
                # A call that was passed on may have been carried out.
                again = verb.repeatable or (verb.leaves_receipt and has_key)
                if again and not streamed and time.monotonic() < until:
                    continue
                raise UnavailableError(
                    "The process that writes ended while it had the call, which may have been "
                    "carried out; look before you repeat it."
                ) from error
            except BaseException:
                writer.close()
                raise
            stays = whole and answer[1].get(b"connection") != b"close"
            if stays and len(self._idle) < _IDLE_MAX:
                self._idle.append((connection, time.monotonic()))
            else:
                writer.close()
            return answer

    async def _connect(self, until: float) -> _Connection:
        while self._idle:
            (reader, writer), since = self._idle.pop()
            fresh = time.monotonic() - since < _IDLE_S
            if fresh and not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        while True:
            try:
                return await asyncio.open_unix_connection(self._path, limit=_HEAD_BYTES_MAX)
            except OSError:
                if time.monotonic() >= until:
                    raise unavailable(
                        "The process that writes is not there; it is being started again."
                    ) from None
                await asyncio.sleep(_PAUSE_S)

    def close(self) -> None:
        """Let go of all connections."""
        for (_, writer), _ in self._idle:
            writer.close()
        self._idle.clear()


async def _stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: AsyncIterator[bytes]
) -> tuple[Answer, bool]:
    """Pass a body on until it ends or is answered; also whether all of it was passed on."""
    sending = asyncio.ensure_future(_send(writer, body))
    answering = asyncio.ensure_future(_read(reader))
    try:
        await asyncio.wait([sending, answering], return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and not isinstance(sending.exception(), OSError):
            sending.result()
        answer = await answering
        return answer, sending.done() and sending.exception() is None
    finally:
        for task in (sending, answering):
            task.cancel()
        await asyncio.gather(sending, answering, return_exceptions=True)


async def _send(writer: asyncio.StreamWriter, body: AsyncIterator[bytes]) -> None:
    async for chunk in body:
        if chunk:
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    status = int(lines[0].split(b" ", 2)[1])
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    return status, headers, body
