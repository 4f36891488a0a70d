"""uvicorn's HTTP protocol with bounds on what a connection may hold without asking anything.

uvicorn bounds idle connections; this adds a time and a size for the head of a request, a number of
connections, and a pace for what is taken and for what is thrown away, so that slow or silent
callers cannot take all memory or all descriptors.

A connection is not closed under a caller who still sends: the system would answer what comes with a
reset, which can overtake the answer.  It is closed on our side, and what comes is thrown away for a
while (lingering close).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vecstore.service.options import Options

HEAD_BYTES_MAX: Final = 32 << 10
_LINGER_S: Final = 2.0
"""A caller who has its answer, and sends nothing for so long, is gone."""

_PACE_BYTES_S: Final = 1 << 10
"""Slower than this nobody needs to take an answer."""

_REFUSED_MAX: Final = 64
_TEXT: Final = b"content-type: text/plain\r\ncontent-length: 0\r\nconnection: close\r\n"


class _Transport:
    """A transport that lets its protocol decide how to close it; see `Bounded.close`."""

    def __init__(self, transport: Any, protocol: Any) -> None:
        self.raw = transport
        self._protocol = protocol
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info

    def is_closing(self) -> bool:
        return self._protocol.lingers or bool(self.raw.is_closing())

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self.raw.write(data)

    def close(self) -> None:
        self._protocol.close()


def bounded(options: Options) -> type[asyncio.Protocol]:
    """Make the protocol class for these options."""
    refused: set[Any] = set()

    class Bounded(HttpToolsProtocol):  # type: ignore[misc]
        """One connection."""

        timeout_keep_alive_task: asyncio.TimerHandle | None
        lingers = False
        _head_timer: asyncio.TimerHandle | None = None
        _head_bytes = 0
        _in_head = True
        _whole = True
        """All of the last request has come."""

        _discard_timer: asyncio.TimerHandle | None = None
        _linger_timer: asyncio.TimerHandle | None = None
        _linger_until = 0.0
        _heard = False
        _pace_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Take the connection, unless there are too many."""
            wrapped = _Transport(transport, self)
            if len(self.connections) >= options.connections_max:
                self.transport = wrapped
                transport.write(b"HTTP/1.1 503 \r\nretry-after: 1\r\n" + _TEXT + b"\r\n")
                if len(refused) >= _REFUSED_MAX:
                    transport.close()
                else:
                    refused.add(self)
                    self._linger(_LINGER_S)
                return
            super().connection_made(wrapped)
            self._await_head()

        def connection_lost(self, error: Exception | None) -> None:
            """Let go of the connection."""
            self._head_came()
            for timer in (self._discard_timer, self._linger_timer, self._pace_timer):
                if timer is not None:
                    timer.cancel()
            self._discard_timer = self._linger_timer = self._pace_timer = None
            self._unset_keepalive_if_required()
            refused.discard(self)
            self.lingers = True
            super().connection_lost(error)

        # --- reading -----------------------------------------------------------------------

        def data_received(self, data: bytes) -> None:
            """Parse, and give up a head that has grown too long."""
            self._heard = True
            if self.transport.is_closing():
                return
            waiting = self._head_timer is not None
            super().data_received(data)
            if waiting and self._head_timer is not None:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES_MAX:
                    self._give_up(b"431")
            self._expect_more()

        def on_message_begin(self) -> None:
            """Wait for the head."""
            super().on_message_begin()
            self._in_head, self._whole = True, False
            self._await_head()

        def on_header(self, name: bytes, value: bytes) -> None:
            """Take a field of the head; those that come behind a body are none."""
            if self._in_head:
                super().on_header(name, value)
                return
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._give_up(b"431")

        def on_headers_complete(self) -> None:
            """Take the head."""
            self._head_came()
            self._in_head = False
            if self.transport.is_closing():
                return
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > HEAD_BYTES_MAX:
                self._give_up(b"431")
                return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            """Take a part of the body."""
            if not self.transport.is_closing():
                super().on_body(body)

        def on_message_complete(self) -> None:
            """Take the end of the body."""
            self._whole = True
            if self._discard_timer is not None:
                self._discard_timer.cancel()
                self._discard_timer = None
            if not self.transport.is_closing():
                super().on_message_complete()

        def on_response_complete(self) -> None:
            """Go on with the next request, once the rest of this one has come."""
            super().on_response_complete()
            if not self._whole and not self.transport.is_closing():
                self._discard_timer = self.loop.call_later(options.body_timeout_s, self.close)

        def _expect_more(self) -> None:
            """Give a connection that nothing runs on its time again, whatever came on it."""
            idle = self._whole and (self.cycle is None or self.cycle.response_complete)
            timed = self._head_timer is not None or self.timeout_keep_alive_task is not None
            if idle and not timed and not self.transport.is_closing():
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def _await_head(self) -> None:
            self._head_came()
            self._head_timer = self.loop.call_later(options.head_timeout_s, self._give_up, b"408")

        def _head_came(self) -> None:
            self._head_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        # --- writing -----------------------------------------------------------------------

        def pause_writing(self) -> None:
            """Look whether the caller takes what was written."""
            if self.flow is not None:
                super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            """Go on writing."""
            if self.flow is not None:
                super().resume_writing()

        def _watch(self) -> None:
            """End the connection when what is written is not taken at some pace."""
            if self._pace_timer is not None:
                self._pace_timer.cancel()
            waiting = self.transport.raw.get_write_buffer_size()
            span_s = options.body_timeout_s

            def look() -> None:
                left = self.transport.raw.get_write_buffer_size()
                self._pace_timer = None
                if left and left > waiting - _PACE_BYTES_S * span_s:
                    self.transport.raw.abort()
                elif left:
                    self._watch()

            self._pace_timer = self.loop.call_later(span_s, look)

        # --- closing -----------------------------------------------------------------------

        def _give_up(self, status: bytes) -> None:
            self._head_came()
            if self.transport.is_closing():
                return
            if self._drop_running():
                self.transport.write(b"HTTP/1.1 " + status + b" \r\n" + _TEXT + b"\r\n")
            self.close()

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP."""
            if self._drop_running():
                super().send_400_response(msg)
            else:
                self.close()

        def _drop_running(self) -> bool:
            """Let what runs answer nobody; whether no part of an answer is on its way."""
            self._whole = False
            cycle = self.cycle
            if cycle is None or cycle.response_complete:
                return True
            cycle.disconnected = True
            cycle.message_event.set()
            return not cycle.response_started

        def close(self) -> None:
            """Close the connection when the caller has got what was written."""
            if self.transport.is_closing():
                return
            self._head_came()
            if self.transport.raw.get_write_buffer_size():
                self._watch()
            if self._whole:
                self.transport.raw.close()
            else:
                self._linger(options.body_timeout_s)

        def shutdown(self) -> None:
            """Close the connection soon, since the service ends."""
            if self.lingers:
                self.transport.raw.close()
            else:
                super().shutdown()

        def _linger(self, seconds: float) -> None:
            """Close our side; throw away what comes until the other side is closed too."""
            self.lingers = True
            self._linger_until = self.loop.time() + seconds
            raw = self.transport.raw
            raw.write_eof()
            if self.flow is not None:
                self.flow.resume_reading()

            def look() -> None:
                if self._heard and self.loop.time() < self._linger_until:
                    self._heard = False
                    self._linger_timer = self.loop.call_later(_LINGER_S, look)
                else:
                    raw.close()

            self._linger_timer = self.loop.call_later(min(_LINGER_S, seconds), look)

    return Bounded
