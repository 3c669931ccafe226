"""Killing a real process at every crash point of every shape of workflow, and having another one finish.

`python -m tests.chaos.crash_sweep FILE` works on the database that the settings name and writes what it found to FILE.
A process of its own, without threads: it forks each victim, which costs milliseconds where a worker's start costs
seconds. All victims die first, so that their leases run out together; then others carry on with all that they left,
of whom the first die over it, too.
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
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from tests.chaos.programs import Program

DIED = 137
AT_ONCE = 2  # processes, one for each core
PATIENCE_SECONDS = 20
RECOVERED_FIRST = 15  # times that a point is passed while recovering, before another dies there

Case = tuple[str, str, int]  # shape, crash point, occurrence


class Sweep:
    """One sweep. It only forks: the children alone touch the engine."""

    def __init__(self, directory: Path) -> None:
        from workflows import crashpoint

        self.directory = directory
        self.programs: list[Program] = []
        # The others' are for what the engine's runs don't do by themselves: sealing, archiving, bulk jobs.
        self.points = sorted(name for name in crashpoint.names if name.startswith(("engine.", "chaos.")))
        self.elsewhere = sorted(set(crashpoint.names) - set(self.points))

    def carry_out(self) -> dict[str, Any]:
        """Return what was reached, who did not die, and what is wrong with what came of it."""
        from tests.chaos.verdict import judge

        reached = self._count()
        cases = list(_cases(reached))
        survivors = self._kill(cases)
        died_again = self._recover()
        return {
            "reached": reached,
            "unreached": sorted(set(self.points).difference(*reached.values())),
            "cases": cases,
            "survivors": survivors,
            "died while recovering": died_again,
            "violations": judge(self.programs).violations,
            "elsewhere": self.elsewhere,
        }

    def _prepare(self, path: str, shape: str) -> "list[Program]":
        from tests.chaos.shapes import SHAPES, Maker

        found = SHAPES[shape](Maker(path, f"{self.directory}/{path}"))
        self.programs += found
        return found

    def _count(self) -> dict[str, dict[str, int]]:
        """Carry each shape out once, unharmed, and return how often each point is reached."""
        from tests.chaos.shapes import SHAPES

        reached = {}
        for number, shape in enumerate(SHAPES):
            programs, file = self._prepare(f"whole{number}", shape), self.directory / f"counts{number}"
            _require(0, _ends([_fork(lambda programs=programs, file=file: _live_counted(programs, file))]))  # type: ignore[misc]
            counts = json.loads(file.read_text())
            reached[shape] = {point: counts[point] for point in self.points if point in counts}
        return reached

    def _kill(self, cases: list[Case]) -> list[Case]:
        """Have a process die in each case; return the cases in which it didn't."""
        survivors = []
        for first in range(0, len(cases), AT_ONCE):
            together = cases[first : first + AT_ONCE]
            pids = [self._victim(first + place, case) for place, case in enumerate(together)]
            survivors += [case for case, code in zip(together, _ends(pids), strict=True) if code != DIED]
        return survivors

    def _victim(self, number: int, case: Case) -> int:
        shape, point, occurrence = case
        programs = self._prepare(f"case{number}", shape)
        return _fork(lambda: _live(programs, f"{point}=exit@{occurrence}"))

    def _recover(self) -> list[str]:
        """Whoever got no answer asks again; others carry on. Return at which points some of those died, too."""
        _require(0, _ends([_fork(lambda: _start(self.programs))]))
        died = []
        for point in self.points:
            fault = f"{point}=exit@{RECOVERED_FIRST}"
            died += [point for code in _ends([_fork(lambda fault=fault: _live([], fault))]) if code == DIED]  # type: ignore[misc]
        _require(0, _ends([_fork(lambda: _live([], "")) for _ in range(AT_ONCE)]))
        return died


def _cases(reached: dict[str, dict[str, int]]) -> Iterator[Case]:
    """Yield each point of each shape at its first occurrence, and at a later one where there is one."""
    for shape, counts in reached.items():
        for point, count in counts.items():
            yield shape, point, 1
            if count > 1:
                yield shape, point, count // 2 + 1


def _live_counted(programs: "list[Program]", file: Path) -> None:
    from workflows import crashpoint

    counts: Counter[str] = Counter()
    crashpoint.watcher = lambda name: counts.update([name])
    _live(programs, "")
    file.write_text(json.dumps(counts))


def _live(programs: "list[Program]", fault: str) -> None:
    """Start the programs and carry them out, and nothing else; without any, carry out whatever there is."""
    from tests.chaos import driving
    from workflows import crashpoint
    from workflows.crashpoints import _parse

    crashpoint._armed = _parse(fault)
    _start(programs)
    family = {"correlation_id": _family(programs[0])} if programs else {}
    driving.drive(PATIENCE_SECONDS, **family)


def _start(programs: "list[Program]") -> None:
    from tests.chaos import driving

    with driving.without_broker():
        for program in programs:
            driving.start(program, correlation_id=_family(program))


def _family(program: "Program") -> str:
    return program.path.partition(".")[0]


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


def _ends(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _require(wanted: int, codes: list[int]) -> None:
    if set(codes) != {wanted}:
        raise AssertionError(f"processes ended with {codes}")


def main() -> None:
    began = time.monotonic()
    django.setup()
    from django.core.management import call_command

    from tests.chaos import driving, verdict  # noqa: F401 - once here, instead of in every child

    call_command("migrate", run_syncdb=True, verbosity=0)
    found = Sweep(Path(tempfile.mkdtemp(prefix="dalp-sweep-"))).carry_out()
    print(
        f"{len(found['cases'])} cases, {time.monotonic() - began:.0f} s, {sum(os.times()[:4]):.0f} s of processor"
    )
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
