"""The report: markdown tables and plots, all derived from stored raw results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import cold_report, growth, plots
from bench.results import Run
from bench.summary import OURS, REFERENCE, TARGETS, Ratio, Summary, ratio_at, summarise
from bench.tables import mb, params_text, table

#: Reports of other commands that a folder may hold, taken in as they are.
_BESIDE = ("stages.md", "opening.md")

_RULES = """\
Times are those of the library's public single-query call on one thread, for every held-out query;
each figure is computed per pass and the median over the passes is shown. Queries/s at a recall is
interpolated log-linearly between neighbouring points of the adapter's own frontier and never
extrapolated: "≥" marks a sweep whose every point lies above that recall (its fastest point is
given: hnswlib cannot search with ef below k), "not reached" one that ends below it. Ratios are
against hnswlib in the same run ("≤" where its figure is a "≥", none where both are), in brackets
their range over the passes paired by repeat. Recall counts a returned row when its true distance
is no larger than the k-th true neighbour's. RAM is anonymous memory after all
queries beyond that after the imports; pages of files, which the kernel may drop, are apart."""


Brief = tuple[list[str], list[list[str]]]


def _ratio(ratio: Ratio) -> str:
    if ratio.value is None or ratio.kind == "unknown":
        return ""
    sign = {"exact": "", "at least": "≥", "at most": "≤"}[ratio.kind]
    return f"{sign}{ratio.value:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"


def _sitting_of(summary: Summary, summaries: Sequence[Summary], adapter: str) -> Summary | None:
    """What an adapter did in the same sitting."""
    same = (s for s in summaries if s.sitting == summary.sitting and s.adapter == adapter)
    return next(same, None)


def _first(summaries: Sequence[Summary]) -> list[Summary]:
    """Each adapter once; references take part in every sitting."""
    found: dict[str, Summary] = {}
    for summary in summaries:
        found.setdefault(summary.adapter, summary)
    return list(found.values())


def _at_recall(summaries: Sequence[Summary]) -> str:
    head = ["adapter"]
    for target in TARGETS:
        head += [f"queries/s at {target:.2f}", f"against {REFERENCE}", "p50 / p99 µs"]
    rows = []
    for summary in _first(summaries):
        row = [summary.adapter]
        reference = _sitting_of(summary, summaries, REFERENCE)
        for target in TARGETS:
            found, point = summary.qps_at(target), summary.point_at(target)
            sign = "≥" if found.kind == "at least" else ""
            row.append("not reached" if found.value is None else f"{sign}{found.value:,.0f}")
            row.append(_ratio(ratio_at(summary, reference, target)) if reference else "")
            row.append(f"{point.p50_us:,.0f} / {point.p99_us:,.0f}" if point else "")
        rows.append(row)
    note = "\n\np50 and p99 are those of the fastest measured point that reaches the recall."
    return table(head, rows) + note


def _duels(summaries: Sequence[Summary]) -> str:
    """How many times another adapter's queries/s vecstore answers, in the same sitting."""
    head = ["vecstore against", *(f"at {target:.2f}" for target in TARGETS), "sitting"]
    rows = []
    for summary in _first(summaries):
        mine = _sitting_of(summary, summaries, OURS)
        if mine is None or summary is mine:
            continue
        ratios = [_ratio(ratio_at(mine, summary, target)) for target in TARGETS]
        date = str(summary.record.get("date", ""))[:16]
        rows.append([summary.adapter, *ratios, f"{summary.sitting} {date}".strip()])
    return table(head, rows) if rows else ""


def _against(value: float, reference: float | None) -> str:
    return f" ({value / reference:.2f}×)" if reference else ""


def _resources(summaries: Sequence[Summary], reference: Summary | None) -> str:
    head = [
        *("adapter", "build s", "build peak anon MB", "build peak RSS MB", "disk MB"),
        *("open ms", "first query ms", "imports s", "imports anon MB"),
        *("RAM beyond imports MB", "of it from the first query MB", "file pages MB"),
    ]
    build_s = reference.record["build"]["build_s"] if reference else None
    ram = reference.beyond_imports_bytes if reference else None
    rows = []
    for summary in summaries:
        build, opened = summary.record["build"], summary.record["open"]
        memory, beyond = summary.record["memory"], summary.beyond_imports_bytes
        reused = " reused" if build["reused"] else ""
        rows.append(
            [
                summary.adapter,
                f"{build['build_s']:.1f}{_against(build['build_s'], build_s)}{reused}",
                mb(build["peak_anon_bytes"] - build["imports_anon_bytes"]),
                mb(build["peak_rss_bytes"]),
                mb(build["disk_bytes"]),
                f"{opened['open_s'] * 1e3:,.1f}",
                f"{opened['first_query_s'] * 1e3:,.1f}",
                f"{opened['import_s']:.2f}",
                mb(memory["imports"]["anon_bytes"]),
                mb(beyond) + _against(beyond, ram),
                mb(memory["first_query"]["anon_bytes"] - memory["open"]["anon_bytes"]),
                mb(memory["after_queries"]["file_bytes"]),
            ]
        )
    return table(head, rows)


def _points(summaries: Sequence[Summary]) -> str:
    head = [
        *("adapter", "point", "recall", "queries/s", "best pass", "mean µs", "p50 µs", "p99 µs"),
        *("CPU/wall", "reads/query", "read KB/query"),
    ]
    rows = []
    for summary in summaries:
        for point in sorted(summary.points, key=lambda p: (p.recall, -p.qps)):
            changed = f" ({point.changed} changed)" if point.changed else ""
            rows.append(
                [
                    summary.adapter,
                    params_text(point.params),
                    f"{point.recall:.4f}{changed}",
                    f"{point.qps:,.0f}",
                    f"{point.qps_best:,.0f}",
                    f"{point.mean_us:,.1f}",
                    f"{point.p50_us:,.1f}",
                    f"{point.p99_us:,.1f}",
                    f"{point.cpu_share:.2f}",
                    f"{point.reads_per_query:,.1f}",
                    f"{point.read_bytes_per_query / 1024:,.1f}",
                ]
            )
    return table(head, rows)


def _batches(summaries: Sequence[Summary]) -> str:
    rows = []
    for summary in summaries:
        alone = {params_text(b.params): b.qps for b in summary.batches if b.threads == 1}
        for batch in summary.batches:
            name = params_text(batch.params)
            speedup = f"{batch.qps / alone[name]:.2f}×" if name in alone else ""
            rows.append(
                [
                    *(summary.adapter, name, str(batch.threads), f"{batch.recall:.4f}"),
                    *(f"{batch.qps:,.0f}", f"{batch.qps_best:,.0f}", speedup),
                ]
            )
    head = ["adapter", "point", "cores", "recall", "queries/s", "best pass", "against one core"]
    return table(head, rows)


def _notes(summaries: Sequence[Summary]) -> str:
    notes = []
    for summary in summaries:
        shares = [point.cpu_share for point in summary.points]
        if max(shares) > 1.1:
            notes.append(f"- {summary.adapter} used {max(shares):.1f} cores in single queries.")
        if statistics.median(shares) < 0.9:
            notes.append(
                f"- {summary.adapter} had the CPU for {statistics.median(shares):.0%} of its time: "
                "it waited for storage, or other processes were in the way."
            )
        if summary.record.get("late_imports"):
            late = ", ".join(summary.record["late_imports"])
            notes.append(
                f"- {summary.adapter} imported only after the baseline, so that it counts "
                f"as RAM beyond imports: {late}."
            )
    return "\n".join(notes)


def _brief(summaries: Sequence[Summary], name: str) -> Brief:
    """The few columns that a terminal has room for."""
    head = [name, *(f"q/s at {target:.2f}" for target in TARGETS), "build s", "RAM MB", "disk MB"]
    rows = []
    for summary in _first(summaries):
        row = [summary.adapter]
        reference = _sitting_of(summary, summaries, REFERENCE)
        for target in TARGETS:
            found = summary.qps_at(target)
            sign = "≥" if found.kind == "at least" else ""
            ratio = ratio_at(summary, reference, target) if reference else None
            short = _ratio(ratio).partition(" ")[0] if ratio else ""
            times = f" ({short})" if short else ""
            row.append("-" if found.value is None else f"{sign}{found.value:,.0f}{times}")
        build = summary.record["build"]
        row += [f"{build['build_s']:.1f}", mb(summary.beyond_imports_bytes)]
        rows.append([*row, mb(build["disk_bytes"])])
    return head, rows


def _machine(run: Run) -> str:
    facts = run.machine
    dirty = ", with uncommitted changes" if facts["git_dirty"] else ""
    load = ", ".join(f"{value:.2f}" for value in facts["load_start"])
    return (
        f"{facts['date']}: {facts['cpu']}, {facts['cores']} cores "
        f"({', '.join(facts['cpu_flags'])}), {mb(facts['memory_bytes'])} MB, {facts['kernel']}, "
        f"Python {facts['python']}; commit {facts['git_commit'][:12]}{dirty}; "
        f"load at start {load}.\n\n`{facts['command']}`"
    )


def _versions(summaries: Sequence[Summary]) -> str:
    found: dict[str, str] = {}
    for summary in summaries:
        found.update(summary.record.get("versions", {}))
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in found.items()) + "."


def _dataset(run: Run, name: str, folder: Path, stem: str) -> tuple[str, list[Summary]]:
    facts = run.datasets[name]
    pairs = run.of(name)
    every = [summarise(pair, run) for pair in pairs if pair.ok]
    summaries = _first(every)
    reference = next((s for s in summaries if s.adapter == REFERENCE), None)
    title = (
        f"## {name}: {facts['rows']:,} × {facts['dim']}, {facts['metric']}, "
        f"{facts['queries']:,} held-out queries, k = {run.settings['k']}, "
        f"{run.settings['repeats']} passes"
    )
    parts = [title]
    absent = [pair for pair in pairs if not pair.ok]
    parts += [f"- {p.adapter} {p.record['status']}: {p.record['reason']}" for p in absent]
    if not summaries:
        return "\n\n".join(parts), []
    drawn = plots.frontiers(summaries, name, folder, stem)
    drawn.append(plots.resources(summaries, name, folder, stem))
    if cold_report.is_cold(run):
        parts.append(cold_report.cold_table(run, summaries, facts))
    else:
        parts += [part for part in (_at_recall(every), _duels(every)) if part]
    parts.append(_resources(summaries, reference))
    parts += [f"![{path.stem}]({path.name})" for path in drawn]
    if any(summary.batches for summary in summaries):
        parts.append("### Batches\n\n" + _batches(summaries))
    parts.append("### All points\n\n" + _points(summaries))
    parts += [note for note in (_notes(summaries), _versions(summaries)) if note]
    return "\n\n".join(parts), every


def write_report(runs: Sequence[Run], folder: Path) -> list[Brief]:
    """Write ``report.md`` and its plots.

    Parameters
    ----------
    runs : sequence of Run
        Ratios are only ever taken within a run.
    folder : Path
        Receives the files; created.

    Returns
    -------
    list of (head, rows)
        A short table per dataset, for the terminal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts, brief = ["# Benchmark report", _RULES], []
    grown: list[tuple[dict[str, Any], Summary]] = []
    for number, run in enumerate(runs):
        parts.append(_machine(run))
        if cold_report.is_cold(run):
            parts += [cold_report.RULES, cold_report.device_table(run.settings["device"])]
        for name in run.datasets:
            stem = name if len(runs) == 1 else f"{number}-{name}"
            text, summaries = _dataset(run, name, folder, stem)
            parts.append(text)
            brief.append(_brief(summaries, name))
            grown += [(run.datasets[name], summary) for summary in _first(summaries)]
    found = growth.curves(grown)
    if found:
        path = plots.growth(found, folder)
        parts.append(f"## Growth\n\n{growth.growth_tables(found)}\n\n![growth]({path.name})")
    for run in runs:
        for path in (run.folder / name for name in _BESIDE):
            if path.exists():
                parts.append("#" + path.read_text("utf-8").strip())
    text = "\n\n".join(parts) + "\n"
    (folder / "report.md").write_text(text, "utf-8")
    return brief
