"""A store behind a service."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from vecstore.client.collection import RemoteCollection
from vecstore.client.transport import Transport
from vecstore.errors import (
    CollectionNotFoundError,
    InvalidArgumentError,
    UnavailableError,
)
from vecstore.ids import is_int
from vecstore.inputs import parse_name, parse_path
from vecstore.results import Violation
from vecstore.wire.encoding import Form

Progress = Callable[[str, int, int], None]


def connect(
    url: str,
    key: str | None = None,
    *,
    timeout_s: float = 60.0,
    patience_s: float = 10.0,
    encoding: Literal["msgpack", "json"] = "msgpack",
) -> RemoteStore:
    """Use a store that `vecstore serve` serves, with the methods of one that was opened here.

    Nothing is sent before the first call.

    Parameters
    ----------
    url : str
        "http://127.0.0.1:7878", or "unix:/path/of/socket".
    key : str, optional
        As `vecstore keys add` printed it.
    timeout_s : float
        For one answer; maintenance of a large store takes longer than most.
    patience_s : float
        How long a call is tried again when the service is not there or has too much to do.
    encoding : {"msgpack", "json"}
        How bodies are written; vectors are bytes in msgpack and lists in JSON.

    Raises
    ------
    InvalidArgumentError
    """
    forms = {"msgpack": Form.MSGPACK, "json": Form.JSON}
    if encoding not in forms:
        raise InvalidArgumentError(f"encoding is {encoding!r}; use 'msgpack' or 'json'.")
    for name, seconds in (("timeout_s", timeout_s), ("patience_s", patience_s)):
        if isinstance(seconds, (bool, str)) or not isinstance(seconds, (int, float)) or seconds < 0:
            raise InvalidArgumentError(f"{name} is {seconds!r}; use a number of seconds.")
    return RemoteStore(Transport(url, key, timeout_s, patience_s, forms[encoding]))


class RemoteStore:
    """A store kept by a service; use it as a context manager, or call `close`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __repr__(self) -> str:
        """Show the URL."""
        return f"RemoteStore({self._transport.url!r})"

    def __enter__(self) -> RemoteStore:
        """Return the store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Let go of connections; the service goes on."""
        self._transport.close()

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        names: list[str] = self._transport.call("collections").collections
        return names

    def collection(
        self,
        name: str,
        dim: int | None = None,
        metric: str | None = None,
        tenants: bool | None = None,
        codec: str | None = None,
        raw: str | None = None,
    ) -> RemoteCollection:
        """Get a collection, or create it; see `vecstore.Store.collection`."""
        names = {"collection": parse_name(name)}
        number = int(dim) if dim is not None and is_int(dim) else dim
        options = {"dim": number, "metric": metric, "tenants": tenants, "codec": codec, "raw": raw}
        try:
            info = self._transport.call("open", names, None, options)
        except CollectionNotFoundError:
            if dim is None:
                raise
            info = self._transport.call("create", names, None, options)
        return RemoteCollection(self._transport, info)

    def drop(self, name: str) -> None:
        """Delete a collection and all it holds; its name may be used again at once."""
        self._transport.call("drop", {"collection": parse_name(name)})

    def check(self) -> list[Violation]:
        """Verify every invariant and checksum; an empty list means the store is sound."""
        found = self._transport.call("check").violations
        return [Violation(one.invariant, one.where, one.detail) for one in found]

    def repair(self, progress: Progress | None = None, *, drop_damaged: bool = False) -> list[str]:
        """Make anew what follows from rows and facts; see `vecstore.Store.repair`."""
        body = {"drop_damaged": drop_damaged}
        said: list[str] = self._transport.call("repair", body=body).sentences
        return said

    def backup(self, dest: str | os.PathLike[str], progress: Progress | None = None) -> None:
        """Fetch a copy of the store, as one commit left it, into a folder of this machine.

        Parameters
        ----------
        dest : str or PathLike
            A folder that does not exist, or is empty.

        Raises
        ------
        InvalidArgumentError
            There is something at `dest`.
        UnavailableError
            The stream ended before it was whole; nothing is at `dest`.
        """
        target = parse_path(dest, "dest")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InvalidArgumentError(f"There is something at {target}; name a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
        try:
            with self._transport.streamed("backup") as stream:
                try:
                    with tarfile.open(fileobj=stream, mode="r|") as tar:
                        tar.extractall(part, filter="data")
                    stream.read()
                except (tarfile.TarError, OSError, EOFError, HTTPException) as error:
                    raise UnavailableError(
                        f"The backup was cut off ({error}); try again."
                    ) from error
            if target.exists():
                target.rmdir()
            part.chmod(0o755)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def stats(self) -> dict[str, Any]:
        """Describe the store: format, collections, bytes on disk."""
        described: dict[str, Any] = self._transport.call("store_stats").stats
        return described
