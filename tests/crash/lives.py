"""Lives of a process that works through the history until something ends it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vecstore
from tests.crash import faults, shim, work
from vecstore.disk_errors import disk_errors
from vecstore.layout import MARKER_NAME

DISK = "disk"
"""Folder beside the traces that stands for a disk."""


BATCH = 4
"""In batches a call may be lost that has returned: so many share a commit at most here."""


def committed(store: vecstore.Store, number: int, durability: str) -> bool:
    """Whether a call that has returned must not be lost any more."""
    if durability == "commit":
        return True
    if number % BATCH == 0:
        assert store._environment._batch is not None
        with disk_errors(store.path):
            store._environment._batch.flush()
        return True
    return False


def maintenance(number: int, fault: str) -> str:
    """Mode of the writer: both are attacked in turn; planted bugs are met sooner within calls."""
    return "background" if number % 2 and not fault else "inline"


def live(
    path: str, acks: str, first: int, last: int, fault: str = "", durability: str = "commit"
) -> None:
    """Make calls `first` to `last`, and acknowledge each once it has returned."""
    if fault:
        getattr(faults, fault)()
    descriptor = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    mode = maintenance(first, fault)
    with vecstore.open(path, durability=durability, maintenance=mode) as store:
        os.write(descriptor, b"open\n")
        for number in range(first, last):
            if fault == "acknowledged_early":
                os.write(descriptor, f"{number}\n".encode())
            work.apply(store, number)
            if committed(store, number, durability) and fault != "acknowledged_early":
                os.write(descriptor, f"{number}\n".encode())


def traced(
    path: str,
    trace: str,
    first: int,
    last: int,
    end: int,
    fault: str = "",
    durability: str = "commit",
) -> None:
    """Make calls, writing all that reaches the files to a trace.

    The process ends before change `end`, in commit -`end` when that is negative, at last for 0.
    """
    if fault:
        getattr(faults, fault)()
    shim.arm(Path(trace).parent / DISK, Path(trace), abs(end), end < 0)
    shim.mark("opening")
    mode = maintenance(end, fault)
    with vecstore.open(path, durability=durability, maintenance=mode) as store:
        shim.mark("open")
        for number in range(first, last):
            shim.mark(f"begin {number}")
            work.apply(store, number)
            if committed(store, number, durability):
                shim.mark(f"end {number}")


def look(path: str) -> tuple[Any, Any]:
    """What a store holds and what `check` says, opened by a writer, and again by a reader."""
    with vecstore.open(path) as store:
        first = work.contents(store), store.check()
    with vecstore.open(path, mode="r") as store:
        second = work.contents(store), store.check()
    assert first == second, "a reader sees another store than the writer before it"
    return first


def look_and_go_on(path: str, seed: int) -> tuple[Any, Any]:
    """Look at an image, as a reader or not, and prove that it can be written to."""
    as_reader = seed % 2 and (Path(path) / MARKER_NAME).exists()
    if as_reader:
        with vecstore.open(path, mode="r") as store:
            before = work.contents(store)
    with vecstore.open(path) as store:
        found = work.contents(store), store.check()
        assert not as_reader or before == found[0], "a reader sees another store than a writer"
        docs = store.collection("docs", dim=work.DIM)
        n = 45 if seed % 3 else 3
        vectors = [[float(seed % 5), 1.0, 2.0, float(i)] for i in range(n)]
        docs.upsert(range(n), vectors)
        assert docs.vectors(range(n)).tolist() == vectors
        assert store.check() == []
    with vecstore.open(path, mode="r") as store:
        assert store.collection("docs").vectors(range(n)).tolist() == vectors
        assert store.check() == []
    return found


def peek(path: str) -> Any:
    """What a store holds, changing nothing."""
    if not (Path(path) / MARKER_NAME).exists():
        return work.states(0)[0]
    with vecstore.open(path, mode="r") as store:
        return work.contents(store)


@dataclass
class Failure:
    """How far a process came whose n-th call failed.

    Attributes
    ----------
    done, kept : int
        Calls of the history that returned, and that may not be lost, those before it included.
    error : str
        Kind and text of the first typed error, if there was one.
    file : str
        File of the call that failed; empty when the run was over before.
    held : object
        What the store held after the error; None where that could not be read.
    wrote_on : bool
        Whether the call that failed went well when it was made again.
    """

    done: int
    kept: int
    error: str = ""
    file: str = ""
    held: Any = None
    wrote_on: bool = False


def failing(
    path: str,
    first: int,
    last: int,
    kinds: int,
    at: int,
    error: int,
    stays: bool,
    fault: str = "",
    durability: str = "commit",
) -> Failure:
    """Make calls while the n-th of some kinds of calls to the system fails."""
    if fault:
        getattr(faults, fault)()
    shim.arm(Path(path).parent)
    shim.fail(shim.Kind(kinds), at, error, stays)
    found = Failure(first, first)
    try:
        mode = maintenance(at, fault)
        store = vecstore.open(path, durability=durability, maintenance=mode)
    except vecstore.VecstoreError as problem:
        return Failure(first, first, f"{type(problem).__name__}: {problem}", shim.failed())
    try:
        for number in range(first, last):
            work.apply(store, number)
            found.done = number + 1
            if committed(store, number, durability):
                found.kept = number + 1
    except vecstore.VecstoreError as problem:
        found.error = f"{type(problem).__name__}: {problem}"
        with suppress(vecstore.VecstoreError):
            found.held = work.contents(store)
        if not stays:
            with suppress(vecstore.VecstoreError):
                work.apply(store, found.done)
                found.wrote_on = True
    found.file = shim.failed()
    if at % 2:  # or else the process just ends
        with suppress(vecstore.VecstoreError):
            store.close()
    return found
