"""Facts about the machine and the checkout, stored beside every result."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.channel import REPOSITORY

#: CPU features that decide which kernels run.
FLAGS = ("popcnt", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq")

_FOLDERS = re.compile(r"(?<![\w.>:/])/(?:[\w.+~-]+/)+")


def _fields(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def without_places(text: str) -> str:
    """Text without the folders of absolute paths: results are read on other machines."""
    return _FOLDERS.sub("", text.replace(f"{REPOSITORY}/", ""))


def machine_facts(command: str) -> dict[str, Any]:
    """CPU, memory, kernel, Python, commit, date and command line, as JSON values.

    Parameters
    ----------
    command : str
        The command line, as a reader would type it again.
    """
    cpu = _fields("/proc/cpuinfo")
    present = set(cpu.get("flags", cpu.get("Features", "")).split())
    memory = _fields("/proc/meminfo").get("MemTotal", "0 kB").split()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cpu_flags": [flag for flag in FLAGS if flag in present],
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory) * 1024,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "git_commit": _git("rev-parse", "--verify", "HEAD") or "none",
        "git_dirty": bool(_git("status", "--porcelain")),
    }
