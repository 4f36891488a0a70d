"""Raw results of one command: ``<command>.json``, and ``<command>--<what>.npz`` for long arrays.

Saved after each step, so that a run that is cut short keeps what it has.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import machine_facts, without_places


def plain(value: Any) -> Any:
    """JSON values of numpy's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


class Record:
    """What one command found so far.

    Parameters
    ----------
    folder : Path
        Results folder, created.
    command : str
        Name of the command, and of the file.
    settings : dict
        JSON values.
    """

    def __init__(self, folder: Path, command: str, settings: dict[str, Any]) -> None:
        self._folder = folder
        self._command = command
        program = f"bench.{command}" if command in ("filters", "churn") else "bench.tenants"
        typed = without_places(shlex.join(["python", "-m", program, *sys.argv[1:]]))
        self.data: dict[str, Any] = {
            "command": command,
            "machine": {**machine_facts(typed), "load_start": os.getloadavg()},
            "settings": settings,
            "complete": False,
        }
        self.save()

    def save(self) -> None:
        """Write all of it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, indent=1, default=plain)
        target = self._folder / f"{self._command}.json"
        partial = target.with_suffix(".part")
        partial.write_text(without_places(text) + "\n", "utf-8")
        partial.replace(target)

    def save_arrays(self, what: str, **arrays: Any) -> str:
        """Write long arrays; returns the name of their file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._command}--{what}.npz"
        np.savez_compressed(self._folder / name, allow_pickle=False, **arrays)
        return name

    def complete(self) -> None:
        """Mark the run as whole and save it."""
        self.data["complete"] = True
        self.data["machine"]["load_end"] = os.getloadavg()
        self.save()


def load_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Results of a folder by command."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        if isinstance(data, dict) and "command" in data:
            found[path.stem] = data
    return found
