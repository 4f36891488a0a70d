"""Command line: ``python -m bench.tenants w1 | natural | w3 | divide | operations | w2 | load``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.channel import BenchError
from bench.data import cache_root
from bench.tenants import contest, report, workloads
from bench.tenants.arms import ARMS
from bench.tenants.model import Workload
from bench.tenants.records import Record
from bench.tenants.truth import exact

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(log_path=False)
ALL = ",".join(ARMS)

Out = Annotated[Path, typer.Option(help="Results folder; several commands may share one.")]
Work = Annotated[Path | None, typer.Option(help="Folder for the built indexes.")]
Rows = Annotated[int | None, typer.Option(min=1_000, help="Rows drawn; all by default.")]
Queries = Annotated[int, typer.Option(min=1, help="Queries of each set.")]
Seed = Annotated[int, typer.Option(help="Everything random comes from it.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measured passes; 3 at least for figures.")]
Budget = Annotated[float, typer.Option(min=1.0, help="Seconds that a pass may take at most.")]
Arms = Annotated[str, typer.Option(help="Names, separated by commas.")]
Reuse = Annotated[bool, typer.Option(help="Take the builds that are there.")]


def _work(work: Path | None, what: str) -> Path:
    folder = (work or cache_root().parent / "bench") / f"tenants-{what}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise typer.BadParameter(f"No arm is called {unknown[0]!r}; there are: {', '.join(ARMS)}.")
    return names


def _contest(
    command: str, made: Workload, arms: str, out: Path, work: Path, terms: contest.Terms
) -> None:
    settings = {"k": terms.k, "repeats": terms.repeats, "budget_s": terms.budget_s}
    record = Record(out, command, settings)
    console.log(made.described() | {"unions": None})
    truths = {name: exact(made, asked, terms.k) for name, asked in made.asked.items()}
    contest.Contest(
        made, truths, made.rows_of, _names(arms), record, work, terms, console.log
    ).run()
    record.complete()
    _report(out)


def _report(out: Path) -> None:
    console.print(f"Report: {report.write(out)}", soft_wrap=True)


@app.command()
def w1(
    out: Out,
    dataset: str = "sift577k",
    rows: Rows = None,
    tenants: Annotated[int, typer.Option(min=2)] = 1_000,
    sharing: float = 13.0,
    queries: Queries = 1_000,
    arms: Arms = ALL,
    repeats: Repeats = 5,
    budget_s: Budget = 60.0,
    reuse: Reuse = False,
    seed: Seed = 1,
    work: Work = None,
) -> None:
    """Many tenants that share rows: all arms at equal recall."""
    made = workloads.w1(dataset, rows, tenants, queries, sharing, seed)
    terms = contest.Terms(10, repeats, budget_s, reuse)
    _contest("w1", made, arms, out, _work(work, "w1"), terms)


@app.command()
def natural(
    out: Out,
    dataset: str = "wordnet",
    rows: Rows = None,
    queries: Queries = 1_000,
    arms: Arms = ALL,
    repeats: Repeats = 5,
    budget_s: Budget = 60.0,
    reuse: Reuse = False,
    seed: Seed = 1,
    work: Work = None,
) -> None:
    """The tenants of a dataset: all arms at equal recall."""
    made = workloads.natural(dataset, rows, queries, seed)
    terms = contest.Terms(10, repeats, budget_s, reuse)
    _contest("natural", made, arms, out, _work(work, "natural"), terms)


@app.command()
def divide(
    out: Out,
    dataset: str = "sift577k",
    rows: Rows = None,
    tenants: Annotated[int, typer.Option(min=2)] = 1_000,
    sharing: float = 13.0,
    queries: Queries = 500,
    seed: Seed = 1,
) -> None:
    """Ways to divide tenants into postings, by rows scanned for recall 0.95; in this process."""
    from bench.tenants import divide as dividing

    made = workloads.w1(dataset, rows, tenants, queries, sharing, seed)
    record = Record(out, "divide", {"k": 10})
    truths = {name: exact(made, asked, 10) for name, asked in made.asked.items()}
    dividing.run(made, truths, record, console.log)
    record.complete()
    _report(out)


@app.command()
def w3(
    out: Out,
    dataset: str = "sift577k",
    rows: Rows = None,
    roles: Annotated[int, typer.Option(min=2)] = 200,
    users: Annotated[int, typer.Option(min=2)] = 1_000,
    queries: Queries = 1_000,
    arms: Arms = "vecstore,hnswlib-shared,faiss-ivf-shared",
    repeats: Repeats = 5,
    budget_s: Budget = 60.0,
    reuse: Reuse = False,
    seed: Seed = 1,
    work: Work = None,
) -> None:
    """Access lists: arms at equal recall, then a role of 10,000 rows granted and revoked."""
    made = workloads.w3(dataset, rows, roles, users, queries, seed=seed)
    terms, folder = contest.Terms(10, repeats, budget_s, reuse), _work(work, "w3")
    _contest("w3", made, arms, out, folder, terms)
    record = Record(out, "roles", {"k": 10})
    arm = contest.Contestant("vecstore", folder / "workload", folder, terms, contest.MODULE)
    with arm.start(1) as child:
        record.data["roles"] = child.ask(
            "call", module="bench.tenants.operations", function="roles"
        )
    record.complete()
    _report(out)


@app.command()
def operations(
    out: Out,
    dataset: str = "sift577k",
    rows: Rows = None,
    tenants: Annotated[int, typer.Option(min=2)] = 1_000,
    sharing: float = 13.0,
    queries: Queries = 1_000,
    arms: Arms = ALL,
    reuse: Annotated[bool, typer.Option(help="Take the builds of w1.")] = True,
    seed: Seed = 1,
    work: Work = None,
) -> None:
    """Insert shared rows, grant, revoke, drop; on the workload and the builds of w1."""
    made = workloads.w1(dataset, rows, tenants, queries, sharing, seed)
    record, folder = Record(out, "operations", {"k": 10}), _work(work, "w1")
    made.save(folder / "workload")
    record.data["workload"] = made.described()
    record.data["operations"] = {}
    for name in _names(arms):
        arm = contest.Contestant(
            name, folder / "workload", folder, contest.Terms(reuse=reuse), contest.MODULE
        )
        console.log(f"building {name}")
        arm.build()
        console.log(f"operations of {name}")
        with arm.start(1) as child:
            found = child.ask("call", module="bench.tenants.operations", function="run")
        record.data["operations"][name] = found
        record.save()
    record.complete()
    _report(out)


@app.command()
def w2(
    out: Out,
    dataset: str = "sift577k",
    rows: Rows = None,
    tenants: Annotated[int, typer.Option(min=2)] = 100_000,
    queries: Queries = 10_000,
    repeats: Repeats = 5,
    reuse: Reuse = False,
    seed: Seed = 1,
    work: Work = None,
) -> None:
    """Very many small tenants: opening, memory of idle ones, first and warm queries."""
    from bench.tenants import saas

    made = workloads.w2(dataset, rows, tenants, queries, seed)
    record = Record(out, "w2", {"k": 10, "repeats": repeats})
    console.log(made.described())
    truths = {name: exact(made, made.asked[name], 10) for name in ("heat", "small")}
    terms = contest.Terms(10, repeats, reuse=reuse)
    saas.run(made, truths, record, _work(work, "w2"), terms, console.log)
    record.complete()
    _report(out)


@app.command("load")
def load_command(
    out: Out,
    dataset: str = "sift577k",
    rows: Rows = None,
    tenants: Annotated[int, typer.Option(min=2)] = 1_000,
    sharing: float = 1.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of each part.")] = 30.0,
    small_rows: Annotated[int, typer.Option(help="Rows of the tenant that asks, about.")] = 500,
    reuse: Reuse = False,
    seed: Seed = 1,
    work: Work = None,
) -> None:
    """A small tenant's p50 and p99 while another one loads at full speed."""
    from bench.tenants import load

    made = workloads.w1(dataset, rows, tenants, 1_000, sharing, seed)
    record = Record(out, "load", {"k": 10, "seconds": seconds})
    terms = contest.Terms(10, reuse=reuse)
    load.run(made, record, _work(work, "load"), terms, seconds, small_rows, console.log)
    record.complete()
    _report(out)


@app.command("report")
def report_command(out: Out) -> None:
    """Write report.md again from the raw results of a folder."""
    _report(out)


def main() -> None:
    """Run the command; user errors become one line and exit status 1."""
    try:
        app()
    except (BenchError, ValueError) as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
