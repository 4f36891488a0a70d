"""The report of a study: tables, plots and recommendations, all derived from the raw results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.compression import choice, plots
from bench.compression.methods import METHODS, REFERENCE
from bench.compression.study import Cell, Study

CONCLUSIONS = "conclusions.md"
_HERE = Path(__file__).parent
#: A cell smaller than this part of its budget says how large it is.
_FULL = 0.9

_RULES = """\
Every method takes the largest setting whose file fits the budget; the file holds all that decoding
needs (codes, codebooks, masks, offsets, permutations, header), and everything below is measured on
what is read back from its bytes. A budget admits 0.1 % of itself more, so that the header of a few
hundred bytes does not bar float16 from 50 %. A dash: not even the smallest setting fits. A figure
in brackets: the true size, where it is below nine tenths of the budget. Recall is that of exact
search over the decoded rows, without a rerank from the originals, for held-out queries, ties at the
k-th distance counted; its standard error is about 0.003. Error is ‖X − X̂‖ / ‖X‖ (Frobenius).
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _rate(rows_per_s: float) -> str:
    if rows_per_s >= 1e6:
        return f"{rows_per_s / 1e6:.3g} M"
    return f"{rows_per_s / 1e3:.3g} k"


def _error(value: float) -> str:
    return "0" if value == 0 else f"{value:.4f}" if value >= 1e-4 else f"{value:.0e}"


def _budgets(study: Study) -> list[float]:
    return sorted({b for _, m, b in study.records if m != REFERENCE.name}, reverse=True)


def _grid(cells: Sequence[Cell], budgets: Sequence[float], text: Callable[[Cell], str]) -> str:
    """Methods down, budgets across."""
    at = {(cell.method, cell.budget): cell for cell in cells}
    rows = []
    for method in METHODS:
        row = [method]
        for budget in budgets:
            cell = at.get((method, budget))
            if cell is None:
                row.append("")
            elif not cell.ok:
                row.append("–")
            else:
                size = f" ({_percent(cell.share)})" if cell.share < _FULL * budget else ""
                row.append(text(cell) + size)
        if any(row[1:]):
            rows.append(row)
    return _table(["method", *(_percent(budget) for budget in budgets)], rows)


def _everything(cells: Sequence[Cell]) -> str:
    head = [
        *("method", "budget", "setting", "true", "deflated", "recall", "error", "train s"),
        *("encode rows/s", "decode rows/s", "lookup rows/s", "load"),
    ]
    rows = []
    order = {name: place for place, name in enumerate([REFERENCE.name, *METHODS])}
    known = [cell for cell in cells if cell.ok and cell.method in order]
    seen: set[tuple[str, int]] = set()
    for cell in sorted(known, key=lambda cell: (order[cell.method], -cell.budget)):
        key = (cell.method, cell.record["bytes"])
        if key in seen:
            continue  # one measurement serves several budgets
        seen.add(key)
        rows.append(
            [
                cell.method,
                _percent(cell.budget),
                cell.record["setting"],
                f"{cell.share * 100:.3f} %",
                f"{cell.deflated_share * 100:.2f} %",
                f"{cell.recall:.4f}",
                _error(cell.error),
                f"{cell.record['train_s'][1]:.1f}",
                *(_rate(cell.rows_per_s(what)) for what in ("encode", "decode", "lookup")),
                f"{max(cell.record['load']):.1f}",
            ]
        )
    return _table(head, rows)


def _value(cell: Cell, use: str) -> str:
    return f"{cell.recall:.3f}" if use == "search" else _error(cell.error)


def _picks(cells: Sequence[Cell], budgets: Sequence[float]) -> str:
    rows = []
    for budget in budgets:
        row = [_percent(budget)]
        for use in choice.USES:
            found = choice.pick(cells, budget, use)
            if found is None:
                row.append("–")
                continue
            tied = f"; ties: {', '.join(found.tied)}" if found.tied else ""
            value = _value(found.cell, use)
            row.append(f"**{found.cell.method}** {value}, {_percent(found.bytes_share)}{tied}")
        rows.append(row)
    return _table(["budget", "lookup (error)", "search (recall)", "archive (error)"], rows)


def _over_all(study: Study, budgets: Sequence[float]) -> str:
    cells = {name: study.cells(name) for name in study.datasets}
    rows = []
    for budget in budgets:
        row = [_percent(budget)]
        for use in choice.USES:
            best = choice.over_all(cells, budget, use)[:3]
            row.append(", ".join(f"{name} (+{mean:.3f})" for name, mean in best) or "–")
        rows.append(row)
    return _table(["budget", "lookup", "search", "archive"], rows)


def _run(number: int, facts: dict[str, Any]) -> str:
    machine, settings = facts["machine"], facts["settings"]
    dirty = ", with uncommitted changes" if machine["git_dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{number}. {machine['date']}: {machine['cpu']}, {machine['cores']} cores "
        f"({', '.join(machine['cpu_flags'])}), {machine['memory_bytes'] / 2**20:,.0f} MB, "
        f"{machine['kernel']}, Python {machine['python']}, {versions}; commit "
        f"{machine['git_commit'][:12]}{dirty}; seed {settings['seed']}; one thread. "
        f"`{machine['command']}`"
    )


def _dataset(study: Study, name: str, budgets: Sequence[float], folder: Path) -> str:
    facts, cells = study.datasets[name], study.cells(name)
    title = (
        f"## {name}: {facts['rows']:,} × {facts['dim']}, {facts['metric']}, "
        f"{facts['queries']:,} held-out queries, k = {facts['k']}"
    )
    drawn = plots.draw(cells, name, folder)
    return "\n\n".join(
        [
            title,
            f"Recall@{facts['k']}:",
            _grid(cells, budgets, lambda cell: f"{cell.recall:.3f}"),
            "Relative reconstruction error:",
            _grid(cells, budgets, lambda cell: _error(cell.error)),
            "Recommended:",
            _picks(cells, budgets),
            *(f"![{path.stem}]({path.name})" for path in drawn),
            "Every measurement; sizes are shares of float32, times and rates are CPU time of one "
            "thread, load is the machine's load average:",
            _everything(cells),
        ]
    )


def write_report(study: Study, folder: Path) -> Path:
    """Write ``report.md`` and its plots.

    Parameters
    ----------
    study : Study
    folder : Path
        Receives the files. Where it holds a ``conclusions.md``, its text is put in.

    Returns
    -------
    Path
        The report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    budgets = _budgets(study)
    conclusions = folder / CONCLUSIONS
    parts = ["# Compression study", _RULES.strip()]
    parts.append("\n".join(_run(place, facts) for place, facts in enumerate(study.runs, 1)))
    if conclusions.exists():
        parts.append(conclusions.read_text("utf-8").strip())
    parts.append("## Over all datasets")
    parts.append(
        "Methods by their mean loss beyond the best method of each dataset (recall for search, "
        "relative error else), of those that fit the budget on every dataset. Lookup asks for "
        f"{choice.LOOKUP_ROWS_PER_S_MIN:,} rows/s; archive sizes are those after DEFLATE."
    )
    parts.append(_over_all(study, budgets))
    parts += [_dataset(study, name, budgets, folder) for name in study.datasets]
    parts += [(_HERE / name).read_text("utf-8").strip() for name in ("methods.md", "taxonomy.md")]
    report = folder / "report.md"
    report.write_text("\n\n".join(parts) + "\n", "utf-8")
    return report
