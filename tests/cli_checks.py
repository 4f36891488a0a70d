"""What the tests of the command line share: running it here, or in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from vecstore.cli import app

GLOVE = Path(__file__).parent / "fixtures" / "glove50.npz"


def run(*args: Any, status: int = 0) -> Any:
    """Run a command in this process; return its result."""
    result = CliRunner().invoke(app, [f"{arg}" for arg in args], env={"COLUMNS": "200"})
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


def run_json(*args: Any, status: int = 0) -> Any:
    """Run a command with --json; its stdout is one document and nothing else."""
    result = run(*args, "--json", status=status)
    assert bool(result.stderr) == bool(status)
    return json.loads(result.stdout)


def failed(*args: Any, status: int) -> str:
    """Run a command that must fail with one line on stderr, and nothing on stdout."""
    result = run(*args, status=status)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def spawn(*args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vecstore.cli", *(f"{arg}" for arg in args)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def fixture_words() -> tuple[list[str], np.ndarray[Any, Any]]:
    """The words of the fixture in place of all 400,000."""
    with np.load(GLOVE) as archive:
        held = dict(archive)
    return held["words"].tolist(), held["base"]
