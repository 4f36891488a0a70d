"""The command line: `vecstore demo | load | query | get | stats | check | tune | warmup`.

Exit status: 0, 1 (the store or the data is at fault), 2 (usage). An error is one line on stderr.
`--json` prints exactly one JSON document on stdout; progress bars go to stderr and only to a
terminal. Whatever is heavy is imported by the command that needs it, so `--help` is quick.
"""

from __future__ import annotations

from vecstore.cli import demo, load, maintenance, reads, tune  # registers the commands
from vecstore.cli.app import app

__all__ = ["app", "demo", "load", "main", "maintenance", "reads", "tune"]


def main() -> None:
    """Run the command line and exit with its status."""
    app()
