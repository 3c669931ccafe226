"""Several people at one dead letter, really at the same moment."""

import pytest

from tests.integration.workflows import stopped
from tests.integration.workflows.stopped import Lines, OrderInput, finished, stop_at, the_letter
from tests.threads import at_once
from workflows import (
    NotPossibleError,
    NotReplayableError,
    RunEndedError,
    complete_dead_letter,
    discard_dead_letter,
    fork_run,
    kill_dead_letter,
    kill_run,
    replay_dead_letter,
    skip_dead_letter,
    verify_history,
)
from workflows.engine.decisions import compensate_dead_letter
from workflows.models import Act, DeadLetter, Run

pytestmark = [pytest.mark.sqlite_too, pytest.mark.usefixtures("fresh_db", "script")]
DECISIONS = {
    "replay": replay_dead_letter,
    "complete": lambda pk, **by: complete_dead_letter(pk, value="x", **by),
    "skip": skip_dead_letter,
    "compensate": compensate_dead_letter,
    "discard": discard_dead_letter,
    "kill": kill_dead_letter,
}


def test_of_many_who_decide_at_once_one_is_heard() -> None:
    run = stop_at("ship")
    letter, names = the_letter(), list(DECISIONS)

    def decide(number: int) -> str | None:
        name = names[number % len(names)]
        try:
            DECISIONS[name](letter.pk, actor=f"person {number}", reason="me first")
        except NotReplayableError:
            return None
        return name

    [heard] = [name for name in at_once(12, decide) if name]
    letter.refresh_from_db()
    assert (letter.state, letter.resolution) == ("RESOLVED", heard)
    assert Act.objects.count() == 1
    assert list(verify_history()) == []
    assert finished(run).finished_at


def test_decisions_about_siblings_at_once_join_their_parent() -> None:
    stopped.script.fails = {"pack": stopped.broken()}
    run = Lines.start(OrderInput(lines=[str(number) for number in range(8)]))
    stopped.drive_all()
    stopped.script.fails = {}
    letters = list(DeadLetter.objects.all())
    assert len(letters) == 8
    at_once(8, lambda n: complete_dead_letter(letters[n].pk, value=str(n), actor="ops", reason="by hand"))
    assert finished(run).output == 8
    assert list(verify_history()) == []


def test_parent_killed_while_its_branches_are_decided_about_comes_to_one_end() -> None:
    """Locks are taken from above by everybody: nobody waits for one who waits for him."""
    for _ in range(5):
        stopped.script.fails = {"pack": stopped.broken()}
        run = Lines.start(OrderInput())
        stopped.drive_all()
        stopped.script.fails = {}
        letters = list(DeadLetter.objects.filter(run__parent=run))

        def act(number: int, run: Run = run, letters: list[DeadLetter] = letters) -> None:
            try:
                if number == 0:
                    kill_run(run.pk, actor="ops", reason="enough")
                else:
                    skip_dead_letter(letters[number - 1].pk, actor="ops", reason="without it")
            except (NotReplayableError, RunEndedError):
                pass

        at_once(4, act)
        assert finished(run).state == "CANCELLED"
        assert not Run.objects.filter(finished_at__isnull=True).exists()
    assert list(verify_history()) == []


def test_run_is_forked_once_however_often_one_clicks() -> None:
    run, refusals = stop_at("ship"), []

    def fork(_: int) -> Run | None:
        try:
            return fork_run(run.pk, "ship", actor="ops", reason="once more")
        except NotPossibleError as error:
            refusals.append(error.message)
            return None

    [forked] = [each for each in at_once(6, fork) if each]
    assert finished(forked).state == "SUCCEEDED"
    assert Run.objects.filter(forked_from=run).count() == 1
    assert len([text for text in refusals if f"was forked already, into {forked.pk}" in text]) == 5
