"""Measure DALP on PostgreSQL with fsync on: rates beside plain peers on the same servers, latency, recovery, cost at size."""

import argparse
import signal
import sys
from importlib import import_module

from rich.console import Console

from benchmarks.config import ROUNDS
from benchmarks.contest import Contest
from benchmarks.figures import Figures
from benchmarks.stage import Stage
from dalp.local.processes import LocalError

PARTS = (
    "steps",
    "transactions",
    "clients",
    "costs",
    "signing",
    "custody",
    "latency",
    "starts",
    "recovery",
    "flat",
)


def measure(console: Console, stage: Stage, contest: Contest | Figures, rounds: int) -> None:
    for line in contest.run(rounds):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="measure this alone")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the medians are taken")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    # So that what was started is stopped, and its directories go.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console()
    contests: list[Contest | Figures] = []
    try:
        from benchmarks import report

        machine = report.describe_machine()
        with Stage() as stage:
            setting = report.describe_setting(stage)
            for part in [options.only] if options.only else PARTS:
                # Only now: these import Django's models.
                for contest in import_module(f"benchmarks.{part}").contests(stage):
                    console.print(f"[bold]{contest.title}[/]")
                    measure(console, stage, contest, options.rounds)
                    contests.append(contest)
    except KeyboardInterrupt:
        return 130
    except LocalError as error:
        console.print(f"[red]Stopped:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    for contest in contests:
        report.show(console, contest)
    console.print(
        f"Every round is in {report.save(contests, machine, setting, options.rounds)}", soft_wrap=True
    )
    return 1 if any(isinstance(contest, Figures) and contest.complaints for contest in contests) else 0


if __name__ == "__main__":
    sys.exit(main())
