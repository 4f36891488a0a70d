"""The sockets that a service listens on."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from vecstore.errors import InvalidArgumentError, UnavailableError
from vecstore.service.options import Options

_BACKLOG = 2_048


def listen(options: Options) -> socket.socket:
    """Make the socket that all processes accept from.

    It is made once and inherited: a process that dies takes none of the connections with it that
    wait to be accepted, as it would with a socket of its own (SO_REUSEPORT).

    Raises
    ------
    InvalidArgumentError
        Something else has the address.
    """
    if options.socket is not None:
        return listen_at(options.socket)
    try:
        infos = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = infos[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise InvalidArgumentError(
            f"Cannot listen on {options.host} port {options.port} ({error}); choose another --port."
        ) from error
    made.listen(_BACKLOG)
    made.setblocking(False)
    return made


def listen_at(path: Path) -> socket.socket:
    """Listen on a Unix-domain socket that only this user may connect to."""
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise InvalidArgumentError(f"{path} is there and is no socket; choose another path.")
    if path.exists():
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)  # left behind by a process that was killed
        else:
            raise InvalidArgumentError(f"Another process listens on {path}.")
        finally:
            probe.close()
    made = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    except OSError as error:
        raise UnavailableError(f"Cannot listen on {path} ({error}); use a shorter path.") from error
    finally:
        os.umask(before)
    made.listen(_BACKLOG)
    made.setblocking(False)
    return made


def url_of(made: socket.socket) -> str:
    """How clients name a socket."""
    if made.family == socket.AF_UNIX:
        return f"unix:{made.getsockname()}"
    host, port = made.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
