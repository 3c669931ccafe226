"""Approvals: who counts, who comes too late, and who comes at the moment of the timeout."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections

from dalp.local.processes import wait_until
from tests.integration.workflows.waits import Nothing, is_postgresql, overdue, somebody_waits_for_a_lock
from tests.threads import at_once
from workflows import (
    ApprovalRequest,
    Approved,
    NotPermittedError,
    NotPossibleError,
    Workflow,
    step,
    vote,
)
from workflows.engine.drive import advance
from workflows.models import Approval, Run
from workflows.states import RunState
from workflows.testing import Engine

pytestmark = pytest.mark.sqlite_too


class Signed(Workflow[Nothing, list[str]]):
    """Two of the treasury must agree; what was reserved is given back otherwise."""

    class Meta:
        name = "waits.signed"

    @step
    def reserve(self) -> int:
        return 1

    @reserve.undo
    def give_back(self) -> None: ...

    @step
    def sign(self) -> ApprovalRequest:
        return ApprovalRequest(group="treasury", needed=2, timeout=3600)

    @step
    def end(self, sign: Approved) -> list[str]:
        return sign.by


def say(run: Run, actor: str, *, approve: bool = True, group: str = "treasury") -> Approval:
    return vote(
        Approval.objects.get(run=run).pk, actor=actor, groups=[group], approve=approve, reason="because"
    )


def test_approval_needs_as_many_different_members_as_it_says(t: Engine) -> None:
    run = t.run(t.start(Signed, Nothing()))
    say(run, "ada")
    with pytest.raises(NotPossibleError, match="ada has voted"):
        say(run, "ada")
    with pytest.raises(NotPermittedError, match="not a member of treasury"):
        say(run, "eve", group="sales")
    assert t.run(run).state == RunState.WAITING
    say(run, "bob")
    with pytest.raises(NotPossibleError, match="APPROVED already"):
        say(run, "cy", approve=False)
    assert t.run(run).output == ["ada", "bob"]


def test_one_rejection_outweighs_those_who_approved(t: Engine) -> None:
    run = t.run(t.start(Signed, Nothing()))
    say(run, "ada")
    say(run, "bob", approve=False)
    with pytest.raises(NotPossibleError, match="REJECTED already"):
        say(run, "cy")
    assert t.run(run).state == RunState.COMPENSATED
    assert run.error == {
        "code": "APPROVAL_REJECTED",
        "message": "bob rejected it: because",
        "step": "sign",
    }


def test_approval_that_comes_too_late_is_refused(t: Engine) -> None:
    run = t.run(t.start(Signed, Nothing()))
    say(run, "ada")
    t.advance(hours=1)
    assert (t.run(run).state, run.error["code"]) == (RunState.COMPENSATED, "APPROVAL_TIMEOUT")
    with pytest.raises(NotPossibleError, match="WITHDRAWN already"):
        say(run, "bob")


@pytest.mark.case("E34")
def test_vote_at_the_moment_of_the_timeout_is_refused_and_blocks_nobody(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has the run and is about to withdraw the approval; the voter wants both at that moment."""
    run = overdue(Signed.start(Nothing()))
    say(run, "ada")
    with ThreadPoolExecutor(1) as pool:
        voted: list[Future[Any]] = []

        def bob_votes() -> None:
            try:
                say(run, "bob")
            finally:
                connections.close_all()

        withdraw = ApprovalRequest.withdraw

        def with_a_voter(reference: str) -> bool:
            if not voted:
                voted.append(pool.submit(bob_votes))
                if is_postgresql():
                    wait_until(somebody_waits_for_a_lock, 10, what="the voter waits for a lock")
            return withdraw(reference)

        monkeypatch.setattr(ApprovalRequest, "withdraw", with_a_voter)
        advance(run.pk)
        with pytest.raises(NotPossibleError, match="WITHDRAWN already"):
            voted[0].result(20)
    run.refresh_from_db()
    assert (run.state, run.error["code"]) == (RunState.COMPENSATED, "APPROVAL_TIMEOUT")
    assert len(voted) == 1


@pytest.mark.case("E34")
def test_last_vote_and_the_timeout_at_the_same_moment_have_one_winner(quiet: None) -> None:
    for number in range(30):
        run = Signed.start(Nothing())
        advance(run.pk)
        say(run, "ada")
        overdue(run)

        def race(side: int, run: Run = run, head_start: int = number % 10) -> Any:
            if side == 0:
                advance(run.pk)
                return None
            for _ in range(head_start):
                Run.objects.filter(pk=run.pk).exists()
            try:
                return say(run, "bob").state
            except NotPossibleError as error:
                return error

        [_, result] = at_once(2, race)
        advance(run.pk)
        run.refresh_from_db()
        approval = Approval.objects.get(run=run)
        if result == "APPROVED":
            assert (run.state, run.output) == (RunState.SUCCEEDED, ["ada", "bob"])
            assert approval.state == "APPROVED"
        else:
            assert "WITHDRAWN" in str(result)
            assert (run.state, approval.state) == (RunState.COMPENSATED, "WITHDRAWN")
            assert approval.votes.count() == 1
