"""Seals show what leaves no trace in the chains, and an event proves itself without the database."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from tests.integration.workflows.tampering import (
    a_thief_with_the_keys_to_the_database,
    rewrite_history,
    wipe_out,
)
from tests.sample.workflows import Ledger, SampleInput
from tests.threads import at_once
from workflows import NotPossibleError, on_seal, proof_of, verify_history, verify_proof, verify_seals
from workflows.engine.acts import note_act
from workflows.history import seals
from workflows.history.seals import anchor_seals, seal_events
from workflows.models import Act, Event, Run, Seal

pytestmark = [pytest.mark.sqlite_too]
Drive = Callable[[Run], Run]


@pytest.fixture(autouse=True)
def at_any_time(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let seals follow one another without a pause, and none of another test's thoughts."""
    settings.WORKFLOWS = {**settings.WORKFLOWS, "seal_seconds": 0}
    monkeypatch.setattr(seals, "_noted", None)
    monkeypatch.setattr(seals, "_callbacks", [])
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)


@pytest.fixture
def sealed(db: None, drive: Drive) -> list[Run]:
    """Three runs and an act under two seals, and one run that is not sealed yet."""
    runs = [drive(Ledger.start(SampleInput())) for _ in range(2)]
    assert seal_events() == 1
    runs.append(drive(Ledger.start(SampleInput())))
    note_act("auditor", "look", f"run:{runs[0].pk}", "because", amount=1e22)
    assert seal_events() == 1
    drive(Ledger.start(SampleInput()))
    return runs


def problems() -> list[tuple[int, str]]:
    assert list(verify_history()) == [], "the chains show it already"
    return [(fault.number, fault.problem) for fault in verify_seals()]


def test_seals_cover_everything_once_and_follow_one_another(sealed: list[Run]) -> None:
    first, second = Seal.objects.order_by("number")
    assert (first.number, first.first_event, first.first_act, first.previous_hash) == (1, 1, 1, "")
    assert (second.number, second.previous_hash) == (2, first.hash)
    assert (second.first_event, second.first_act) == (first.last_event + 1, first.last_act + 1)
    assert (first.act_count, second.act_count) == (0, 1)
    covered = Event.objects.filter(run__in=sealed)
    assert first.event_count + second.event_count == covered.count()
    assert second.last_event == covered.order_by("pk").last().pk  # type: ignore[union-attr]
    assert problems() == []


def test_nothing_new_makes_no_seal(sealed: list[Run]) -> None:
    assert [seal_events(), seal_events()] == [1, 0]


def test_seals_keep_their_distance(sealed: list[Run], settings: Any) -> None:
    settings.WORKFLOWS = {**settings.WORKFLOWS, "seal_seconds": 60}
    assert seal_events() == 0


def test_more_than_a_seal_holds_becomes_several(sealed: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "LEAVES_MAX", 2)
    assert seal_events() == 3
    while seal_events():
        pass
    assert list(Seal.objects.filter(number__gt=2).values_list("event_count", flat=True)) == [2, 2, 1]
    assert problems() == []


@pytest.mark.case("PE12")
@pytest.mark.parametrize(
    ("tamper", "number", "problem"),
    [
        (lambda runs: wipe_out(runs[0]), 1, "removed"),
        (lambda runs: wipe_out(runs[2]), 2, "removed"),
        (lambda runs: rewrite_history(runs[1], note="nothing happened"), 1, "its root is not that of"),
        (lambda runs: Act.objects.update(actor="nobody"), 2, "its root is not that of"),
        (lambda runs: Act.objects.all().delete(), 2, "covers 1 acts"),
        (lambda runs: Seal.objects.filter(number=1).update(root="0" * 64), 1, "altered"),
        (lambda runs: Seal.objects.filter(number=1).delete(), 2, "seal 1 is missing"),
    ],
    ids=["run gone", "newest gone", "rewritten", "act altered", "act gone", "seal altered", "seal gone"],
)
def test_what_leaves_no_trace_in_the_chains_is_found(
    sealed: list[Run], tamper: Callable[[list[Run]], object], number: int, problem: str
) -> None:
    assert problems() == []
    with a_thief_with_the_keys_to_the_database("workflows_event", "workflows_act", "workflows_seal"):
        tamper(sealed)
    found = problems()
    assert found[0][0] == number
    assert problem in found[0][1]


def test_newest_events_cut_off_with_the_head_are_found(sealed: list[Run]) -> None:
    run = sealed[2]
    with a_thief_with_the_keys_to_the_database():
        Event.objects.filter(run=run, seq__gt=2).delete()
        run.steps.exclude(name="reserve").delete()
        head = Event.objects.get(run=run, seq=2)
        Run.objects.filter(pk=run.pk).update(
            history_seq=2, history_hash=head.hash, state="READY", finished_at=None, output=None
        )
    assert [number for number, _ in problems()] == [2]


def test_an_event_put_in_under_a_seal_is_found(sealed: list[Run]) -> None:
    """With a number that was never used, as every transaction that was rolled back leaves some."""
    spare = Event.objects.order_by("pk").last().pk  # type: ignore[union-attr]
    with a_thief_with_the_keys_to_the_database():
        Event.objects.filter(pk=spare).update(id=-spare)
        Ledger.start(SampleInput())
        assert seal_events() == 1
        assert problems() == []
        Event.objects.filter(pk=-spare).update(id=spare)
    [(number, problem)] = problems()
    assert number == 3
    assert "1 put in" in problem


def test_seals_that_somebody_noted_elsewhere_are_missed_when_all_newer_ones_are_gone(
    sealed: list[Run],
) -> None:
    second = Seal.objects.get(number=2)
    noted = {2: second.hash}
    assert list(verify_seals(noted=noted)) == []
    with a_thief_with_the_keys_to_the_database("workflows_event", "workflows_act", "workflows_seal"):
        second.delete()
        wipe_out(sealed[2])
        Act.objects.all().delete()
    assert problems() == [], "without the note nobody could tell"
    assert [fault.number for fault in verify_seals(noted=noted)] == [2]
    forged = {1: "0" * 64}
    assert [fault.number for fault in verify_seals(noted=forged)] == [1]


def test_an_event_proves_itself_without_the_database(
    sealed: list[Run], django_assert_num_queries: Any
) -> None:
    for event in Event.objects.filter(run__in=sealed):
        proof = json.loads(json.dumps(proof_of(event)))
        with django_assert_num_queries(0):
            assert verify_proof(proof)
            assert verify_proof(proof, seal_hash=proof["seal"]["hash"])
            assert not verify_proof(proof, seal_hash="0" * 64)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("event", "data", {"x": 1}),
        ("event", "hash", "0" * 64),
        ("event", "at", "2020-01-01T00:00:00+00:00"),
        ("event", "run_id", "00000000-0000-7000-8000-000000000000"),
        ("seal", "root", "0" * 64),
        ("seal", "number", 7),
        ("seal", "sealed_at", "2020-01-01T00:00:00+00:00"),
        ("seal", "event_count", 3),
    ],
)
def test_a_proof_that_was_altered_holds_no_more(sealed: list[Run], part: str, name: str, value: Any) -> None:
    proof = proof_of(Event.objects.filter(run=sealed[0])[1])
    proof[part][name] = value
    assert not verify_proof(proof)
    assert not verify_proof({**proof, part: {}})


def test_what_is_not_sealed_yet_has_no_proof(sealed: list[Run]) -> None:
    with pytest.raises(NotPossibleError, match="not sealed yet"):
        proof_of(Event.objects.order_by("pk").last())  # type: ignore[arg-type]


def test_seals_are_anchored_in_their_order_and_once(sealed: list[Run]) -> None:
    asked: list[int] = []

    def anchor(seal: Seal) -> Any:
        asked.append(seal.number)
        if len(asked) == 1:
            raise RuntimeError("the chain does not answer")
        return {"transaction": seal.hash[:8]} if len(asked) > 2 else None

    on_seal(anchor)
    assert [anchor_seals(), anchor_seals()] == [0, 0], "an error and a None both mean: not now"
    assert anchor_seals() == 2
    assert asked == [1, 1, 1, 2]
    assert anchor_seals() == 0
    assert [seal.anchor["transaction"] for seal in Seal.objects.all()] == [
        seal.hash[:8] for seal in Seal.objects.all()
    ]
    assert problems() == []


def test_without_anybody_to_anchor_them_seals_stay_as_they_are(sealed: list[Run]) -> None:
    assert anchor_seals() == 0
    assert not Seal.objects.exclude(anchor=None).exists()


def test_many_sweepers_at_once_seal_once(fresh_db: str) -> None:
    for _ in range(10):
        Ledger.start(SampleInput())
    made = at_once(8, lambda number: seal_events())
    assert sum(made) == 1
    assert Seal.objects.get().event_count == 10
    assert list(verify_seals()) == []


@pytest.mark.postgresql("on SQLite one transaction at a time writes")
def test_what_an_open_transaction_may_yet_commit_is_not_sealed_over(fresh_db: str) -> None:
    """Numbers are given out before the commit: sealing up to the highest that can be seen would miss the lower one."""
    Ledger.start(SampleInput())  # the first one of a workflow notes its shape, which others wait for
    assert seal_events() == 1
    inserted, may_end = threading.Event(), threading.Event()

    def slowly(number: int) -> None:
        if number:
            with transaction.atomic():
                Ledger.start(SampleInput())
                inserted.set()
                assert may_end.wait(30)
            return
        assert inserted.wait(30)
        Ledger.start(SampleInput())  # its event has a higher number, and is committed
        assert Event.objects.count() == 2
        assert [seal_events(), seal_events()] == [0, 0]
        Ledger.start(SampleInput())  # whoever begins later holds nobody up
        may_end.set()

    at_once(2, slowly)
    assert [seal_events(), seal_events()] == [1, 1]
    covered = Seal.objects.values_list("first_event", "last_event", "event_count")
    assert list(covered) == [(1, 1, 1), (2, 3, 2), (4, 4, 1)]
    assert list(verify_seals()) == []


def test_sealing_under_load_misses_nothing(fresh_db: str) -> None:
    enough = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            made = 0
            while made < 3:
                made += seal_events()
            enough.set()
        while not enough.is_set():
            with transaction.atomic():
                Ledger.start(SampleInput())

    at_once(4, work)
    while seal_events():
        pass
    assert sum(Seal.objects.values_list("event_count", flat=True)) == Event.objects.count()
    assert list(verify_seals()) == []
