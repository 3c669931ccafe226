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

from tests.faults.linearizability import Appended, Read, violations
from tests.faults.test_engine import KILLED, QUICK
from tests.sample.objects import Append
from tests.services import Live
from workflows import verify_history
from workflows.models import Event, Run, VirtualObjectState
from workflows.states import RunState
from workflows.sweeper import sweep

pytestmark = pytest.mark.sqlite_too

KEYS = ("one", "two", "three")
FROZEN_SECONDS = 3.5  # beyond the lease of QUICK
CLIENTS, CALLS = 6, 20


@dataclass
class Recording:
    """What the clients saw, by key."""

    appends: dict[str, list[Appended]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[str, list[Read]] = field(default_factory=lambda: defaultdict(list))

    def append(self, key: str, value: str) -> None:
        invoked = time.monotonic()
        run = Append(key).append(value).start(idempotency_key=value)
        while run.state != RunState.SUCCEEDED and time.monotonic() < invoked + 60:
            time.sleep(0.02)
            run.refresh_from_db(fields=["state", "output"])
        done = run.state == RunState.SUCCEEDED
        returned = time.monotonic() if done else None
        self.appends[key].append(Appended(value, invoked, returned, run.output if done else None))

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

    def __init__(self, live: Live, faults: list[str]) -> None:
        self.live = live
        self.frozen_since: dict[int, float] = {}
        self.killed = self.thawed = 0
        self.workers = [live.start_worker(env=QUICK, fault=fault) for fault in faults]

    def look(self) -> None:
        for index, worker in enumerate(self.workers):
            if not worker.alive:
                assert worker.returncode == KILLED, worker.tail()
                self.killed += 1
                self.workers[index] = self.live.start_worker(env=QUICK, ready=False)
            elif worker.stopped:
                since = self.frozen_since.setdefault(worker.pid, time.monotonic())
                if time.monotonic() - since > FROZEN_SECONDS:
                    worker.thaw()
                    self.thawed += 1
                    del self.frozen_since[worker.pid]

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


@pytest.mark.case("E3", "E8", "E41", "E43")
def test_histories_of_objects_are_linearizable_while_their_holders_die_and_freeze(live: Live) -> None:
    # Frozen inside its transaction, SQLite's one writer would stop everybody: there it is frozen just before.
    freeze = "engine.claimed" if live.database == "sqlite" else "engine.object_called"
    supervisor = Supervisor(
        live, [f"{freeze}=stop@7", "engine.object_called=exit@9", "engine.in_record=exit@11"]
    )
    recording = Recording()
    threads = [threading.Thread(target=client, args=(recording, number)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    supervisor.until(lambda: not any(thread.is_alive() for thread in threads), 100)
    supervisor.until(lambda: not supervisor.frozen_since and not unfinished(), 30)

    assert recording.violations() == []
    assert all(append.returned for appends in recording.appends.values() for append in appends)
    assert not VirtualObjectState.objects.filter(holder__isnull=False).exists()
    assert list(verify_history()) == []
    recovered = Event.objects.filter(kind="run_recovered").count()
    assert min(supervisor.killed, supervisor.thawed, supervisor.fenced, recovered) > 0, "no fault has struck"


def unfinished() -> bool:
    return Run.objects.filter(finished_at__isnull=True).exists()
