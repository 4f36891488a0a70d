"""Filtered queries by selectivity against other stores: ``python -m bench.filters --out FOLDER``.

Rows carry a string (`tier`) and two whole numbers (`a`, `b`), independent of their vectors.  For
each selectivity there is a condition of each form: equality, a range, and, or, not; "new" is a
range that no query before it asked for, the others are repeated by every query of their set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from bench.channel import BenchError
from bench.data import cache_root
from bench.filter_arms import ARMS, COLUMNS
from bench.tenants import contest, report
from bench.tenants.model import Asked, Workload
from bench.tenants.records import Record
from bench.tenants.truth import exact
from bench.tenants.workloads import take_rows

SELECTIVITIES = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0)
TOP = 1_000_000
"""Numbers lie in 0 ... TOP - 1."""
REST = "rest"
app = typer.Typer(add_completion=False, help=__doc__)
console = Console(log_path=False)


def columns(n: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw the columns: tiers have the selectivities below 1 as their shares, to the row."""
    rng = np.random.default_rng((seed, 9))
    tier = np.full(n, REST, "U8")
    order, start = rng.permutation(n), 0
    for share in SELECTIVITIES[:-1]:
        end = start + max(1, round(share * n))
        tier[order[start:end]] = tier_name(share)
        start = end
    return {"tier": tier, "a": rng.integers(0, TOP, n), "b": rng.integers(0, TOP, n)}


def tier_name(share: float) -> str:
    """The tier that a share of the rows has."""
    return f"t{share:g}"


def forms(share: float) -> dict[str, list[Any] | None]:
    """Conditions by form that a share of the rows meets."""
    if share == 1.0:
        return {"none": None, "range": ["lt", "a", TOP], "not": ["not", ["gte", "a", TOP]]}
    both, either = round(share**0.5 * TOP), round((1 - (1 - share) ** 0.5) * TOP)
    return {
        "equality": ["eq", "tier", tier_name(share)],
        "range": ["lt", "a", round(share * TOP)],
        "new": ["lt", "a", round(share * TOP)],
        "and": ["and", ["lt", "a", both], ["lt", "b", both]],
        "or": ["or", ["lt", "a", either], ["lt", "b", either]],
        "not": ["not", ["gte", "a", round(share * TOP)]],
    }


def meets(condition: list[Any] | None, known: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Which rows meet a condition."""
    if condition is None:
        return np.ones(len(known["a"]), np.bool_)
    kind, *rest = condition
    if kind == "not":
        return ~meets(rest[0], known)
    if kind in ("and", "or"):
        parts = [meets(part, known) for part in rest]
        join = np.logical_and if kind == "and" else np.logical_or
        return np.asarray(join.reduce(parts), np.bool_)
    field, value = rest
    if kind == "eq":
        return np.asarray(known[field] == value)
    return np.asarray(known[field] < value if kind == "lt" else known[field] >= value)


def workload(
    dataset: str, rows: int | None, queries: int, seed: int
) -> tuple[Workload, dict[str, NDArray[Any]]]:
    """Rows, filters as scopes, and a set of queries for each filter."""
    metric, base, held_out, _ = take_rows(dataset, rows, seed)
    known = columns(len(base), seed)
    members: list[NDArray[np.int32]] = []
    told: list[dict[str, Any]] = []
    asked: dict[str, Asked] = {}
    vectors = held_out[:queries]
    for share in SELECTIVITIES:
        for form, condition in forms(share).items():
            own = np.flatnonzero(meets(condition, known)).astype(np.int32)
            name = f"{share:.2%} {form}"
            asked[name] = Asked(vectors, np.full(len(vectors), len(members)))
            told.append(
                {
                    "name": name,
                    "share": share,
                    "form": form,
                    "condition": condition,
                    "fresh": form == "new",
                    "rows": len(own),
                }
            )
            members.append(own)
    first = np.zeros(len(members) + 1, np.int64)
    first[1:] = np.cumsum([len(own) for own in members])
    owner = np.zeros(len(base), np.int32)
    heat = np.full(len(members), 1 / len(members))
    facts = {"dataset": dataset, "seed": seed, "filters": told}
    flat = np.concatenate(members)
    return Workload("filters", metric, base, first, flat, owner, heat, asked, facts), known


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Results folder.")],
    dataset: str = "sift577k",
    rows: Annotated[int | None, typer.Option(min=1_000, help="Rows drawn; all by default.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries of each set.")] = 200,
    arms: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(ARMS),
    repeats: Annotated[int, typer.Option(min=1, help="Measured passes.")] = 3,
    budget_s: Annotated[float, typer.Option(help="Seconds that a pass may take at most.")] = 20.0,
    reuse: Annotated[bool, typer.Option(help="Take the builds that are there.")] = False,
    seed: int = 1,
    work: Annotated[Path | None, typer.Option(help="Folder for the built indexes.")] = None,
) -> None:
    """Measure every filter on every store that is installed, in turns."""
    names = [name.strip() for name in arms.split(",") if name.strip()]
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise typer.BadParameter(f"No arm is called {unknown[0]!r}; there are: {', '.join(ARMS)}.")
    made, known = workload(dataset, rows, queries, seed)
    folder = (work or cache_root().parent / "bench") / "filters"
    folder.mkdir(parents=True, exist_ok=True)
    terms = contest.Terms(10, repeats, budget_s, reuse)
    record = Record(out, "filters", {"k": 10, "repeats": repeats, "budget_s": budget_s})
    console.log(f"exact answers of {made.tenants} filters")
    truths = {name: exact(made, asked, terms.k) for name, asked in made.asked.items()}
    race = contest.Contest(
        made, truths, made.rows_of, names, record, folder, terms, console.log, "bench.filter_arms"
    )
    for name in COLUMNS:
        np.save(folder / "workload" / f"column-{name}.npy", known[name])
    race.run()
    record.complete()
    console.print(f"Report: {report.write(out)}", soft_wrap=True)


if __name__ == "__main__":
    try:
        app()
    except (BenchError, ValueError) as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise SystemExit(1) from error
