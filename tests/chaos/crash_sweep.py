"""Killing a real process at every crash point of every shape of workflow, and having another one finish.

`python -m tests.chaos.crash_sweep FILE` works on the database that the settings name and writes what it found to FILE.
A process of its own, without threads: it forks each victim, which costs milliseconds where a worker's start costs
seconds. All victims die first, so that their leases run out together; then others carry on with all that they left.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django

DIED = 137
AT_ONCE = 2  # victims, one for each core
PATIENCE_SECONDS = 20


def programs_of(shape: str, path: str, outside: str) -> list[Any]:
    """Return the programs of one shape, in the order in which they are started."""
    from tests.chaos.programs import Act, Program

    def program(workflow: str, acts: dict[str, Act], suffix: str = "", key: str = "") -> Program:
        return Program(workflow=workflow, path=path + suffix, outside=outside, key=key, acts=acts)

    def child(number: int, **act: Any) -> Program:
        acts = {"write1": Act(), "call1": Act(), "write2": Act(**act)}
        return program("short", acts, f"/call2.{number}")

    done, refused = Act(), Act(refuses=True)
    key = f"{path}-key"
    turn = {"read1": done, "call1": Act(do="sleep", seconds=0.05), "bump1": done}
    shapes: dict[str, Callable[[], list[Program]]] = {
        "one after the other": lambda: [
            program(
                "program",
                {
                    "write1": done,
                    "call1": done,
                    "verify1": done,
                    "write2": Act(large=True),
                    "call3": Act(large=True),
                },
            )
        ],
        "tried again": lambda: [
            program("short", {"write1": Act(fails=2), "call1": Act(fails=1), "write2": Act(fails=1)})
        ],
        "undone": lambda: [
            program(
                "program",
                {
                    "write1": done,
                    "verify1": done,
                    "each1": Act(items=2),
                    "call2": Act(undo_sleeps=True),
                    "write2": done,
                    "call3": refused,
                },
            )
        ],
        "waiting": lambda: [
            program(
                "program",
                {
                    "call1": Act(do="signal"),
                    "call2": Act(do="race", seconds=0.1),
                    "call3": Act(do="sleep", seconds=0.05),
                },
            )
        ],
        "item by item": lambda: [
            program("program", {"each1": Act(items=3), "calls1": Act(items=3, do="sleep", seconds=0.02)})
        ],
        "an item refused": lambda: [
            program("program", {"write1": done, "each1": Act(items=3, refused_item=1)})
        ],
        "side by side": lambda: [
            program("program", {"pair1a": done, "pair1b": Act(do="signal"), "write2": done})
        ],
        "with a child": lambda: [
            program(
                "program", {"write1": done, "call2": Act(do="child", children=[child(0)]), "write2": done}
            )
        ],
        "a child refused": lambda: [
            program(
                "program",
                {"write1": done, "call2": Act(do="children", children=[child(0), child(1, refuses=True)])},
            )
        ],
        "one key": lambda: [program("keyed", turn, f".{number}", key) for number in range(3)],
        "an object": lambda: [program("program", {"call1": Act(do="object", ledger=path), "write2": done})],
        "an object, undone": lambda: [
            program("program", {"call1": Act(do="object", ledger=path), "call3": refused})
        ],
        "two queues": lambda: [
            program(
                "queues",
                {"write1": done, "call1": done, "each1": Act(items=2), "write2": done, "call2": done},
            )
        ],
        "at most once": lambda: [program("once", {"write1": done, "once1": done, "write2": done})],
    }
    return shapes[shape]() if shape else [program("short", {}, shape) for shape in shapes]


def shapes() -> list[str]:
    return [program.path for program in programs_of("", "", "")]


class Sweep:
    """One sweep. Its methods fork; only the children touch the engine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs: list[Any] = []
        self.cases: list[tuple[str, str, int]] = []

    def carry_out(self) -> dict[str, Any]:
        """Return what was reached, who did not die, and what is wrong with what came of it."""
        from tests.chaos.verdict import judge
        from workflows import crashpoint

        points = sorted(name for name in crashpoint.names if name.startswith(("engine.", "chaos.")))
        reached = self._count(points)
        self.cases = list(_cases(reached))
        counted = time.monotonic()
        survivors = self._kill()
        killed = time.monotonic()
        self._finish()
        took = f"killed in {killed - counted:.1f} s, finished in {time.monotonic() - killed:.1f} s"
        print(f"{len(self.cases)} cases: {took}, {sum(os.times()[:4]):.1f} s of processor")
        verdict = judge(self.programs)
        return {
            "reached": reached,
            "unreached": [
                point for point in points if not any(point in counts for counts in reached.values())
            ],
            "cases": self.cases,
            "survivors": survivors,
            "violations": verdict.violations,
            "elsewhere": sorted(set(crashpoint.names) - set(points)),
        }

    def _prepare(self, path: str, shape: str) -> list[Any]:
        found = programs_of(shape, path, f"{self.directory}/{path}")
        self.programs += found
        return found

    def _count(self, points: list[str]) -> dict[str, dict[str, int]]:
        """Carry each shape out once, unharmed, and return how often each point is reached."""
        reached = {}
        for number, shape in enumerate(shapes()):
            programs, file = self._prepare(f"whole{number}", shape), self.directory / f"counts{number}"
            _wait_for([_fork(lambda programs=programs, file=file: _live_counted(programs, file))], 0)
            reached[shape] = json.loads(file.read_text())
        return {
            shape: {point: n for point, n in counts.items() if point in points}
            for shape, counts in reached.items()
        }

    def _kill(self) -> list[tuple[str, str, int]]:
        """Have a process die in each case; return the cases in which it didn't."""
        survivors, running = [], []
        for number, case in enumerate(self.cases):
            shape, point, occurrence = case
            programs = self._prepare(f"case{number}", shape)
            fault = f"{point}=exit@{occurrence}"
            running.append((case, _fork(lambda programs=programs, fault=fault: _live_armed(programs, fault))))
            if len(running) == AT_ONCE:
                survivors += _survivors(running)
                running = []
        return survivors + _survivors(running)

    def _finish(self) -> None:
        """Whoever got no answer asks again; others carry on, once the leases of the dead have run out."""
        _wait_for([_fork(lambda: _start(self.programs))], 0)
        _wait_for([_fork(_live_on) for _ in range(AT_ONCE)], 0)


def _cases(reached: dict[str, dict[str, int]]) -> Iterator[tuple[str, str, int]]:
    """Yield each point of each shape at its first occurrence, and at a later one where there is one."""
    for shape, counts in reached.items():
        for point, count in sorted(counts.items()):
            yield shape, point, 1
            if count > 1:
                yield shape, point, count // 2 + 1


def _live_counted(programs: list[Any], file: Path) -> None:
    from workflows import crashpoint

    counts: Counter[str] = Counter()
    crashpoint.watcher = lambda name: counts.update([name])
    _live(programs)
    file.write_text(json.dumps(counts))


def _live_armed(programs: list[Any], fault: str) -> None:
    from workflows import crashpoint
    from workflows.crashpoints import _parse

    crashpoint._armed = _parse(fault)
    _live(programs)


def _start(programs: list[Any]) -> None:
    from tests.chaos import driving

    with driving.without_broker():
        for program in programs:
            driving.start(program, correlation_id=program.path.partition(".")[0])


def _live(programs: list[Any]) -> None:
    from tests.chaos import driving

    _start(programs)
    family = programs[0].path.partition(".")[0]
    driving.drive(PATIENCE_SECONDS, correlation_id=family)


def _live_on() -> None:
    from tests.chaos import driving

    driving.drive(PATIENCE_SECONDS)


def _fork(life: Callable[[], None]) -> int:
    """Start a process that does this and ends; return its id."""
    from django.db import connections

    connections.close_all()  # a connection can't be shared
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        life()
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it was, it must not become a second parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait_for(pids: list[int], wanted: int) -> None:
    for pid in pids:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != wanted:
            raise AssertionError(f"a process ended with {code} instead of {wanted}")


def _survivors(running: list[tuple[tuple[str, str, int], int]]) -> list[tuple[str, str, int]]:
    codes = [(case, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for case, pid in running]
    return [case for case, code in codes if code != DIED]


def main() -> None:
    began = time.monotonic()
    django.setup()
    from django.core.management import call_command

    from tests.chaos import driving, verdict  # noqa: F401 - imported once here, not in every child

    call_command("migrate", run_syncdb=True, verbosity=0)
    found = Sweep(Path(tempfile.mkdtemp(prefix="dalp-sweep-"))).carry_out()
    found["seconds"] = time.monotonic() - began
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
