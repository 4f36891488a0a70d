"""uvicorn's HTTP protocol with bounds on what a connection may hold without asking anything.

uvicorn bounds idle connections; this adds a time and a size for the head of a request, and a
number of connections, so that slow or silent callers cannot take all memory or all descriptors.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vecstore.service.options import Options

HEAD_BYTES_MAX: Final = 32 << 10
_TEXT: Final = b"content-type: text/plain\r\ncontent-length: 0\r\nconnection: close\r\n"


def bounded(options: Options) -> type[asyncio.Protocol]:
    """Make the protocol class for these options."""

    class Bounded(HttpToolsProtocol):  # type: ignore[misc]
        """One connection."""

        _head_timer: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            """Take the connection, unless there are too many."""
            if len(self.connections) >= options.connections_max:
                transport.write(b"HTTP/1.1 503 \r\nretry-after: 1\r\n" + _TEXT + b"\r\n")
                transport.close()
                self.transport = transport
                self.refused = True
                return
            super().connection_made(transport)
            self._await_head()

        refused = False

        def connection_lost(self, error: Exception | None) -> None:
            """Let go of the connection."""
            self._head_came()
            if not self.refused:
                super().connection_lost(error)

        def data_received(self, data: bytes) -> None:
            """Parse, and give up a head that has grown too long."""
            if self.refused:
                return
            waiting = self._head_timer is not None
            super().data_received(data)
            if waiting and self._head_timer is not None:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES_MAX:
                    self._give_up(b"431")

        def on_message_begin(self) -> None:
            """Wait for the head."""
            super().on_message_begin()
            self._await_head()

        def on_headers_complete(self) -> None:
            """Take the head."""
            self._head_came()
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
            if not self.transport.is_closing():
                super().on_message_complete()

        def _await_head(self) -> None:
            self._head_came()
            self._head_timer = self.loop.call_later(options.head_timeout_s, self._give_up, b"408")

        def _head_came(self) -> None:
            self._head_bytes = 0
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self, status: bytes) -> None:
            self._head_came()
            if not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 " + status + b" \r\n" + _TEXT + b"\r\n")
                self.transport.close()

    return Bounded
