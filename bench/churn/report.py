"""``report.md`` and a plot from the raw results of a run; everything in them is derived."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.channel import BenchError
from bench.tenants.records import load_records
from bench.tenants.tables import number, table

Own = dict[str, Any]
FRESH = "rebuild"
PROBES = ("8", "16", "32")
_STYLES: dict[str, dict[str, Any]] = {
    "append": {"color": "C1", "marker": "^"},
    "split": {"color": "C2", "marker": "s"},
    "reassign": {"color": "C0", "marker": "o", "linewidth": 2.2},
    "rebuild": {"color": "black", "marker": "D", "linestyle": "--"},
}
COUNTS = {
    "splits": "split",
    "dissolved": "dissolved",
    "renewed": "renewed",
    "inspected": "inspected",
    "checked": "rows checked",
    "moved": "rows moved",
    "dropped": "entries dropped in renewing",
    "trimmed": "entries dropped in merging",
    "written": "entries written",
}
"""Counters of the engine and what the report calls them."""


def write_report(folder: Path) -> None:
    """Write ``report.md`` and ``churn.png`` of a folder.

    Raises
    ------
    BenchError
        Nothing was measured there.
    """
    data = load_records(folder).get("churn")
    if data is None or not data.get("rounds"):
        raise BenchError(f"{folder} holds no rounds of a run; start one with --out {folder}.")
    latencies = _latencies(folder)
    lines = ["# Churn", "", *_head(data), *_verdict(data, latencies)]
    for title, section in (
        ("Recall and work, round by round", _rounds),
        ("What the engine did", _engine),
        ("Disk", _disk),
    ):
        lines += [f"## {title}", "", *section(data)]
    lines += ["## Queries beside writes", "", *_beside(data, latencies)]
    lines += ["## After `compact()`", "", *_compacted(data)]
    lines += ["![Churn](churn.png)", ""]
    (folder / "report.md").write_text("\n".join(lines), "utf-8")
    _plot(data, folder / "churn.png")


def _latencies(folder: Path) -> dict[str, Any]:
    path = folder / "churn--latency.npz"
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def _arms(data: Own) -> list[str]:
    return list(data["rounds"][0]["arms"])


def _followed(data: Own) -> list[str]:
    return [name for name in _arms(data) if name != FRESH]


def _fresh(data: Own, round_: Own) -> Own | None:
    """Figures of the build that a round is held against."""
    found: Own | None = round_["arms"].get(FRESH)
    return found


def _total(sizes: dict[str, int]) -> int:
    return sum(sizes.values())


def _head(data: Own) -> list[str]:
    stream, settings, machine = data["stream"], data["settings"], data["machine"]
    done = len(data["rounds"]) - 1
    moved = stream["moved"]
    both = sum(one["rows_of_groups_in_both"] for one in moved)
    lines = [
        f"{stream['rows']:,} rows × {stream['dim']} of {settings['dataset']} "
        f"({stream['metric']}), {done} of {stream['rounds']} rounds, each of which deletes the "
        f"{stream['step']:,} rows that stand longest and inserts as many. Rows are ordered by "
        f"group (picture), groups by a draw (seed {settings['seed']}): {stream['groups_at_first']} "
        f"of {stream['groups']} groups stand at first, a round takes rows of "
        f"{_span(one['groups_leaving'] for one in moved)} groups away and brings rows of "
        f"{_span(one['groups_coming'] for one in moved)} others; {both:,} rows of all that came "
        f"were of a group that left in the same round. Each round has {settings['queries']:,} "
        f"queries of its own, rows of the groups that stand which are never stored; the truth is "
        f"exact search. k = {settings['k']}.",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, commit {machine['git_commit'][:12]}"
        f"{' and changes' if machine['git_dirty'] else ''}. {_load(machine)}",
        "",
        "Arms: *append* never changes a posting; *split* divides, dissolves and renews postings "
        "and gives their rows new homes, but looks at no others; *reassign* is the engine as it "
        "ships; *rebuild* is a new store after each round.",
        "",
    ]
    if not data["complete"]:
        lines += ["**The run was cut short; this is what it had measured.**", ""]
    return lines


def _load(machine: Own) -> str:
    loads = [machine[key][0] for key in ("load_start", "load_end") if key in machine]
    told = f"Load {' at the start, '.join(f'{load:.1f}' for load in loads)}"
    told += " at the end." if len(loads) > 1 else " at the start."
    if max(loads) > machine["cores"]:
        told += " **Others used the machine: times are no figures; counts, recall and sizes are.**"
    return told


def _span(values: Iterable[int]) -> str:
    found = sorted(values)
    return str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def _verdict(data: Own, latencies: dict[str, Any]) -> list[str]:
    """Goals, and the worst that any round has."""
    if FRESH not in _arms(data) or len(data["rounds"]) < 2:
        return []
    rows = []
    for name in _followed(data):
        worst = dict.fromkeys((*PROBES, "as calibrated"), 1.0)
        target, peak = 1.0, 0.0
        for round_ in data["rounds"][1:]:
            own, fresh = round_["arms"][name], round_["arms"][FRESH]
            for probes in PROBES:
                gap = own["fixed"][probes]["recall"] - fresh["fixed"][probes]["recall"]
                worst[probes] = min(worst[probes], gap)
            gap = own["calibrated"]["recall"] - fresh["calibrated"]["recall"]
            worst["as calibrated"] = min(worst["as calibrated"], gap)
            target = min(target, own["calibrated"]["recall"])
            peak = max(peak, _total(own["disk_peak"]) / _total(fresh["disk"]))
        after = data.get("compacted", {})
        compacted = "–"
        if name in after and FRESH in after:
            compacted = f"{_total(after[name]['disk']) / _total(after[FRESH]['disk']):.2f} ×"
        rows.append(
            [
                name,
                *(f"{100 * gap:+.1f}" for gap in worst.values()),
                f"{target:.3f}",
                _p99_ratio(latencies, name, "thread"),
                _p99_ratio(latencies, name, "process"),
                f"{peak:.2f} ×",
                compacted,
            ]
        )
    goals = ["*goal*", *["≥ -1.0"] * 4, "≥ 0.95", *["≤ 2 ×"] * 2, "≤ 1.5 ×", "≤ 1.1 ×"]
    head = (
        "arm",
        *(f"points at {probes} probes" for probes in PROBES),
        "points as calibrated",
        "recall for 0.95",
        "p99 beside writes, thread",
        "process",
        "disk peak",
        "after compact",
    )
    return [
        "The worst of all rounds; points of recall and disk against the fresh build of the same "
        "rows, p99 of all rounds against p99 without writes.",
        "",
        *table(head, [goals, *rows]),
    ]


def _p99_ratio(latencies: dict[str, Any], name: str, side: str) -> str:
    quiet, busy = (latencies.get(f"{name}-{side}-{state}") for state in ("quiet", "busy"))
    if quiet is None or busy is None or not len(quiet) or not len(busy):
        return "–"
    return f"{np.percentile(busy, 99) / np.percentile(quiet, 99):.1f} ×"


def _rounds(data: Own) -> list[str]:
    rows = []
    for round_ in data["rounds"]:
        for name, own in round_["arms"].items():
            shape, found = own["shape"], own["calibrated"]
            rows.append(
                [
                    f"{round_['round']} {name}",
                    *(
                        f"{own['fixed'][probes]['recall']:.3f} / "
                        f"{own['fixed'][probes]['scanned']:,.0f}"
                        for probes in PROBES
                    ),
                    f"{found['recall']:.3f}",
                    f"{found['scanned']:,.0f}",
                    f"{own['query']['mean_us']:.0f}",
                    f"{found['fresh']:,}",
                    f"{shape['postings']:,}",
                    f"{shape['posting_rows_cv']:.2f}",
                    f"{shape['posting_entries']:,}",
                    f"{shape['live_entries']['entries']:,}",
                    f"{shape['live_entries']['superfluous']:,}",
                ]
            )
    head = (
        "round, arm",
        *(f"{probes} probes" for probes in PROBES),
        "recall for 0.95",
        "rows scanned",
        "mean µs",
        "in the log",
        "postings",
        "CV of sizes",
        "entries",
        "live",
        "superfluous",
    )
    return [
        "Recall / rows scanned at fixed probes; recall, rows scanned and time of a query that asks "
        "for recall 0.95; rows in the log, which a query scans besides; entries of postings, those "
        "of live rows, and those beyond two for a row.",
        "",
        *table(head, rows),
    ]


def _engine(data: Own) -> list[str]:
    rows = []
    for name in _followed(data):
        for round_ in data["rounds"][1:]:
            own = round_["arms"][name]
            done = own["engine"]
            share = done["written"] / max(1, own["shape"]["live_entries"]["entries"])
            rows.append(
                [
                    f"{name} {round_['round']}",
                    *(f"{done[key]:,}" for key in COUNTS),
                    f"{100 * share:.0f} %",
                    f"{own['written_bytes'] / 1e6:.0f}",
                    f"{own['seconds']:.2f}",
                    f"{own['call_s_max'] * 1e3:.0f}",
                ]
            )
    head = ("arm, round", *COUNTS.values(), "of all", "MB written", "seconds", "longest call, ms")
    return [
        "Counted by the engine: postings that were split, dissolved, renewed or inspected, rows "
        "of renewed postings and around splits that were looked at and those of them that got a "
        "further place, entries. *Entries written* has those of the rows that came; *of all* is "
        "their share of all live entries, which a rebuild writes at once. Merges of extents come "
        "on top, in *MB written*.",
        "",
        *table(head, rows),
    ]


def _disk(data: Own) -> list[str]:
    rows = []
    for name in _followed(data):
        for round_ in data["rounds"][1:]:
            own, fresh = round_["arms"][name], _fresh(data, round_)
            peak = own["disk_peak"]
            reference = None if fresh is None else _total(fresh["disk"])
            rows.append(
                [
                    f"{name} {round_['round']}",
                    number(_total(own["disk"]) / 1e6),
                    _times(_total(own["disk"]), reference),
                    number(_total(peak) / 1e6),
                    _times(_total(peak), reference),
                    ", ".join(
                        f"{kind} {size / 1e6:.1f}"
                        for kind, size in sorted(peak.items(), key=lambda item: -item[1])
                    ),
                ]
            )
    head = ("arm, round", "MB after", "÷ fresh", "MB at most", "÷ fresh", "of which")
    return [
        "Bytes allocated for all files of the store, LMDB's among them, looked at every 10 ms "
        "while the round was written; files that are removed but still mapped count.",
        "",
        *table(head, rows),
    ]


def _times(value: float, reference: float | None) -> str:
    return "–" if not reference else f"{value / reference:.2f} ×"


def _beside(data: Own, latencies: dict[str, Any]) -> list[str]:
    rows = []
    for name in _followed(data):
        for side in ("thread", "process"):
            for state in ("quiet", "busy"):
                found = latencies.get(f"{name}-{side}-{state}")
                if found is None or not len(found):
                    continue
                micros = found / 1e3
                rows.append(
                    [
                        f"{name}, {side}, {state}",
                        f"{len(micros):,}",
                        *(f"{np.percentile(micros, p):,.0f}" for p in (50, 99, 99.9)),
                        f"{micros.max():,.0f}",
                    ]
                )
    pace = data["settings"].get("rows_s")
    told = f"{pace:,} rows a second are deleted and as many inserted" if pace else "at full speed"
    return [
        f"All rounds together, 500 queries a second, µs, from when a query was due. Writes "
        f"({told}) are calls of 1,000 rows; the queries come from a thread of the writing process "
        f"in one half of a round and from another process in the other. *quiet* is the same "
        f"without writes.",
        "",
        *table(("queries", "number", "p50", "p99", "p99.9", "max"), rows),
    ]


def _compacted(data: Own) -> list[str]:
    after = data.get("compacted")
    if not after:
        return ["Not reached.", ""]
    reference = _total(after[FRESH]["disk"]) if FRESH in after else None
    rows = [
        [
            name,
            *(
                f"{own['fixed'][probes]['recall']:.3f} / {own['fixed'][probes]['scanned']:,.0f}"
                for probes in PROBES
            ),
            f"{own['calibrated']['recall']:.3f}",
            f"{own['calibrated']['scanned']:,.0f}",
            f"{own['query']['mean_us']:.0f}",
            f"{own['shape']['posting_rows_cv']:.2f}",
            number(_total(own["disk"]) / 1e6),
            _times(_total(own["disk"]), reference),
            f"{own['seconds']:.1f}" if "seconds" in own else "–",
            str(len(own["violations"])),
        ]
        for name, own in after.items()
    ]
    head = (
        "arm",
        *(f"{probes} probes" for probes in PROBES),
        "recall for 0.95",
        "rows scanned",
        "mean µs",
        "CV of sizes",
        "MB",
        "÷ fresh",
        "seconds",
        "found by check()",
    )
    return table(head, rows)


def _plot(data: Own, path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(15, 8))
    rounds = data["rounds"]

    def draw(panel: Axes, title: str, value: Callable[[Own, Own], float | None]) -> None:
        for name in _arms(data):
            points = [
                (one["round"], found)
                for one in rounds
                if (found := value(one["arms"][name], one)) is not None
            ]
            if points:
                across, up = zip(*points, strict=True)
                panel.plot(across, up, label=name, markersize=4, **_STYLES[name])
        panel.set_title(title)
        panel.set_xlabel("round")
        panel.grid(True, alpha=0.3)

    def peak(own: Own, round_: Own) -> float | None:
        fresh = _fresh(data, round_)
        if fresh is None or "disk_peak" not in own:
            return None
        return _total(own["disk_peak"]) / _total(fresh["disk"])

    draw(axes[0, 0], "recall@k at 16 probes", lambda own, _: own["fixed"]["16"]["recall"])
    draw(axes[0, 1], "rows scanned at 16 probes", lambda own, _: own["fixed"]["16"]["scanned"])
    draw(axes[0, 2], "recall@k asked for: 0.95", lambda own, _: own["calibrated"]["recall"])
    draw(axes[1, 0], "rows scanned for 0.95", lambda own, _: own["calibrated"]["scanned"])
    draw(axes[1, 1], "mean µs of a query for 0.95", lambda own, _: own["query"]["mean_us"])
    draw(axes[1, 2], "largest size on disk ÷ fresh build", peak)
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
