"""What the disk can do: time of a wave of random reads, by their number and size.

A wave is submitted by one call (Linux's native asynchronous reads, past the page cache) and is
over when its last read is. A query that knows all it wants to read can do no better than one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.channel import BenchError

SIZES_BYTES = (4_096, 16_384, 65_536, 262_144)
DEPTHS = (1, 4, 16, 64, 256)
FILE_BYTES = 4 * 2**30
SECONDS_EACH = 0.4
WAVES_MIN, WAVES_MAX = 20, 2_000
_WARM_WAVES = 5
_BLOCK_BYTES = 4_096
_WRITE_BYTES = 16 * 2**20

#: setup, destroy, getevents, submit
_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
#: struct iocb and struct io_event of linux/aio_abi.h
_REQUEST = np.dtype(
    [
        *(("data", "u8"), ("key", "u4"), ("flags", "i4"), ("opcode", "u2"), ("priority", "i2")),
        *(("file", "u4"), ("buffer", "u8"), ("bytes", "u8"), ("offset", "i8"), ("reserved", "u8")),
        *(("more_flags", "u4"), ("event_file", "u4")),
    ]
)
_EVENT = np.dtype([("data", "u8"), ("request", "u8"), ("result", "i8"), ("result2", "i8")])
assert _REQUEST.itemsize == 64
assert _EVENT.itemsize == 32


class Waves:
    """Random reads of one size, a fixed number at a time.

    Parameters
    ----------
    file : int
        Descriptor opened with O_DIRECT.
    file_bytes, size_bytes, depth : int
    """

    def __init__(self, file: int, file_bytes: int, size_bytes: int, depth: int) -> None:
        self._libc: Any = ctypes.CDLL(None, use_errno=True)
        try:
            self._setup, self._destroy, self._collect, self._submit = _CALLS[platform.machine()]
        except KeyError:
            raise BenchError(f"No numbers of system calls for {platform.machine()!r}.") from None
        self._places = file_bytes // size_bytes
        self._size_bytes, self._depth = size_bytes, depth
        self._memory = mmap.mmap(-1, size_bytes * depth)
        start = np.frombuffer(self._memory, np.uint8).ctypes.data
        self._requests = np.zeros(depth, _REQUEST)
        self._requests["file"] = file
        self._requests["bytes"] = size_bytes
        self._requests["buffer"] = start + size_bytes * np.arange(depth, dtype=np.uint64)
        first = self._requests.ctypes.data
        self._pointers = first + _REQUEST.itemsize * np.arange(depth, dtype=np.uint64)
        self._events = np.zeros(depth, _EVENT)
        self._context = ctypes.c_ulong(0)
        self._call(self._setup, depth, ctypes.byref(self._context))

    def _call(self, number: int, *arguments: Any) -> int:
        done: int = self._libc.syscall(ctypes.c_long(number), *arguments)
        if done < 0:
            error = ctypes.get_errno()
            raise BenchError(f"Asynchronous reads do not work here: {os.strerror(error)}.")
        return done

    def wave_ns(self, draw: np.random.Generator) -> int:
        """Time of one wave, in ns."""
        self._requests["offset"] = self._size_bytes * draw.integers(0, self._places, self._depth)
        context, depth = self._context, ctypes.c_long(self._depth)
        pointers = ctypes.c_void_p(self._pointers.ctypes.data)
        events = ctypes.c_void_p(self._events.ctypes.data)
        began = time.perf_counter_ns()
        submitted = self._call(self._submit, context, depth, pointers)
        ended = self._call(self._collect, context, depth, depth, events, None)
        taken = time.perf_counter_ns() - began
        if submitted != self._depth or ended != self._depth:
            raise BenchError(f"Of {self._depth} reads {submitted} began and {ended} ended.")
        if (self._events["result"] != self._size_bytes).any():
            raise BenchError(f"Reads came back with {self._events['result'].min()} bytes.")
        return taken

    def close(self) -> None:
        """Give the kernel's context back."""
        self._call(self._destroy, self._context)


@contextmanager
def _scratch_file(folder: Path, file_bytes: int) -> Iterator[int]:
    """A file that exists as long as the block, of bytes that no device can leave out."""
    path = folder / f"device-{os.getpid()}.bin"
    draw = np.random.default_rng(0)
    try:
        with path.open("wb") as file:
            for start in range(0, file_bytes, _WRITE_BYTES):
                file.write(draw.bytes(min(_WRITE_BYTES, file_bytes - start)))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        path.unlink(missing_ok=True)


def measure_device(
    folder: Path, file_bytes: int = FILE_BYTES, seconds_each: float | None = None
) -> dict[str, Any]:
    """Time waves of random reads on the disk that holds a folder.

    Parameters
    ----------
    folder : Path
        Receives a file of `file_bytes` for the time this takes.
    seconds_each : float, optional
        Spent on each combination of `SIZES_BYTES` and `DEPTHS`, `SECONDS_EACH` by default.

    Returns
    -------
    dict
        JSON values; ``mean_us``, ``p50_us`` and ``p99_us`` are lists (sizes, depths).

    Raises
    ------
    BenchError
        Asynchronous direct reads do not work here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    shape = (len(SIZES_BYTES), len(DEPTHS))
    found = {name: np.zeros(shape) for name in ("mean_us", "p50_us", "p99_us")}
    with _scratch_file(folder, file_bytes) as file:
        for place in np.ndindex(shape):
            waves = Waves(file, file_bytes, SIZES_BYTES[place[0]], DEPTHS[place[1]])
            try:
                for _ in range(_WARM_WAVES):
                    waves.wave_ns(draw)
                taken: list[int] = []
                end = time.perf_counter() + (SECONDS_EACH if seconds_each is None else seconds_each)
                while len(taken) < WAVES_MAX and (
                    len(taken) < WAVES_MIN or time.perf_counter() < end
                ):
                    taken.append(waves.wave_ns(draw))
            finally:
                waves.close()
            us = np.array(taken) / 1e3
            found["mean_us"][place] = us.mean()
            found["p50_us"][place], found["p99_us"][place] = np.percentile(us, (50, 99))
    tables = {name: np.round(value, 1).tolist() for name, value in found.items()}
    return {"file_bytes": file_bytes, "sizes_bytes": SIZES_BYTES, "depths": DEPTHS, **tables}


def _along(
    at: float, known: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate in logarithms along the first axis; above what is known, in proportion."""
    inside = float(np.clip(at, known[0], known[-1]))
    logs = [np.interp(np.log(inside), np.log(known), np.log(one)) for one in values.T]
    return np.exp(logs) * max(1.0, at / float(known[-1]))


def wave_us(device: dict[str, Any], reads: float, read_bytes: float) -> float:
    """Median time of one wave, between those measured.

    Parameters
    ----------
    device : dict
        From `measure_device`.
    reads : float
        Their number; below 1, that share of the time of one.
    read_bytes : float
        Of all together.
    """
    if reads <= 0:
        return 0.0
    table = np.array(device["p50_us"], np.float64)
    sizes, depths = (np.array(device[name], np.float64) for name in ("sizes_bytes", "depths"))
    by_depth = _along(read_bytes / reads, sizes, table)
    return float(_along(reads, depths, by_depth[:, None])[0]) * min(1.0, reads)
