"""The application that commands register with, and the one place where errors become words.

No command prints an error or chooses an exit status for one: it raises, and `_Commands.main`
turns what the library calls an error into one line on stderr and a status.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vecstore.cli.output import say_error
from vecstore.errors import (
    FilterError,
    InvalidArgumentError,
    TenantRequiredError,
    VecstoreError,
)

STATUS_FAULT = 1
STATUS_USAGE = 2
STATUS_INTERRUPTED = 130

# typer names only this one of its usage errors; the next but one above it is what all of them,
# and all with a message of their own, derive from.
_ClickException: Any = typer.BadParameter.__mro__[2]

# Wrong calls. Errors that derive from these speak of the store or the data.
_USAGE_ERRORS = (InvalidArgumentError, FilterError, TenantRequiredError)


class _Commands(TyperGroup):
    """The group of all commands."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; in standalone mode report errors and exit."""
        options: dict[str, Any] = {
            "args": args,
            "prog_name": prog_name,
            "complete_var": complete_var,
            "windows_expand_args": windows_expand_args,
            **extra,
        }
        if not standalone_mode:
            return super().main(standalone_mode=False, **options)
        sys.exit(self._status(options))

    def _status(self, options: dict[str, Any]) -> int:
        try:
            returned = super().main(standalone_mode=False, **options)
        except _ClickException as error:
            command = error.ctx.command_path if getattr(error, "ctx", None) else "vecstore"
            say_error(f"{error.format_message().rstrip('.')}. See: {command} --help")
            return int(error.exit_code)
        except typer.Abort:
            say_error("aborted.")
            return STATUS_FAULT
        except VecstoreError as error:
            say_error(f"{error}" or type(error).__name__)
            return STATUS_USAGE if type(error) in _USAGE_ERRORS else STATUS_FAULT
        except OSError as error:
            say_error(f"{error}")
            return STATUS_FAULT
        if returned == STATUS_INTERRUPTED:
            say_error("interrupted.")
        return returned if isinstance(returned, int) else 0


app = typer.Typer(
    name="vecstore",
    cls=_Commands,
    help="An embedded, disk-backed vector store: open a directory, upsert, query.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        try:
            version = metadata.version("vecstore")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        typer.echo(f"vecstore {version}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _global_options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        help_text = context.get_help()
        if help_text:
            typer.echo(help_text)
        raise typer.Exit(STATUS_USAGE)
