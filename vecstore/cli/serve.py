"""`vecstore serve`: a store over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vecstore.cli.app import app
from vecstore.cli.output import plain
from vecstore.cli.stores import StoreArgument
from vecstore.errors import InvalidArgumentError


@app.command()
def serve(
    store: StoreArgument,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Others than loopback need keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 7878,
    socket: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Listen on a Unix-domain socket instead."),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0, max=64, help="Processes that read, beside one that writes; 0: it reads too."
        ),
    ] = 0,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keys; STORE.keys by default.")
    ] = None,
    backups: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder that callers may back up into.")
    ] = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option("--host-name", metavar="NAME", help="A name for this service; repeatable."),
    ] = None,
    body_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one call at most.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds that a call may read.")] = 30.0,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log every call, reads too.")
    ] = False,
) -> None:
    """Serve a store over HTTP: JSON, a page at /, OpenAPI at /openapi.json; logs go to stderr."""
    try:
        from vecstore.service.supervisor import serve as run
    except ModuleNotFoundError as error:
        raise InvalidArgumentError(
            f"The service needs {error.name}: pip install 'vecstore[service]'"
        ) from error
    from vecstore.service.options import Options

    options = Options(
        path=store.absolute(),
        host=host,
        port=port,
        socket=None if socket is None else socket.absolute(),
        workers=workers,
        keys=Path() if keys is None else keys.absolute(),
        backups=None if backups is None else backups.absolute(),
        hosts=tuple(name.lower() for name in host_name or ()),
        body_bytes_max=body_mb << 20,
        call_timeout_s=timeout,
        log_requests=log_requests,
    )
    run(options, lambda url: typer.echo(f"Serving {plain(store)} at {url}"))
