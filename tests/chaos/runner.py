"""Starting programs, answering them, having faults strike meanwhile; then waiting until everything has come to rest."""

import contextlib
import math
import random
import time
from typing import Any

from tests.chaos.driving import start, unfinished
from tests.chaos.faults import Faults
from tests.chaos.programs import Generator, Program
from tests.chaos.signals import answer_early, answer_waits
from tests.chaos.stage import Stage, patiently
from workflows import NotPossibleError, RunEndedError, cancel_run, pause_run, resume_run
from workflows.models import Event, Run
from workflows.states import RunState

TELL_SECONDS = 60
NOTICED = ("fenced", "recovered", "redelivered")  # each must have happened, or the faults did not strike
REST_LOOKS = 450  # at everything, a fifth of a second apart, without any progress: it is stuck


class Runner:
    """One chaos run. `programs` are those that were started, `stopped` the paths of those that were cancelled."""

    def __init__(self, stage: Stage, seed: int, every: float, in_flight: int, only: str = "") -> None:
        self.stage, self.in_flight = stage, in_flight
        self.random = random.Random(seed + 1)
        self.generator = Generator(seed, str(stage.directory / "outside"))
        (stage.directory / "outside").mkdir()
        self.faults = Faults(stage, seed + 2, every, only)
        self.programs: list[Program] = []
        self.stopped: set[str] = set()
        self.paused: list[Any] = []
        self.seconds = self.rest_seconds = 0.0
        self._told_at = time.monotonic()

    def run(self, runs: int, seconds: float | None) -> None:
        """Start so many programs, none after so many seconds, and wait until all are over or stand still.

        When nobody has noticed the faults by then, it goes on for up to three times as long.
        """
        for _ in range(self.stage.wanted):
            self.stage.start_worker(self.faults.arm())
        self.stage.start_beat()
        began = time.monotonic()
        ends = began + seconds if seconds else math.inf
        while len(self.programs) < runs and time.monotonic() < ends:
            self.faults.tick()
            patiently(lambda: self._feed(runs))
            patiently(answer_waits)
            patiently(self._interfere)
            self._tell(began)
            time.sleep(0.05)
            if time.monotonic() > ends and seconds and ends < began + 3 * seconds and not self._was_noticed():
                ends += 5
        self.seconds = time.monotonic() - began
        self._rest(began)
        self.rest_seconds = time.monotonic() - began - self.seconds

    def _tell(self, began: float) -> None:
        """Say now and then how far it is."""
        if time.monotonic() - self._told_at > TELL_SECONDS:
            self._told_at = time.monotonic()
            left, struck = patiently(lambda: unfinished().count()), sum(self.faults.struck.values())
            print(
                f"{self._told_at - began:5.0f} s: {len(self.programs)} programs started, {left} runs under way, {struck} faults",
                flush=True,
            )

    def _feed(self, runs: int) -> None:
        live = Run.objects.filter(parent__isnull=True, finished_at__isnull=True)
        room = self.in_flight - live.exclude(state=RunState.DEAD_LETTER).count()
        for _ in range(min(room, 20, runs - len(self.programs))):
            self._start(self.generator.next())

    def _start(self, program: Program) -> None:
        # Noted first: if the answer is lost, the same key makes the second try the same run.
        self.programs.append(program)
        priority = self.random.choice((None, None, 3, 9))
        run = patiently(lambda: start(program, priority=priority))
        if self.random.random() < 0.3:
            patiently(lambda: answer_early(run, program))

    def _interfere(self) -> None:
        """Be a person who cancels, pauses and resumes runs."""
        for pk in self.paused:
            _quietly(resume_run, pk)
        self.paused = []
        if not self.programs or self.random.random() > 0.15:
            return
        program = self.random.choice(self.programs[-50:])
        run = Run.objects.get(workflow=f"chaos.{program.workflow}", idempotency_key=program.path, scope="")
        if self.random.random() < 0.5:
            self.paused.append(run.pk)  # before: the pause may be committed and its answer lost
            _quietly(pause_run, run.pk)
        elif program.workflow != "once":
            self.stopped.add(program.path)
            _quietly(cancel_run, run.pk)

    def _rest(self, began: float) -> None:
        """Wait until nothing is under way, or nothing has moved for long."""
        self.faults.heal()
        seen, looks = -1, 0
        while looks < REST_LOOKS:
            self.faults.mend()
            patiently(answer_waits)
            for pk in self.paused:
                patiently(lambda pk=pk: _quietly(resume_run, pk))  # type: ignore[misc]
            if not patiently(lambda: unfinished().exists()):
                return
            events = patiently(Event.objects.count)
            # Counted in looks, not by a clock: this process may itself have been stopped meanwhile.
            seen, looks = events, looks + 1 if events == seen else 0
            self._tell(began)
            time.sleep(0.2)

    def _was_noticed(self) -> bool:
        counts = patiently(self.counts)
        return all(counts[name] for name in NOTICED)

    def counts(self) -> dict[str, Any]:
        """Return the figures of the run."""
        events = Event.objects.values_list("kind", flat=True)
        return {
            "programs": len(self.programs),
            "of them cancelled": len(self.stopped),
            "runs, with children and branches": Run.objects.count(),
            "events": events.count(),
            "seconds": self.seconds,
            "seconds until all was at rest": self.rest_seconds,
            "fenced": self.stage.count_in_logs('"event": "fenced"'),
            "recovered": events.filter(kind="run_recovered").count(),
            "redelivered": self.stage.count_in_logs('"event": "redelivered"'),
            "stopped by a constraint": self.stage.count_in_logs("IntegrityError"),
            "unexpected errors": self.stage.count_in_logs("Traceback"),
        }


def _quietly(act: Any, pk: Any) -> None:
    """Do it unless it comes too late."""
    with contextlib.suppress(RunEndedError, NotPossibleError):
        act(pk, actor="chaos", reason="chance")
