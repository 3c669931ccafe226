"""Schedules: each instant starts one run, whoever sweeps, dies, edits or changes the clock on the wall."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError

from tests.services import Live
from tests.threads import at_once
from workflows import clock
from workflows.models import Run
from workflows.schedules import firing
from workflows.schedules.cron import CronError
from workflows.schedules.firing import TURNS_MAX, fire_due_schedules
from workflows.schedules.models import Schedule, Tick
from workflows.sweeper import sweep
from workflows.testing import engine

pytestmark = pytest.mark.sqlite_too

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SetClock = Callable[[datetime], None]


@pytest.fixture
def at(set_clock: SetClock) -> SetClock:
    set_clock(NOON)
    return set_clock


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Make a crash point raise once, as a lost connection would."""

    def arm(name: str) -> None:
        def reached(point: str) -> None:
            if point == name:
                monkeypatch.undo()
                raise ConnectionError(name)

        monkeypatch.setattr(firing, "crashpoint", reached)

    return arm


def schedule(name: str = "nightly", cron: str = "0 * * * *", **columns: Any) -> Schedule:
    return Schedule.objects.create(**{"name": name, "workflow": "sample.ledger", "cron": cron, **columns})


def fired(row: Schedule | None = None) -> list[tuple[datetime, str]]:
    ticks = Tick.objects.filter(schedule=row) if row else Tick.objects.all()
    return [(tick.due_at, tick.outcome) for tick in ticks.order_by("due_at")]


def hours(*numbers: int) -> list[tuple[datetime, str]]:
    return [(NOON + n * HOUR, "started") for n in numbers]


# --- One run per instant ------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_instant_starts_one_run_and_the_next_is_planned(at: SetClock) -> None:
    row = schedule(input={"key": "a"})
    assert row.next_at == NOON + HOUR, "an instant is in the future when it is planned"
    assert fire_due_schedules() == 0
    at(NOON + HOUR + timedelta(seconds=2))
    assert sweep()["fired"] == 1
    assert fire_due_schedules() == 0
    run, tick = Run.objects.get(), Tick.objects.get()
    assert (run.scope, run.idempotency_key) == ("schedule", "schedule:nightly:2026-05-01T13:00:00+00:00")
    assert (run.workflow, run.input["key"]) == ("sample.ledger", "a")
    assert (tick.run_id, tick.due_at, tick.late_by_seconds) == (run.pk, NOON + HOUR, 2)
    row.refresh_from_db()
    assert (row.next_at, row.last_at, row.last_error) == (NOON + 2 * HOUR, NOON + HOUR, None)


@pytest.mark.case("E30")
def test_many_sweepers_at_once_start_one_run_per_instant(fresh_db: str, at: SetClock) -> None:
    rows = [schedule(f"s{n}", catch_up="all") for n in range(3)]
    at(NOON + 5 * HOUR)
    taken = at_once(6, lambda _: fire_due_schedules())
    while more := fire_due_schedules():
        taken.append(more)
    assert sum(taken) == Run.objects.count() == 15
    for row in rows:
        assert fired(row) == hours(1, 2, 3, 4, 5)
        started = (
            Tick.objects.filter(schedule=row).order_by("due_at").values_list("run__created_at", flat=True)
        )
        assert list(started) == sorted(started), "catching up goes in order"


@pytest.mark.django_db
@pytest.mark.case("E30")
@pytest.mark.parametrize(
    ("zone", "cron", "sweeps", "expected"),
    [
        ("Europe/Berlin", "30 2 * * *", ["2026-03-29 00:59", "2026-03-29 01:00", "2026-03-29 01:30"], 1),
        ("Europe/Berlin", "30 2 * * *", ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"], 1),
        ("Europe/Berlin", "30 * * * *", ["2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"], 3),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            ["2026-04-04 14:45", "2026-04-04 15:15", "2026-04-04 16:15"],
            1,
        ),
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            ["2026-10-03 15:29", "2026-10-03 15:30", "2026-10-03 15:45"],
            1,
        ),
    ],
)
def test_where_the_clock_is_changed(
    at: SetClock, zone: str, cron: str, sweeps: list[str], expected: int
) -> None:
    instants = [datetime.fromisoformat(f"{text}+00:00") for text in sweeps]
    at(instants[0] - HOUR)
    schedule(cron=cron, timezone=zone)
    for instant in instants:
        at(instant)
        fire_due_schedules()
    assert Run.objects.count() == Tick.objects.count() == expected
    assert {tick.late_by_seconds for tick in Tick.objects.all()} == {0}


@pytest.mark.case("E30")
@pytest.mark.parametrize(("point", "exist"), [("schedules.in_turn", 0), ("schedules.after_turn", 1)])
def test_an_error_on_either_side_of_the_commit_neither_loses_nor_doubles(
    fresh_db: str, at: SetClock, crash_at: Callable[[str], None], point: str, exist: int
) -> None:
    schedule()
    now = NOON + HOUR
    crash_at(point)
    with pytest.raises(ConnectionError):
        firing.fire_next(Schedule.objects.get().pk, now)
    assert Run.objects.count() == Tick.objects.count() == exist
    assert firing.fire_next(Schedule.objects.get().pk, now) is (None if exist else False)
    assert fired() == hours(1)
    assert Run.objects.count() == 1


@pytest.mark.case("E30")
@pytest.mark.parametrize(("point", "exist"), [("schedules.in_turn", 0), ("schedules.after_turn", 1)])
def test_a_sweeper_killed_on_either_side_of_the_commit_neither_loses_nor_doubles(
    live: Live, point: str, exist: int
) -> None:
    row = schedule(cron="0 0 1 1 *")
    due = row.updated_at - MINUTE
    Schedule.objects.update(next_at=due)
    code = "from workflows.schedules.firing import fire_due_schedules; fire_due_schedules()"
    killed = live.run("manage.py", "shell", "-c", code, env={"DALP_FAULT": f"{point}=exit"})
    assert killed.returncode == 137
    assert Run.objects.count() == Tick.objects.count() == exist
    assert live.run("manage.py", "shell", "-c", code).returncode == 0
    assert fired() == [(due, "started")]
    assert Run.objects.count() == 1
    assert Schedule.objects.get().next_at == row.next_at, "the first of January"


@pytest.mark.django_db
def test_the_engine_for_tests_comes_to_a_schedules_times_when_its_clock_is_put_forward() -> None:
    with engine() as t:
        schedule(cron="0 0 * * *")
        t.advance(days=3)
    assert [run.state for run in Run.objects.all()] == ["SUCCEEDED"] * 3
    assert {tick.outcome for tick in Tick.objects.all()} == {"started"}
    assert max(tick.late_by_seconds for tick in Tick.objects.all()) < 1


# --- After a downtime ---------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.case("E31")
@pytest.mark.parametrize(
    ("policy", "expected", "missed"),
    [
        ("none", [(NOON + HOUR, "skipped")], 24),
        ("last", [(NOON + HOUR, "skipped"), (NOON + 24 * HOUR, "started")], 23),
        ("all", hours(*range(1, 25)), 0),
    ],
)
def test_a_day_without_a_sweeper(at: SetClock, policy: str, expected: Any, missed: int) -> None:
    row = schedule(catch_up=policy)
    at(NOON + DAY + 30 * MINUTE)
    while fire_due_schedules():
        pass
    assert fired(row) == expected
    assert sum(tick.missed for tick in Tick.objects.all()) == missed
    assert Run.objects.count() == sum(outcome == "started" for _, outcome in expected)
    row.refresh_from_db()
    assert row.next_at == NOON + 25 * HOUR


@pytest.mark.django_db
@pytest.mark.case("E31")
def test_an_instant_that_is_due_just_now_is_not_missed(at: SetClock) -> None:
    schedule(catch_up="none")
    at(NOON + DAY + timedelta(seconds=5))
    while fire_due_schedules():
        pass
    assert fired() == [(NOON + HOUR, "skipped"), (NOON + DAY, "started")]


@pytest.mark.django_db
@pytest.mark.case("E31")
def test_a_backlog_starts_in_portions_and_keeps_nobody_waiting(at: SetClock) -> None:
    minutes = schedule("minutes", "* * * * *", catch_up="all")
    hourly = schedule("hourly")
    at(NOON + 200 * MINUTE)
    assert fire_due_schedules() == TURNS_MAX
    # Its two turns: the older instants skipped, the newest fired.
    assert fired(hourly) == [(NOON + HOUR, "skipped"), (NOON + 3 * HOUR, "started")]
    assert fired(minutes) == [(NOON + n * MINUTE, "started") for n in range(1, TURNS_MAX - 1)]
    assert [fire_due_schedules(), fire_due_schedules(), fire_due_schedules()] == [TURNS_MAX, 2, 0]
    assert len(fired(minutes)) == 200


@pytest.mark.django_db
@pytest.mark.case("E31")
def test_more_schedules_than_a_portion_are_all_fired_when_they_are_due(at: SetClock) -> None:
    for number in range(TURNS_MAX + 20):
        schedule(f"s{number}")
    at(NOON + HOUR)
    assert fire_due_schedules() == TURNS_MAX + 20


# --- Schedules that cannot work -----------------------------------------------------------------------------


@pytest.mark.django_db
def test_one_bad_schedule_stops_none_of_the_others(at: SetClock, caplog: pytest.LogCaptureFixture) -> None:
    unknown = schedule("a unknown", workflow="sample.gone")
    invalid = schedule("b invalid", input={"times": "often"})
    broken = schedule("c broken")
    good = schedule("d good")
    Schedule.objects.filter(pk=broken.pk).update(timezone="Europe/Atlantis")
    at(NOON + HOUR)
    assert fire_due_schedules() == 4
    assert fired(good) == hours(1)
    errors = {}
    for row in (unknown, invalid, broken):
        row.refresh_from_db()
        tick = Tick.objects.get(schedule=row)
        assert (tick.outcome, tick.run, tick.error) == ("failed", None, row.last_error)
        errors[row.name[0]] = (row.last_error or {})["code"], row.next_at
    assert errors == {
        "a": ("WORKFLOW_UNKNOWN", NOON + 2 * HOUR),
        "b": ("WORKFLOW_INPUT_INVALID", NOON + 2 * HOUR),
        "c": ("SCHEDULE_UNREADABLE", None),
    }
    assert "times: Input should be a valid integer" in (invalid.last_error or {})["message"]
    assert "Atlantis" in (broken.last_error or {})["message"]
    assert Run.objects.count() == 1
    alarms = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(alarms) == 3


@pytest.mark.django_db
def test_an_error_that_nobody_foresaw_is_the_ticks(at: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any, **__: Any) -> None:
        Run.objects.create(workflow="half", version=1, fingerprint="", queue="", input={}, input_hash="")
        raise KeyError("boom")

    row = schedule()
    at(NOON + HOUR)
    monkeypatch.setattr(firing, "start_workflow", explode)
    assert fire_due_schedules() == 1
    row.refresh_from_db()
    assert row.last_error == {"code": "UNEXPECTED_KEYERROR", "message": "'boom'"}
    assert not Run.objects.exists(), "what it had done half-way is undone"
    monkeypatch.undo()
    monkeypatch.setattr(clock, "now", lambda: NOON + 2 * HOUR)
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    fire_due_schedules()
    row.refresh_from_db()
    assert (row.last_error, Run.objects.count()) == (None, 1)


@pytest.mark.django_db
def test_trouble_with_the_database_costs_time_and_no_instant(
    at: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule("a")
    schedule("b")
    start, calls = firing.start_workflow, []

    def deadlock_first(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise OperationalError("deadlock detected")
        return start(*args, **options)

    at(NOON + HOUR)
    monkeypatch.setattr(firing, "start_workflow", deadlock_first)
    assert fire_due_schedules() == 1
    assert fire_due_schedules() == 1
    assert fired() == 2 * hours(1)


# --- Edits --------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_edit_neither_swallows_what_is_due_nor_brings_back_what_was_done(at: SetClock) -> None:
    row = schedule()
    at(NOON + HOUR)
    row.cron = "30 * * * *"
    row.save()
    assert row.next_at == NOON + HOUR, "due, and not dealt with yet"
    fire_due_schedules()
    assert fired() == hours(1)
    row.cron = "0 * * * *"
    row.save()
    row.refresh_from_db()
    assert row.next_at == NOON + 2 * HOUR
    Schedule.objects.update(next_at=NOON + HOUR)  # by hand, against all advice
    fire_due_schedules()
    assert Run.objects.count() == 1
    row.refresh_from_db()
    assert row.next_at == NOON + 2 * HOUR


@pytest.mark.django_db
def test_a_form_that_was_open_for_long_overwrites_nothing_of_the_sweepers(at: SetClock) -> None:
    row = schedule()
    opened = Schedule.objects.get()
    at(NOON + HOUR)
    fire_due_schedules()
    opened.input = {"key": "new"}
    opened.save()
    row.refresh_from_db()
    assert (row.next_at, row.last_at, row.input) == (NOON + 2 * HOUR, NOON + HOUR, {"key": "new"})


@pytest.mark.django_db
def test_a_turn_that_was_decided_before_an_edit_is_not_taken(
    at: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = schedule()
    at(NOON + HOUR)
    decide = firing.take_turn

    def edited_meanwhile(*args: Any) -> Any:
        turn = decide(*args)
        monkeypatch.setattr(firing, "take_turn", decide)
        monkeypatch.setattr(clock, "now", lambda: NOON + HOUR + timedelta(seconds=1))
        edited = Schedule.objects.get()
        edited.cron = "30 * * * *"
        edited.save()
        return turn

    monkeypatch.setattr(firing, "take_turn", edited_meanwhile)
    assert fire_due_schedules() == 0
    assert fire_due_schedules() == 1
    row.refresh_from_db()
    assert (fired(), row.next_at) == (hours(1), NOON + 90 * MINUTE)


@pytest.mark.django_db
def test_what_would_have_come_in_a_pause_is_not_caught_up_on(at: SetClock) -> None:
    row = schedule(catch_up="all")
    row.enabled = False
    row.save()
    assert row.next_at is None
    at(NOON + 5 * HOUR + MINUTE)
    assert fire_due_schedules() == 0
    row.enabled = True
    row.save(update_fields=["enabled"])
    assert row.next_at == NOON + 6 * HOUR


@pytest.mark.django_db
def test_nothing_comes_before_the_start_or_from_the_end_on(at: SetClock) -> None:
    row = schedule(starts_at=NOON + 3 * HOUR, ends_at=NOON + 5 * HOUR, catch_up="all")
    assert row.next_at == NOON + 3 * HOUR
    at(NOON + DAY)
    while fire_due_schedules():
        pass
    assert fired() == hours(3, 4)
    row.refresh_from_db()
    assert row.next_at is None
    row.ends_at = None
    row.save()
    assert row.next_at == NOON + 25 * HOUR


@pytest.mark.django_db
def test_update_or_create_declares_a_schedule_in_code(at: SetClock) -> None:
    for cron in ("0 * * * *", "30 * * * *"):
        Schedule.objects.update_or_create(name="n", defaults={"workflow": "sample.ledger", "cron": cron})
    assert Schedule.objects.get().next_at == NOON + 30 * MINUTE


# --- Checks -------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("columns", "field", "said"),
    [
        ({"cron": "61 * * * *"}, "cron", "Minute '61' cannot be read: 0 to 59"),
        ({"timezone": "Europe/Berln"}, "timezone", "did you mean Europe/Berlin"),
        ({"workflow": "sample.leger"}, "workflow", "There is no workflow 'sample.leger'; did you mean"),
        ({"input": {"times": "x"}}, "input", "times: Input should be a valid integer"),
        ({"input": {"tmes": 1}}, "input", "tmes: SampleInput has no such field, only fail, key, outside"),
        ({"input": [1]}, "input", "must be a JSON object with the fields of SampleInput"),
        ({"input": {"key": "\x00"}}, "input", "NUL"),
        ({"ends_at": NOON, "starts_at": NOON + HOUR}, "__all__", "The end must come after the start"),
        ({"name": "taken"}, "name", "already exists"),
    ],
)
def test_mistakes_are_named_at_their_fields(columns: dict[str, Any], field: str, said: str) -> None:
    schedule("taken")
    row = Schedule(**{"name": "n", "workflow": "sample.ledger", "cron": "0 * * * *", **columns})
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert set(caught.value.message_dict) == {field}
    assert said in " ".join(caught.value.message_dict[field])


@pytest.mark.django_db
def test_what_cannot_be_read_is_not_stored(at: SetClock) -> None:
    with pytest.raises(CronError):
        schedule(cron="soon")
    with pytest.raises(IntegrityError):
        schedule(starts_at=NOON + HOUR, ends_at=NOON)
