"""The command line: one module for each group of commands, registered with `app`.

Exit status: 0, 1 (the store or the data is at fault), 2 (usage). An error is one line on stderr.
`--json` prints exactly one JSON document on stdout; progress bars go to stderr and only to a
terminal. Whatever is heavy is imported by the command that needs it, so `--help` is quick.
"""

from __future__ import annotations

from vecstore.cli import (  # registers the commands
    demo,
    keys,
    load,
    maintenance,
    reads,
    serve,
    tune,
)
from vecstore.cli.app import app

__all__ = ["app", "demo", "keys", "load", "main", "maintenance", "reads", "serve", "tune"]


def main() -> None:
    """Run the command line and exit with its status."""
    app()
