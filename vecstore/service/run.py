"""One process of a service: its stores, its event loop, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
import uvicorn
import uvloop

import vecstore
from vecstore.errors import StoreNotFoundError, VecstoreError
from vecstore.service.app import Service
from vecstore.service.forward import Forwarder
from vecstore.service.keys import KeyRing
from vecstore.service.limits import Limits
from vecstore.service.logs import LogHandler, log, log_failure
from vecstore.service.metrics import Metrics
from vecstore.service.options import Options
from vecstore.service.protocol import bounded
from vecstore.service.runner import Runner
from vecstore.service.scope import Stores

_STORE_WAIT_S: Final = 10.0


class Part(Enum):
    """What a process does."""

    ALONE = "alone"
    WRITER = "writer"
    READER = "reader"


@dataclass
class Shared:
    """What all processes of a service have together, made before they are forked."""

    metrics: Metrics
    limits: Limits
    needs_keys: bool = False


def _log_as_json() -> None:
    """Let uvicorn's warnings come as JSON lines too."""
    logger = logging.getLogger("uvicorn")
    logger.propagate = False
    if not any(isinstance(handler, LogHandler) for handler in logger.handlers):
        logger.addHandler(LogHandler(logging.WARNING))


class Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn, which leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not."""
        yield


class Process:
    """One process, or in tests one thread, that answers calls.

    Parameters
    ----------
    options : Options
    part : Part
    number : int
        Place in the shared figures; 0 is the one that writes.
    shared : Shared
    writer : str
        Socket of the process that writes, for one that reads.
    warm : bool
        Have all kernels compiled before the first call.
    """

    def __init__(
        self,
        options: Options,
        part: Part,
        number: int,
        shared: Shared,
        writer: str = "",
        *,
        warm: bool = True,
    ) -> None:
        shared.metrics.use(number)
        shared.metrics.started(number)
        shared.limits.use(number)
        _log_as_json()
        self.options = options
        self.part = part
        self._warm = warm
        self.failure: BaseException | None = None
        self.service = Service(
            options,
            Stores(),
            KeyRing(options.keys, shared.needs_keys),
            shared.limits,
            shared.metrics,
            Runner(options),
            forwarder=Forwarder(writer) if part is Part.READER else None,
            private=part is Part.WRITER,
        )
        config = uvicorn.Config(
            self.service,
            loop="none",
            http=bounded(options),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=options.idle_timeout_s,
            timeout_graceful_shutdown=options.shutdown_timeout_s,
        )
        self.server = Server(config)

    def run(self, listening: socket.socket, end: socket.socket | None = None) -> None:
        """Answer calls until told to stop; then finish those that run.

        Parameters
        ----------
        listening : socket
        end : socket, optional
            Stop when its other side is closed.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(listening, end))
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Stop soon; may be called from any thread."""
        self.server.should_exit = True

    async def _serve(self, listening: socket.socket, end: socket.socket | None) -> None:
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            # SIGINT of a terminal comes to all processes; the one above ends them in order.
            loop.add_signal_handler(signal.SIGTERM, self.stop)
        if end is not None:
            loop.add_reader(end, self.stop)
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        opening.add_done_callback(self._opened)
        if self.part is not Part.ALONE:  # others answer meanwhile, or callers wait a moment
            await asyncio.wait([opening])
        try:
            await self.server.serve(sockets=[listening])
        finally:
            self.service.ready = False
            if end is not None:
                loop.remove_reader(end)
            await asyncio.wait([opening])
            if self.service.forwarder is not None:
                self.service.forwarder.close()
            await asyncio.to_thread(self._close)
            log("stopped", part=self.part.value)

    def _opened(self, opening: asyncio.Future[None]) -> None:
        error = opening.exception()
        if error is None:
            self.service.ready = True
            log("ready", part=self.part.value)
            return
        self.failure = error
        log_failure("start failed", error, part=self.part.value)
        self.stop()

    def _open(self) -> None:
        stores = self.service.stores
        path = self.options.path
        if self.part is not Part.READER:
            stores.writing = vecstore.open(path, "w", self.options.durability)
        stores.reading = _open_reading(path)
        if self.part is not Part.WRITER:
            if self._warm:
                vecstore.warmup()
            for name in stores.reading.collections():
                _ask(stores.reading.collection(name))

    def _close(self) -> None:
        self.service.runner.close()
        for store in (self.service.stores.reading, self.service.stores.writing):
            if store is not None:
                store.close()


def _open_reading(path: Any) -> vecstore.Store:
    """Open the store for reading; the process that writes may be about to create it."""
    until = time.monotonic() + _STORE_WAIT_S
    while True:
        try:
            return vecstore.open(path, "r")
        except StoreNotFoundError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _ask(docs: Any) -> None:
    """Ask one query, so that the first caller does not wait for maps and tables."""
    vector = np.zeros(docs.dim, np.float32)
    vector[0] = 1.0
    # A damaged collection must not keep the others from being served; callers meet its error.
    with contextlib.suppress(VecstoreError):
        if docs.options["tenants"]:
            for name in docs.tenants()[:1]:
                docs.tenant(name).query(vector, k=1)
        else:
            docs.query(vector, k=1)
