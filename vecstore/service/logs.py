"""The log: JSON lines, on stderr by default, with the id that the answer has as X-Request-Id."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder(enc_hook=str)
_descriptor = 2


def log_to(descriptor: int) -> None:
    """Write the log of this process, and of those that it forks, to another open file."""
    global _descriptor
    _descriptor = descriptor


def log(event: str, **facts: Any) -> None:
    """Write one line; what it says is never more important than what it is about."""
    line = _ENCODER.encode(
        {"at": round(time.time(), 6), "event": event, "pid": os.getpid(), **facts}
    )
    with contextlib.suppress(OSError):
        os.write(_descriptor, line + b"\n")


class LogHandler(logging.Handler):
    """Brings what libraries log into the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        trace = None
        if record.exc_info is not None and record.exc_info[1] is not None:
            trace = "".join(traceback.format_exception(record.exc_info[1]))
        log("library", logger=record.name, level=record.levelname, message=record.getMessage(),
            trace=trace)  # fmt: skip


def log_failure(event: str, error: BaseException, **facts: Any) -> None:
    """Write one line about an error nobody expected, with its traceback."""
    trace = "".join(traceback.format_exception(error))
    log(event, error=type(error).__name__, trace=trace, **facts)
