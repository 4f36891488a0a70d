"""Finding what sets are made from: Python packages and Debian packages.

Debian packages need not be installed and need no root: they are downloaded with ``apt-get
download`` and unpacked with ``dpkg-deb -x`` into the cache. Installed ones are used as they are.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from datasets import cache
from datasets.errors import SourceChanged, SourceMissing


def module(name: str, requirement: str) -> Any:
    """Import an optional module.

    Raises
    ------
    SourceMissing
        Naming the ``pip install`` that provides it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SourceMissing(f"Python module {name}", f"pip install {requirement}") from error


def package_file(name: str, path: str, requirement: str) -> Path:
    """Return a data file inside an installed Python package, without importing the package."""
    spec = importlib.util.find_spec(name)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(place) / path
        if found.is_file():
            return found
    raise SourceMissing(f"{path} of Python package {name}", f"pip install {requirement}")


def package_version(distribution: str) -> str:
    """Return ``name==version`` of an installed distribution, for the manifest."""
    return f"{distribution}=={importlib.metadata.version(distribution)}"


def expect_sha256(path: Path, expected: str) -> None:
    """Raise `SourceChanged` unless the file has the SHA-256 that the recipe was written for."""
    actual = cache.sha256(path)
    if actual != expected:
        raise SourceChanged(path.name, f"SHA-256 is {actual}, the recipe expects {expected}")


def debian_files(package: str) -> tuple[list[Path], str]:
    """Return the files of a Debian package, and ``name=version``.

    Raises
    ------
    SourceMissing
        If the package is neither installed nor in the cache and cannot be downloaded.
    """
    installed = _installed(package)
    if installed is not None:
        return installed
    unpacked = next(iter(sorted((cache.root() / "debian").glob(f"{package}_*"))), None)
    if unpacked is None:
        unpacked = _download(package)
    files = sorted(path for path in unpacked.rglob("*") if path.is_file())
    return files, unpacked.name.replace("_", "=", 1)


def debian_file(package: str, name: str) -> tuple[Path, str]:
    """Return the one file of a Debian package that is called `name`, and ``package=version``."""
    files, version = debian_files(package)
    for path in files:
        if path.name == name:
            return path, version
    raise SourceChanged(f"Debian package {version}", f"holds no file called {name}")


def _installed(package: str) -> tuple[list[Path], str] | None:
    query = shutil.which("dpkg-query")
    if query is None:
        return None
    form = "${db:Status-Status} ${Version}"
    status = subprocess.run([query, "-W", "-f", form, package], capture_output=True, text=True)
    state, _, version = status.stdout.partition(" ")
    if state != "installed":
        return None
    listing = subprocess.run([query, "-L", package], capture_output=True, text=True, check=True)
    files = [Path(line) for line in listing.stdout.splitlines()]
    return sorted(path for path in files if path.is_file()), f"{package}={version}"


def _download(package: str) -> Path:
    remedy = f"apt-get update && apt-get install {package}"
    place = cache.root() / "debian"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=place) as work:
        for command in (["apt-get", "download", package], ["dpkg-deb", "-x", "", "files"]):
            if command[0] == "dpkg-deb":
                command[2] = next(Path(work).glob("*.deb")).name
            try:
                subprocess.run(command, cwd=work, check=True, capture_output=True)
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                raise SourceMissing(f"Debian package {package}", remedy) from error
        archive = next(Path(work).glob("*.deb"))
        version = archive.name.split("_")[1].replace("%3a", ":")
        unpacked = place / f"{package}_{version}"
        (Path(work) / "files").rename(unpacked)
    return unpacked
