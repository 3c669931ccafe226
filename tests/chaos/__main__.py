"""`make chaos`: random programs on real workers under random faults, until so many have run; then the verdict."""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalp.local import processes
from tests.chaos.stage import Stage, patiently
from tests.warm import Nursery

if TYPE_CHECKING:
    from tests.chaos.runner import Runner


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="start so many programs")
    parser.add_argument("--seconds", type=float, help="but start none after so long")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two faults, on average")
    parser.add_argument("--only", default="", help="no other faults than those whose names contain this")
    parser.add_argument("--in-flight", type=int, default=240, help="programs under way at the same time")
    parser.add_argument("--directory", type=Path, help="where logs and dumps go; a new one by default")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="dalp-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    # Many die: a cold start of each would leave the machine little time for the work.
    processes.launch = Nursery().launch
    print(f"seed {given.seed}, logs in {directory}", flush=True)
    stage = Stage(directory, given.workers)
    try:
        stage.set_django_up()
        from tests.chaos.runner import Runner  # models are loaded by now

        runner = Runner(stage, given.seed, given.every, given.in_flight, given.only)
        runner.run(given.runs, given.seconds)
        return report(runner, given)
    finally:
        stage.stop()


def report(runner: "Runner", given: argparse.Namespace) -> int:
    """Print what happened; return 0 when nothing went wrong and the faults really struck."""
    from tests.chaos.runner import NOTICED
    from tests.chaos.verdict import describe, judge, repeated_calls

    verdict = patiently(lambda: judge(runner.programs, stopped=frozenset(runner.stopped)))
    counts = runner.counts()
    counts["outside calls made again"] = repeated_calls(runner.programs)
    table("Programs", {"seed": given.seed, **counts})
    table("Faults", dict(sorted(runner.faults.struck.items())))
    table("Violations", {kind: len(found) for kind, found in verdict.violations.items()} or {"none": 0})
    for kind, found in verdict.violations.items():
        for _path, text in found[:5]:
            print(f"  {kind}: {text[:400]}")
    dump(verdict.violations, runner, describe)
    missed = [name for name in NOTICED if not counts[name]]
    for name in missed:
        print(f"  nothing was {name}: the faults did not strike, or nothing noticed them")
    clean = verdict.is_clean and not missed
    print("passed" if clean else f"FAILED; repeat with --seed {given.seed}", flush=True)
    return 0 if clean else 1


def dump(violations: dict[str, list[tuple[str, str]]], runner: "Runner", describe: Any) -> None:
    """Write all that is known of the first programs that went wrong."""
    wrong = {path.partition("/")[0] for found in violations.values() for path, _ in found}
    for program in [each for each in runner.programs if each.path in wrong][:10]:
        file = runner.stage.directory / f"{program.path}.json"
        file.write_text(json.dumps(describe(program), indent=1, default=str))
        print(f"  {program.path}: everything about it is in {file}")


def table(title: str, rows: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, value in rows.items():
        print(f"  {name:34} {value:>10}" if isinstance(value, int) else f"  {name:34} {value:>10.1f}")


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)
