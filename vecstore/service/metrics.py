"""Figures about calls, in memory that all processes of one service share.

Each process counts in its own rows and nobody else writes there, so nothing is locked; whoever is
asked adds up all rows.  A process that is started again goes on in the rows of the one before.
"""

from __future__ import annotations

import mmap
import time
from bisect import bisect_left
from typing import Any, Final

import numpy as np

from vecstore.wire.verbs import VERBS

PROCESSES_MAX: Final = 65
"""One that writes and 64 that read."""

BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
STATUSES: Final = ("2xx", "4xx", "429", "503", "5xx")
OTHER: Final = "other"
PERIOD_S: Final = 10
PERIODS: Final = 90
_NAMES: Final = (*VERBS, OTHER)
_PLACES: Final = {name: place for place, name in enumerate(_NAMES)}
_GROUPS: Final = ("query", "read", "write")

_PROCESS = np.dtype(
    [
        ("calls", np.uint64, (len(_NAMES), len(STATUSES))),
        ("buckets", np.uint64, (len(_NAMES), len(BUCKETS_S) + 1)),
        ("seconds", np.float64, len(_NAMES)),
        ("body_bytes", np.uint64, len(_NAMES)),
        ("running", np.int64),
        ("starts", np.uint64),
        ("period", np.int64, PERIODS),
        ("recent", np.uint32, (PERIODS, len(_GROUPS), len(BUCKETS_S) + 1)),
    ]
)


class Metrics:
    """Counters of all processes; made before they are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _PROCESS.itemsize * PROCESSES_MAX)
        self._all = np.frombuffer(self._memory, _PROCESS)
        self.use(0)

    def use(self, process: int) -> None:
        """Count as one process from now on."""
        own = self._all[process : process + 1]
        # An element of a memoryview is changed at a tenth of the cost of one of an array.
        self._calls, self._buckets = own["calls"][0].data, own["buckets"][0].data
        self._seconds, self._bytes = own["seconds"][0].data, own["body_bytes"][0].data
        self._recent, self._period = own["recent"][0].data, own["period"][0].data
        self._whole_recent = own["recent"][0]
        self._running = own["running"].data
        self.running = 0

    def started(self, process: int) -> None:
        """Count the start of a process, and forget what its predecessor had running."""
        self._all[process]["starts"] += 1
        self._all[process]["running"] = 0

    def begin(self) -> None:
        """Count a call that begins."""
        self.running += 1
        self._running[0] = self.running

    def end(self, verb: str, status: int, seconds: float, body_bytes: int) -> None:
        """Count a call that ended."""
        self.running -= 1
        self._running[0] = self.running
        place = _PLACES[verb]
        bucket = bisect_left(BUCKETS_S, seconds)
        self._calls[place, _status(status)] += 1
        self._buckets[place, bucket] += 1
        self._seconds[place] += seconds
        self._bytes[place] += body_bytes
        if verb == OTHER:
            return
        period = int(time.time()) // PERIOD_S
        slot = period % PERIODS
        if self._period[slot] != period:
            self._whole_recent[slot] = 0
            self._period[slot] = period
        self._recent[slot, _group(verb), bucket] += 1

    def recent(self) -> dict[str, Any]:
        """Calls of the last minutes: for each period of some seconds, counts by latency."""
        now = int(time.time()) // PERIOD_S
        periods = range(now - PERIODS + 1, now + 1)
        groups: dict[str, list[list[int]]] = {name: [] for name in _GROUPS}
        for period in periods:
            rows = self._all[self._all["period"][:, period % PERIODS] == period]
            counts = rows["recent"][:, period % PERIODS].sum(0)
            for place, name in enumerate(_GROUPS):
                groups[name].append(counts[place].tolist())
        return {
            "period_s": PERIOD_S,
            "ends_at": (now + 1) * PERIOD_S,
            "upper_bounds_s": list(BUCKETS_S),
            "counts": groups,
        }

    def exposition(self, gauges: dict[str, list[tuple[dict[str, str], float]]]) -> str:
        """Write all figures in Prometheus' text format, version 0.0.4.

        Parameters
        ----------
        gauges : dict
            Further figures by name: labels and values.
        """
        calls = self._all["calls"].sum(0)
        buckets = self._all["buckets"].sum(0).cumsum(1)
        seconds, received = self._all["seconds"].sum(0), self._all["body_bytes"].sum(0)
        used = [place for place in range(len(_NAMES)) if buckets[place, -1]]
        lines = ["# TYPE vecstore_calls_total counter"]
        for place in used:
            lines += [
                f'vecstore_calls_total{{verb="{_NAMES[place]}",status="{status}"}} {count}'
                for status, count in zip(STATUSES, calls[place].tolist(), strict=True)
                if count
            ]
        lines.append("# TYPE vecstore_call_seconds histogram")
        for place in used:
            verb = f'verb="{_NAMES[place]}"'
            bounds = [*(f"{bound:g}" for bound in BUCKETS_S), "+Inf"]
            lines += [
                f'vecstore_call_seconds_bucket{{{verb},le="{bound}"}} {count}'
                for bound, count in zip(bounds, buckets[place].tolist(), strict=True)
            ]
            lines.append(f"vecstore_call_seconds_sum{{{verb}}} {seconds[place]:.9g}")
            lines.append(f"vecstore_call_seconds_count{{{verb}}} {buckets[place, -1]}")
        lines.append("# TYPE vecstore_received_bytes_total counter")
        lines += [
            f'vecstore_received_bytes_total{{verb="{_NAMES[place]}"}} {received[place]}'
            for place in used
        ]
        lines.append("# TYPE vecstore_process_starts_total counter")
        lines += [
            f'vecstore_process_starts_total{{process="{place}"}} {starts}'
            for place, starts in enumerate(self._all["starts"].tolist())
            if starts
        ]
        gauges = {"vecstore_calls_running": [({}, float(self._all["running"].sum()))], **gauges}
        for name, values in gauges.items():
            lines.append(f"# TYPE {name} gauge")
            lines += [f"{name}{_labels(labels)} {value:.17g}" for labels, value in values]
        return "\n".join(lines) + "\n"


def _status(status: int) -> int:
    if 0 < status < 400:
        return 0
    if not status:  # given up without an answer
        return 4
    if status in (429, 503):
        return 2 if status == 429 else 3
    return 1 if status < 500 else 4


def _group(verb: str) -> int:
    if verb in ("query", "search"):
        return 0
    return 2 if VERBS[verb].where == 2 else 1


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    written = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{written}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
