"""Command line: ``python -m bench.churn --out FOLDER``, or ``report --out FOLDER`` alone."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.channel import BenchError
from bench.churn.arms import ARMS
from bench.churn.report import write_report
from bench.churn.run import Terms, run
from bench.churn.stream import make_stream
from bench.tenants.records import Record

COMMAND = "churn"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.churn", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "report"), default="run")
    parser.add_argument("--dataset", default="sift")
    parser.add_argument("--rows", type=int, default=500_000, help="rows that stand")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.05, help="of the rows, replaced a round")
    parser.add_argument("--arms", default=",".join(ARMS), help="of " + ", ".join(ARMS))
    parser.add_argument("--queries", type=int, default=1_000, help="of each round")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--quiet-s", type=float, default=1.0, help="seconds of quiet queries")
    parser.add_argument(
        "--rows-s", type=int, default=2_000, help="rows replaced a second; 0: at full speed"
    )
    parser.add_argument("--maintenance", default="background", choices=("background", "inline"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=None, help="folder for the stores")
    parser.add_argument("--out", type=Path, required=True, help="results folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and write the report; the exit status."""
    given = _parser().parse_args(arguments)
    try:
        if given.what == "run":
            _run(given)
        write_report(given.out)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(given: argparse.Namespace) -> None:
    names = [name for name in given.arms.split(",") if name]
    unknown = sorted(set(names) - set(ARMS))
    if unknown or not names:
        raise BenchError(f"--arms is {given.arms!r}; name some of {', '.join(ARMS)}.")
    settings = {
        key: getattr(given, key)
        for key in (
            "dataset",
            "rows",
            "rounds",
            "share",
            "arms",
            "queries",
            "k",
            "rows_s",
            "maintenance",
            "seed",
        )
    }
    stream = make_stream(given.dataset, given.rows, given.rounds, given.share, given.seed)
    record = Record(given.out, COMMAND, settings)
    terms = Terms(given.queries, given.k, given.quiet_s, given.rows_s, given.maintenance)
    with tempfile.TemporaryDirectory(dir=given.work, prefix="churn-") as work:
        run(stream, names, Path(work) / "stores", terms, record, _say)
    record.complete()


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
