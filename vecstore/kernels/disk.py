"""Asking for mapped pages before they are read, and telling whether the disk was met.

A page of a map that is not in memory is read when it is touched, and its reader waits.  Pages
that were asked for are read side by side: a disk takes some 20 times as long for 64 reads one
after the other.
"""

from __future__ import annotations

import mmap
import resource
import time
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from vecstore.kernels.cache import kernel
from vecstore.kernels.vectors import I8, I32, I64, pointer
from vecstore.kernels.view import ASKED_BYTES, COUNT_ASKED

PAGE_BYTES = mmap.PAGESIZE
"""Of the system's memory."""
GAP_BYTES = 2 * PAGE_BYTES
"""Read along between two pieces: less work for disk and system than one more request."""
_WILL_NEED = mmap.MADV_WILLNEED
_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
_PROCESS = resource.RUSAGE_SELF
_USAGE_WORDS = 18
_MAJOR_FAULTS = 9
_BLOCKS_READ = 11
"""Places in struct rusage, in words of 8 bytes."""


def _filled(builder: Any, name: str, which: int, words: int) -> Any:
    """Call a function of the C library that takes a number and fills some words."""
    room = cgutils.alloca_once(builder, ir.ArrayType(I64, words))
    place = builder.bitcast(room, ir.PointerType(I8))
    kind = ir.FunctionType(I32, [I32, place.type])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [ir.Constant(I32, which), place])
    return builder.bitcast(room, ir.PointerType(I64))


def _word(builder: Any, words: Any, place: int) -> Any:
    return builder.load(builder.gep(words, [ir.Constant(I64, place)]))


@intrinsic
def _will_need(typingctx: Any, address: Any, size: Any) -> Any:
    """Let the system read whole pages from `address` on; return without waiting for them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer(builder, args[0], I8)
        kind = ir.FunctionType(I32, [place.type, I64, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "madvise")
        builder.call(function, [place, args[1], ir.Constant(I32, _WILL_NEED)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def now_ns(typingctx: Any) -> Any:
    """Time by a clock that never goes back."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = _filled(builder, "clock_gettime", time.CLOCK_MONOTONIC, 2)
        seconds = builder.mul(_word(builder, words, 0), ir.Constant(I64, 1_000_000_000))
        return builder.add(seconds, _word(builder, words, 1))

    return types.int64(), codegen


def _counter(which: int, place: int) -> Any:
    @intrinsic
    def count(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _word(builder, _filled(builder, "getrusage", which, _USAGE_WORDS), place)

        return types.int64(), codegen

    return count


major_faults = _counter(_PROCESS, _MAJOR_FAULTS)
"""Page faults of this process that waited for the disk."""
blocks_read = _counter(_THREAD, _BLOCKS_READ)
"""Blocks of 512 bytes that this thread had the disk read, pages asked for among them."""


@kernel
def pages_of(address, size):
    """First of the pages that hold some memory, and the one after the last."""
    first = address // PAGE_BYTES * PAGE_BYTES
    return first, (address + size + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES


@kernel
def ask(counters, start, end):
    """Ask for the pages from `start` to `end`, unless there are none, and count it."""
    if end > start:
        counters[COUNT_ASKED] += 1
        counters[ASKED_BYTES] += end - start
        _will_need(start, end - start)


@kernel
def ask_with(counters, start, end, address, size):
    """Ask for memory together with the pages from `start` to `end`, where they all but touch.

    Returns
    -------
    (int64, int64)
        Pages that are still to be asked for, so that more can be added.
    """
    first, last = pages_of(address, size)
    if start <= first <= end + GAP_BYTES:
        return start, max(end, last)
    ask(counters, start, end)
    return first, last


@kernel
def ask_if_met(met, addresses, begin, end, size):
    """Ask for pieces of memory if this thread has met the disk since `blocks_read` gave `met`.

    Whoever goes through many pieces calls this with the next of them, and again and again: as long
    as the disk is met, they are read side by side, and else it costs next to nothing.

    Parameters
    ----------
    addresses : int64 (n,)
        Of all pieces; those from `begin` to `end` - 1 are next.
    size : int64
        Bytes of each.

    Returns
    -------
    int64
        For the next call.
    """
    read = blocks_read()
    if read == met:
        return met
    start = stop = np.int64(0)
    for i in range(begin, end):
        first, last = pages_of(addresses[i], size)
        if start <= first <= stop:
            stop = max(stop, last)
        else:
            if stop > start:
                _will_need(start, stop - start)
            start, stop = first, last
    if stop > start:
        _will_need(start, stop - start)
    return read
