"""Comparing what the runs have done with what the model says of their programs."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from tests.chaos import models, outside
from tests.chaos.expected import Expected, expect
from tests.chaos.programs import SLOTS, Program
from tests.chaos.workflows import Ledger
from workflows import verify_history
from workflows.models import Run, VirtualObjectState
from workflows.states import RunState


@dataclass
class Verdict:
    """The violations by kind, each with the program's path and a sentence."""

    violations: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, path: str, text: str) -> None:
        self.violations[kind].append((path, text))

    def count(self, kind: str) -> int:
        return len(self.violations.get(kind, []))

    @property
    def is_clean(self) -> bool:
        return not any(self.violations.values())


def programs_runs() -> "QuerySet[Run]":
    """Return the runs of programs: not their branches, nor the calls of objects."""
    return Run.objects.filter(branch="", workflow__in=[f"chaos.{name}" for name in SLOTS])


@dataclass
class Facts:
    """What the database and the world show, of all programs at once."""

    runs: dict[str, list[Run]]  # by the path of their program; branches left out
    effects: dict[str, Counter[tuple[str, bool]]]  # by the root's path: (path, undo)
    noted: dict[str, Counter[tuple[str, str]]]  # by the root's path: (path, ledger)

    @classmethod
    def read(cls) -> "Facts":
        runs: dict[str, list[Run]] = defaultdict(list)
        for run in programs_runs().iterator(chunk_size=1000):
            runs[run.input["path"]].append(run)
        effects: dict[str, Counter[tuple[str, bool]]] = defaultdict(Counter)
        for path, undo in models.Effect.objects.values_list("path", "undo").iterator(chunk_size=5000):
            effects[path.partition("/")[0]][path, undo] += 1
        noted: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        for key in VirtualObjectState.objects.filter(key__startswith="chaos.ledger:").values_list(
            "key", flat=True
        ):
            ledger = key.partition(":")[2]
            for path in Ledger(ledger).entries():
                noted[path.partition("/")[0]][path, ledger] += 1
        return cls(dict(runs), dict(effects), dict(noted))


def judge(programs: Iterable[Program], *, stopped: frozenset[str] = frozenset()) -> Verdict:
    """Compare. `stopped`: the paths of programs that somebody cancelled, of which less is known."""
    facts, verdict = Facts.read(), Verdict()
    for program in programs:
        _Judge(program, facts, verdict).judge(was_stopped=program.path in stopped)
    for key, text in _wrong_counters(facts):
        verdict.add("not taking turns", key, text)
    for fault in verify_history():
        verdict.add("history", fault.run_id, f"event {fault.seq}: {fault.problem}")
    return verdict


def _wrong_counters(facts: Facts) -> Iterator[tuple[str, str]]:
    """A counter is as high as there are runs of its key that have raised it and not taken that back."""
    wanted: Counter[str] = Counter()
    for path, runs in facts.runs.items():
        effects = facts.effects.get(path.partition("/")[0], Counter())
        wanted[runs[0].input["key"]] += effects[f"{path}/bump1", False] - effects[f"{path}/bump1", True]
    for counter in models.Counter.objects.all():
        if counter.value != wanted[counter.key]:
            yield counter.key, f"the counter is {counter.value}, and {wanted[counter.key]} runs raised it"


class _Judge:
    def __init__(self, program: Program, facts: Facts, verdict: Verdict) -> None:
        self.program, self.facts, self.verdict = program, facts, verdict
        self.effects = facts.effects.get(program.path, Counter())
        self.calls = outside.calls(program.outside)

    def judge(self, *, was_stopped: bool) -> None:
        if not self._is_over():
            return
        if was_stopped:
            self._judge_stopped()
            return
        expected = expect(self.program)
        uncertain = self._settle_uncertain(expected)
        self._judge_states(expected)
        self._judge_writes(expected, uncertain)
        self._judge_calls(expected)
        self._judge_notes(expected)

    def _judge_notes(self, expected: Expected) -> None:
        found, wanted = self.facts.noted.get(self.program.path, Counter()), Counter(expected.noted.items())
        for path, ledger in sorted((found - wanted).keys()):
            self._add("duplicated", f"{path} stands in ledger {ledger}, {found[path, ledger]} times")
        for path, ledger in sorted((wanted - found).keys()):
            self._add("lost", f"{path} is missing in ledger {ledger}")

    def _add(self, kind: str, text: str) -> None:
        self.verdict.add(kind, self.program.path, text)

    def _is_over(self) -> bool:
        """Tell whether there is anything to compare: an unfinished run has its effects still before it."""
        if self.program.path not in self.facts.runs:
            self._add("lost", "it was started and there is no run of it")
            return False
        for program in self.program.family():
            for run in self.facts.runs.get(program.path, []):
                if run.finished_at is None and not self._may_rest(program, run):
                    self._add(
                        "stuck",
                        f"{program.path} is {run.state}, waiting for {run.waiting_for!r} at {run.operation}",
                    )
                    return False
        return True

    def _may_rest(self, program: Program, run: Run) -> bool:
        if run.state != RunState.DEAD_LETTER:
            return False
        reasons = {letter.reason for letter in run.dead_letters.all()}
        return program.workflow == "once" and reasons == {"uncertain"}

    def _settle_uncertain(self, expected: Expected) -> set[str]:
        """Drop from the expectation what follows a step that a person must decide on; return the paths dropped."""
        dropped = set()
        for path, runs in self.facts.runs.items():
            if path in expected.states and runs[0].state == RunState.DEAD_LETTER:
                expected.states[path] = {RunState.DEAD_LETTER}
                expected.outputs.pop(path, None)
                dropped |= {f"{path}/write2", f"{path}/end"}
        return dropped

    def _judge_states(self, expected: Expected) -> None:
        for path, states in expected.states.items():
            runs = self.facts.runs.get(path, [])
            if len(runs) != 1:
                self._add("lost" if not runs else "duplicated", f"{path} has {len(runs)} runs")
            elif runs[0].state not in states:
                self._add("wrong state", f"{path} is {runs[0].state}, not {sorted(states)}: {runs[0].error}")
            elif path in expected.outputs and runs[0].output != expected.outputs[path]:
                self._add("wrong output", f"{path}: {runs[0].output} instead of {expected.outputs[path]}")
        for program in self.program.family():
            if program.path not in expected.states and program.path in self.facts.runs:
                self._add("duplicated", f"{program.path} was started, and should not have been")

    def _judge_writes(self, expected: Expected, dropped: set[str]) -> None:
        wanted = Counter([(path, False) for path in expected.writes - dropped])
        wanted.update((path, True) for path in expected.undone_writes)
        for effect in sorted((self.effects | wanted).keys()):
            self._compare(effect, self.effects[effect], wanted[effect])

    def _compare(self, effect: tuple[str, bool], found: int, wanted: int) -> None:
        text = f"{'the undo of ' if effect[1] else ''}{effect[0]} was written {found} times, not {wanted}"
        if found > wanted:
            self._add("duplicated", text)
        elif found < wanted:
            self._add("lost", text)

    def _judge_calls(self, expected: Expected) -> None:
        called = {path for path, _ in self.calls}
        must = expected.calls | {f"undo:{path}" for path in expected.undone_calls}
        may = expected.may_call | {f"undo:{path}" for path in expected.may_undo}
        for path in sorted(must - called):
            self._add("lost", f"{path} was never called")
        for path in sorted(called - must - may):
            self._add("duplicated", f"{path} was called, and should not have been")
        self._judge_keys(expected)

    def _judge_keys(self, expected: Expected) -> None:
        keys: dict[str, set[str]] = defaultdict(set)
        for path, key in self.calls:
            keys[path].add(key)
        for path, different in keys.items():
            if len(different) > 1:
                self._add("duplicated", f"{path} was called with {len(different)} keys")
        for path in expected.at_most_once:
            times = sum(count for (called, _), count in self.calls.items() if called == path)
            if times > 1:
                self._add("duplicated", f"{path} may be called once, and was {times} times")

    def _judge_stopped(self) -> None:
        """Whatever it had done when it was stopped is taken back once; what it had not done, isn't."""
        for (path, ledger), times in self.facts.noted.get(self.program.path, Counter()).items():
            if times > 1:
                self._add("duplicated", f"{path} stands in ledger {ledger}, {times} times")
        for program in self.program.family():
            for run in self.facts.runs.get(program.path, []):
                self._judge_balance(program, run)

    def _judge_balance(self, program: Program, run: Run) -> None:
        own = {path: undo for path, undo in self.effects if path.rpartition("/")[0] == program.path}
        for path in own:
            done, undone = self.effects[path, False], self.effects[path, True]
            back = run.state != RunState.SUCCEEDED and not path.endswith("/end")
            if done > 1 or undone > 1:
                self._add("duplicated", f"{path} was written {done} times and undone {undone} times")
            elif undone != (done if back else 0):
                self._add(
                    "lost",
                    f"{path} was written {done} times, undone {undone} times; {program.path} is {run.state}",
                )


def repeated_calls(programs: Iterable[Program]) -> int:
    """Return how many outside calls were made again, with the key of the first."""
    return sum(count - 1 for program in programs for count in outside.calls(program.outside).values())


def describe(program: Program) -> dict[str, Any]:
    """Return all rows of a program's runs, for whoever looks for what went wrong."""
    paths = {each.path for each in program.family()}
    runs = [run for run in programs_runs() if run.input["path"] in paths]
    everything = Run.objects.filter(correlation_id__in={run.correlation_id for run in runs}).order_by("pk")
    return {
        "program": program.model_dump(exclude_defaults=True),
        "effects": list(models.Effect.objects.filter(path__startswith=f"{program.path}/").values()),
        "calls": [[*call, count] for call, count in outside.calls(program.outside).items()],
        "runs": [_rows(run) for run in everything],
    }


def _rows(run: Run) -> dict[str, Any]:
    columns = {field.attname: getattr(run, field.attname) for field in run._meta.concrete_fields}
    return {
        **columns,
        "steps": list(run.steps.values()),
        "waits": list(run.waits.values()),
        "signals": list(run.signals.values()),
        "dead_letters": list(run.dead_letters.values()),
        "events": list(run.events.order_by("seq").values("seq", "kind", "at", "data")),
    }
