"""Keys: who may call, as which tenant, in which role.

A key is `vs_<id>_<secret>`. The secret has 256 random bits, so one SHA-256 of it is stored and no
slow hash is needed; guesses are as many as keys. Keys stand in a file of their own beside the
store: they belong to the service and not to the data, so a backup that is handed on carries none,
and they can be changed while a server holds the store's writer lock.

Invariants
----------
* The file is replaced as a whole, readable by its owner only, one editor at a time.
* A server looks at the file's state with a call, unless it did in the last `_LOOK_S`: from then on
  a key that was removed is not accepted, in any process.
* Once keys were there, a missing or damaged file lets nobody in.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from vecstore.errors import AccessDeniedError, InvalidArgumentError, UnknownIdError
from vecstore.tenancy import parse_tenant
from vecstore.wire.verbs import Role

_PREFIX = "vs"
_NO_DIGEST = "0" * 64
_LOOK_S = 0.01
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is stored of a key.

    Attributes
    ----------
    id : str
        Public part; tells keys apart in logs and listings.
    digest : str
        SHA-256 of the secret part, in hexadecimal digits.
    role : {"read", "write", "admin"}
    tenant : str or None
        The only tenant that it reaches; None for all.
    note : str
    made : float
        Seconds since 1970.
    calls_per_s : float or None
        Calls that it may make a second, as many again at once after a pause.
    calls_at_once : int or None
        Calls that may run at the same time.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    digest: str
    role: str
    tenant: str | None = None
    note: str = ""
    made: float = 0.0
    calls_per_s: Positive | None = None
    calls_at_once: Annotated[int, msgspec.Meta(ge=1)] | None = None

    @property
    def rank(self) -> Role:
        """The role as an ordered value."""
        return Role[self.role.upper()]


NOBODY = Key(id="-", digest=_NO_DIGEST, role="admin")
"""Whoever calls a service without keys, which only this machine can reach."""


class KeyNeededError(AccessDeniedError):
    """No valid key came with the call."""

    status = 401


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    keys: list[Key]


class KeyFile:
    """The file of keys of one store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Key]:
        """Read all keys.

        Raises
        ------
        InvalidArgumentError
            The file is damaged.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            keys = msgspec.json.decode(raw, type=_File).keys
            for key in keys:
                _ = key.rank
        except (msgspec.DecodeError, KeyError) as error:
            raise InvalidArgumentError(
                f"{self.path} is no file of keys ({error}); restore it, or remove it and make "
                f"keys anew."
            ) from error
        return keys

    def add(
        self,
        role: str,
        tenant: str | None = None,
        note: str = "",
        calls_per_s: float | None = None,
        calls_at_once: int | None = None,
    ) -> tuple[Key, str]:
        """Make a key; returns what is stored of it, and the key itself, which nothing keeps."""
        if role.upper() not in Role.__members__:
            raise InvalidArgumentError(f"role is {role!r}; use 'read', 'write' or 'admin'.")
        if tenant is not None:
            parse_tenant(tenant)
        for name, limit in (("calls_per_s", calls_per_s), ("calls_at_once", calls_at_once)):
            if limit is not None and not limit > 0:
                raise InvalidArgumentError(f"{name} is {limit}; use a positive number.")
        secret = secrets.token_urlsafe(32)
        key = Key(
            id=secrets.token_hex(6),
            digest=_digest(secret),
            role=role.lower(),
            tenant=tenant,
            note=note,
            made=time.time(),
            calls_per_s=calls_per_s,
            calls_at_once=calls_at_once,
        )
        self._edit(lambda keys: [*keys, key])
        return key, f"{_PREFIX}_{key.id}_{secret}"

    def remove(self, identity: str) -> Key:
        """Remove a key by its id; from the return on it opens nothing."""
        removed: list[Key] = []

        def without(keys: list[Key]) -> list[Key]:
            removed.extend(key for key in keys if key.id == identity)
            if not removed:
                raise UnknownIdError(
                    f"There is no key {identity!r} in {self.path}; `vecstore keys list` shows all."
                )
            return [key for key in keys if key.id != identity]

        self._edit(without)
        return removed[0]

    def _edit(self, change: Callable[[list[Key]], list[Key]]) -> None:
        with self._alone():
            keys = change(self.read())
            raw = msgspec.json.format(msgspec.json.encode(_File(1, keys)), indent=1)
            part = self.path.with_name(f"{self.path.name}.part")
            part.unlink(missing_ok=True)  # whoever made it, it is not to be written into
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(raw + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other editors out; the folder is locked, since the file itself gets replaced."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


class KeyRing:
    """The keys as a server holds them, read anew when the file has changed.

    Parameters
    ----------
    path : Path
    needed : bool
        Keys are needed even if there is no file.
    """

    def __init__(self, path: Path, needed: bool = False) -> None:
        self._file = KeyFile(path)
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}
        self._look_at = 0.0
        self.needed = needed
        self.refresh()

    def refresh(self) -> None:
        """Look whether the file has changed."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        try:
            state = os.stat(self._file.path)
        except OSError:
            self._keys, self._seen = {}, None
            return
        seen = (state.st_ino, state.st_mtime_ns, state.st_size)
        if seen == self._seen:
            return
        self.needed = True
        try:
            self._keys = {key.id: key for key in self._file.read()}
            self._seen = seen
        except (InvalidArgumentError, OSError):
            self._keys, self._seen = {}, None

    def find(self, presented: str | None) -> Key:
        """Find the key that a caller presents.

        Raises
        ------
        KeyNeededError
            With one message, whatever is wrong with it.
        """
        self.refresh()
        if not self.needed:
            return NOBODY
        prefix, _, rest = (presented or "").partition("_")
        identity, _, secret = rest.partition("_")
        key = self._keys.get(identity)
        expected = _NO_DIGEST if key is None else key.digest
        right = hmac.compare_digest(_digest(secret), expected)
        if key is None or not right or prefix != _PREFIX:
            raise KeyNeededError(
                "This service needs a key, as in 'Authorization: Bearer vs_...'; the one given, "
                "if any, is not valid. `vecstore keys add` makes one."
            )
        return key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
