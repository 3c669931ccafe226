"""Measure DALP beside other durable engines that run the same program on this machine."""

import argparse
import signal
import sys

from rich.console import Console

from benchmarks.__main__ import measure
from benchmarks.config import ROUNDS
from benchmarks.stage import Stage
from dalp.local.processes import LocalError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the medians are taken")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    # So that what was started is stopped, and its directories go.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console()
    try:
        from benchmarks import report
        from benchmarks.peers.environment import versions

        machine, peers = report.describe_machine(), versions()
        with Stage() as stage:
            setting = {**report.describe_setting(stage), "peers": peers}
            # Only now: this imports Django's models.
            from benchmarks.peers.contests import contests

            found = []
            for contest in contests(stage):
                measure(console, stage, contest, options.rounds)
                found.append(contest)
    except KeyboardInterrupt:
        return 130
    except LocalError as error:
        console.print(f"[red]Stopped:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    for contest in found:
        report.show(console, contest)
    path = report.save(found, machine, setting, options.rounds, prefix="peers-")
    console.print(f"Every round is in {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
