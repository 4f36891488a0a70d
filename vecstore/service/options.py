"""Options and limits of the service, with the reasons for their values."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vecstore.errors import InvalidArgumentError

PORT = 7878


@dataclass(frozen=True)
class Options:
    """How a store is served.

    Attributes
    ----------
    path : Path
        The store.
    host, port : str, int
        Where to listen; port 0 takes a free one.
    socket : Path or None
        A Unix-domain socket to listen on instead.
    workers : int
        Processes that read, beside the one that writes; with 0, that one does both.
    keys : Path
        File of keys; see `vecstore.service.keys`.
    backups : Path or None
        Folder for backups that stay here.
    hosts : tuple of str
        Names, beside those of the loopback, by which the service may be addressed.
    durability : str
        As for `vecstore.open`.
    body_bytes_max : int
        Bytes of one body; a batch of 10,000 vectors × 384 as float32 is 15 MB, as JSON some 80 MB.
    bodies_bytes_max : int
        Bytes of all bodies that one process holds.
    k_max : int
        Hits of one query.
    answers_max : int
        Hits of one batch: its queries times k.
    rows_max : int
        Ids or rows of one call.
    body_timeout_s, head_timeout_s, idle_timeout_s : float
        For a body, or a head, to arrive; for a connection to stay open without a call.
    call_timeout_s : float
        For a call that reads; one that writes is always carried out once it has begun.
    shutdown_timeout_s : float
        For running calls to end when the service is stopped.
    waiting_max : int
        Calls that one process works on or keeps waiting; more are sent away with 503.
    connections_max : int
        Open connections of one process.
    log_requests : bool
        Log every call, not only those that write, fail or take long.
    """

    path: Path
    host: str = "127.0.0.1"
    port: int = PORT
    socket: Path | None = None
    workers: int = 0
    keys: Path = field(default=Path())
    backups: Path | None = None
    hosts: tuple[str, ...] = ()
    durability: str = "commit"
    body_bytes_max: int = 64 << 20
    bodies_bytes_max: int = 512 << 20
    k_max: int = 10_000
    answers_max: int = 4_000_000
    rows_max: int = 100_000
    body_timeout_s: float = 30.0
    head_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    call_timeout_s: float = 30.0
    shutdown_timeout_s: float = 30.0
    waiting_max: int = 256
    connections_max: int = 4_096
    log_requests: bool = False

    def __post_init__(self) -> None:
        if self.keys == Path():
            object.__setattr__(self, "keys", keys_beside(self.path))
        if self.workers < 0:
            raise InvalidArgumentError(f"workers is {self.workers}; use 0 or more.")

    @property
    def copies(self) -> Path:
        """How the folders are called in which backups are made that are streamed."""
        return (self.backups or self.path.parent) / f".{self.path.name}.stream-"

    @cached_property
    def hidden(self) -> tuple[tuple[str, str], ...]:
        """Paths that no caller is told, and what stands there instead; longer ones first."""
        names = {self.path: "<store>", self.keys: "<keys>", self.copies: "<copy>"}
        if self.backups is not None:
            names[self.backups] = "<backups>"
        return tuple(sorted(((f"{p}", s) for p, s in names.items()), key=lambda one: -len(one[0])))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.socket is not None or is_loopback(self.host)

    def refuse_exposure(self) -> None:
        """Raise when others could reach the service and no key is needed."""
        if not self.is_local and not self.keys.exists():
            raise InvalidArgumentError(
                f"{self.host} can be reached from other machines, and there are no keys in "
                f"{self.keys}. Make one: vecstore keys add {self.path} --role admin; or listen on "
                f"127.0.0.1 or a --socket."
            )


def keys_beside(path: Path) -> Path:
    """File of keys that belongs to a store: beside it, so that backups hold no credentials."""
    return path.with_name(f"{path.name}.keys")


def is_loopback(host: str) -> bool:
    """Tell whether a host name stands for this machine alone."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
