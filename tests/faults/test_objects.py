"""Virtual objects under load, with workers that die and freeze: what the callers saw could be the work of one writer.

Clients call `append` and `read` on a few objects and note when each call began and ended. Whatever befalls the workers,
the histories must be linearizable, and nothing acknowledged may be lost or stand twice.
"""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from django.db import OperationalError, connection, connections

from dalp.local.processes import Process
from tests.faults.linearizability import Appended, Read, violations
from tests.faults.test_engine import KILLED, NO_FENCE, QUICK, settle
from tests.sample.objects import Append
from tests.services import Live
from workflows import describe_object, verify_history
from workflows.models import Event, Run, VirtualObjectState
from workflows.states import RunState
from workflows.sweeper import sweep

pytestmark = pytest.mark.sqlite_too

KEYS = ("one", "two", "three")
CLIENTS, CALLS = 5, 16


@dataclass
class Recording:
    """What the clients saw, by key."""

    appends: dict[str, list[Appended]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[str, list[Read]] = field(default_factory=lambda: defaultdict(list))

    def append(self, key: str, value: str) -> None:
        invoked = time.monotonic()
        run = self._begin(key, value)
        while run.state != RunState.SUCCEEDED and time.monotonic() < invoked + 60:
            time.sleep(0.02)
            run.refresh_from_db(fields=["state", "output"])
        done = run.state == RunState.SUCCEEDED
        returned = time.monotonic() if done else None
        self.appends[key].append(Appended(value, invoked, returned, run.output if done else None))

    def _begin(self, key: str, value: str) -> Run:
        """Start the call; again while somebody who is frozen holds the key's row, as the idempotency key allows."""
        while True:
            try:
                return Append(key).append(value).start(idempotency_key=value)
            except OperationalError:
                connection.close()

    def read(self, key: str) -> None:
        invoked = time.monotonic()
        values, version = Append(key).read()
        self.reads[key].append(Read(tuple(values), version, invoked, time.monotonic()))

    def violations(self) -> list[str]:
        found = []
        for key in self.appends:
            final, version = Append(key).read()
            found += [
                f"{key}: {each}" for each in violations(self.appends[key], self.reads[key], final, version)
            ]
        return found


def client(recording: Recording, number: int) -> None:
    chance = random.Random(number)
    try:
        for call in range(CALLS):
            key = chance.choice(KEYS)
            if chance.random() < 0.6:
                recording.append(key, f"{number}-{call}")
            else:
                recording.read(key)
    finally:
        connections.close_all()


class Supervisor:
    """Sees to the workers as an operating system would: thaws the frozen ones late, and starts others for the dead."""

    def __init__(self, live: Live, faults: list[str | None], later: list[str | None]) -> None:
        self.live, self.later = live, later
        self.frozen: set[int] = set()
        self.killed = self.thawed = 0
        self.workers = [live.start_worker(env=QUICK, fault=fault, ready=False) for fault in faults]
        live.wait_until(
            lambda: all("ready." in worker.output() for worker in self.workers), 90, "the workers are ready"
        )

    def look(self) -> None:
        for index, worker in enumerate(self.workers):
            if not worker.alive:
                assert worker.returncode == KILLED, worker.tail()
                self.killed += 1
                fault = self.later.pop(0) if self.later else None
                self.workers[index] = self.live.start_worker(env=QUICK, fault=fault, ready=False)
            elif worker.stopped:
                self.frozen.add(worker.pid)
                if not self.holds_a_run(worker.pid):  # others have taken over what it had
                    self.frozen.remove(worker.pid)
                    self.thawed += 1
                    worker.thaw()

    def holds_a_run(self, pid: int) -> bool:
        return Run.objects.filter(lease_owner__contains=f":{pid}:", lease_until__isnull=False).exists()

    def until(self, done: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, "the clients do not come to an end"
            try:
                sweep()
            except OperationalError:  # a frozen worker holds what the sweep wants; beat would try again, too
                connection.close()
            self.look()
            time.sleep(0.2)

    @property
    def fenced(self) -> int:
        return sum(process.output().count("fenced") for process in self.live.processes)


@pytest.mark.timeout(240)
@pytest.mark.case("E3", "E8", "E41", "E43")
def test_histories_of_objects_are_linearizable_while_their_holders_die_and_freeze(live: Live) -> None:
    faults = [f"{freezing_point(live)}=stop@7", "engine.object_called=exit@9", None]
    supervisor = Supervisor(live, faults, later=["engine.in_record=exit@9"])
    recording = Recording()
    threads = [threading.Thread(target=client, args=(recording, number)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    supervisor.until(lambda: not any(thread.is_alive() for thread in threads), 100)
    number = CLIENTS
    while (
        not supervisor.killed and number < 10 * CLIENTS
    ):  # the others were quicker than the one that is to die
        late = threading.Thread(target=client, args=(recording, number))
        late.start()
        supervisor.until(lambda late=late: not late.is_alive(), 60)  # type: ignore[misc]
        number += 1
    supervisor.until(lambda: not supervisor.frozen and not unfinished(), 30)

    assert recording.violations() == []
    assert all(append.returned for appends in recording.appends.values() for append in appends)
    assert not VirtualObjectState.objects.filter(holder__isnull=False).exists()
    assert list(verify_history()) == []
    recovered = Event.objects.filter(kind="run_recovered").count()
    assert min(supervisor.killed, supervisor.thawed, supervisor.fenced, recovered) > 0, "no fault has struck"


def freezing_point(live: Live) -> str:
    # Frozen inside its transaction, SQLite's one writer would stop everybody: there it is frozen just before.
    return "engine.claimed" if live.database == "sqlite" else "engine.object_called"


def unfinished() -> bool:
    return Run.objects.filter(finished_at__isnull=True).exists()


def overtake_a_frozen_holder(live: Live, **env: str) -> tuple[Process, Recording]:
    """Freeze a worker in a call, let another finish that and carry out two more, and thaw the first.

    Returns it, and what the callers saw.
    """
    frozen = live.start_worker(env={**QUICK, **env}, fault=f"{freezing_point(live)}=stop")
    recording = Recording()
    stale = threading.Thread(target=append_and_close, args=(recording, "stale"))
    stale.start()
    live.wait_until(lambda: frozen.stopped, 40, what="the worker freezes")
    live.redis.client().flushall()
    live.start_worker(env={**QUICK, **env})
    live.wait_until(lambda: sweep() and not stale.is_alive(), 40, what="another worker finishes the call")
    for value in ("x", "y"):
        append_and_close(recording, value)
    recording.read("one")
    assert recording.violations() == []
    frozen.thaw()
    return frozen, recording


def append_and_close(recording: Recording, value: str) -> None:
    try:
        recording.append("one", value)
    finally:
        connections.close_all()


@pytest.mark.case("E8", "E43")
def test_holder_that_was_frozen_in_a_call_writes_nothing_when_it_wakes(live: Live) -> None:
    thawed, recording = overtake_a_frozen_holder(live)
    live.wait_until(lambda: "fenced" in thawed.output(), 30, what="the thawed worker is fenced")
    recording.read("one")
    assert recording.violations() == []
    assert Append("one").read() == (["stale", "x", "y"], 3)


@pytest.mark.case("E43")
@pytest.mark.postgresql("frozen in the middle of a transaction, SQLite's one writer stops everybody")
def test_without_the_fence_the_checker_sees_that_the_stale_holder_overwrote_the_others(live: Live) -> None:
    """The same without epoch, holder and version; and without the constraint of the history, the last line behind them."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE workflows_event DROP CONSTRAINT workflows_event_seq_unique")
    _, recording = overtake_a_frozen_holder(live, **NO_FENCE)
    found = live.wait_until(recording.violations, 30, what="the thawed worker writes")
    assert any("was acknowledged, and is lost" in each for each in found)
    assert not any("fenced" in process.output() for process in live.processes)


@pytest.mark.case("E41")
def test_object_stays_with_a_run_whose_worker_died_and_nobody_overtakes_it(live: Live) -> None:
    dying = live.start_worker(env=QUICK, fault="engine.object_called=exit")
    first = Append("one").append("first").start()
    live.wait_until(lambda: not dying.alive, 40, what="the worker dies")
    assert dying.returncode == KILLED
    second = Append("one").append("second").start()
    status = describe_object("append:one")
    assert (status.holder, status.inbox, status.state) == (first, [second], None)
    live.start_worker(env=QUICK)
    settle(live, first, second)
    assert Append("one").read() == (["first", "second"], 2)
    assert first.events.filter(kind="run_recovered").exists()
