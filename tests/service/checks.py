"""What the tests of the service share: one in a thread, raw calls, tests taken from elsewhere."""

from __future__ import annotations

import http.client
import inspect
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import vecstore
from vecstore.service.limits import Limits
from vecstore.service.metrics import Metrics
from vecstore.service.options import Options
from vecstore.service.run import Part, Process, Shared
from vecstore.service.sockets import listen, url_of


@dataclass
class Answer:
    """What a raw call was answered with."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[str, str]:
        return self.json["error"]["type"], self.json["error"]["message"]


@dataclass
class Running:
    """A service in a thread of this process."""

    url: str
    process: Process
    options: Options

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 20,
    ) -> Answer:
        """Make a raw call; a body that is no bytes is sent as JSON."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout_s)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def connect(self, key: str | None = None, **options: Any) -> vecstore.RemoteStore:
        return vecstore.connect(self.url, key, **options)


@contextmanager
def running(path: Path, **options: Any) -> Iterator[Running]:
    """Serve a store from a thread, until the block ends."""
    chosen = Options(path=path, **{"port": 0, **options})
    listening = listen(chosen)
    process = Process(chosen, Part.ALONE, 0, Shared(Metrics(), Limits()), warm=False)
    thread = threading.Thread(target=process.run, args=(listening,))
    thread.start()
    try:
        until = time.monotonic() + 20
        while not process.service.ready and thread.is_alive():
            assert time.monotonic() < until, "the service does not get ready"
            time.sleep(0.002)
        yield Running(url_of(listening), process, chosen)
    finally:
        process.stop()
        thread.join()
        listening.close()


def adopt(module: ModuleType, own: dict[str, Any], *names: str, but: tuple[str, ...] = ()) -> None:
    """Collect another module's tests of the fixtures `store` and `docs` in this one too.

    Parameters
    ----------
    module : module
    own : dict
        The globals of the test module that calls this.
    *names : str
        Tests to take; all of these fixtures without any.
    but : tuple of str
        Tests to leave out.
    """
    there = {name for name in vars(module) if name.startswith("test_")}
    assert there >= {*names, *but}, f"not there: {({*names} | {*but}) - there}"
    for name in names or sorted(there - {*but}):
        test = getattr(module, name)
        if {"store", "docs"} & inspect.signature(test).parameters.keys():
            own[name] = test
