"""The faults, and when they strike: drawn from a seed, all kinds before any comes again."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from dalp.local.processes import Process
from tests.chaos.stage import LEASE_SECONDS, Stage, patiently
from workflows import crashpoint
from workflows.models import Run

POINTS_WITHOUT_A_RUN = ("engine.started",)  # reached where runs are started, not in a worker
# Freezing strikes more often than the rest: it alone makes a worker that believes to hold what it has lost, and where
# the database is restarted meanwhile it is the lost connection that stops the worker, and not the fence.
TIMES = {"worker frozen beyond its lease": 3}


@dataclass
class _Frozen:
    worker: Process
    until: float  # at the latest; sooner when others have taken up its runs
    runs: dict[Any, int]


class Faults:
    """Strikes at the stage when `tick` is called often. `struck` counts the faults by kind."""

    def __init__(self, stage: Stage, seed: int, every: float, only: str = "") -> None:
        """every: seconds between two faults, on average; only: the kinds whose names contain this."""
        self.stage, self.every = stage, every
        self.random = random.Random(seed)
        self.struck: Counter[str] = Counter()
        self.frozen: list[_Frozen] = []
        self._bag: list[str] = []
        self._next = time.monotonic() + every
        points = [name for name in crashpoint.names if name.startswith(("engine.", "chaos."))]
        self._points = sorted(set(points) - set(POINTS_WITHOUT_A_RUN))
        self._arms = not only
        kinds: dict[str, Callable[[], bool | None]] = {
            "worker killed": self._kill,
            "worker frozen beyond its lease": self._freeze,
            "Redis flushed": self._flush,
            "Redis restarted": stage.restart_redis,
            "messages doubled": self._double,
            "PostgreSQL restarted, fast": lambda: stage.restart_postgres(signal.SIGINT),
            "PostgreSQL restarted, immediate": lambda: stage.restart_postgres(signal.SIGQUIT),
            "beat killed": self._kill_beat,
        }
        self._kinds = {kind: strike for kind, strike in kinds.items() if only in kind}

    def tick(self) -> None:
        """Strike if it is time; mind those that were struck before."""
        self.mend()
        if time.monotonic() < self._next:
            return
        if not self._bag:
            self._bag = [kind for kind in self._kinds for _ in range(TIMES.get(kind, 1))]
            self.random.shuffle(self._bag)
        kind = self._bag.pop()
        if self._kinds[kind]() is not False:
            self.struck[kind] += 1
        self._next = time.monotonic() + self.random.uniform(0.5, 1.5) * self.every

    def mend(self) -> None:
        """Thaw what has been frozen for long enough, and replace what is dead."""
        for each in [each for each in self.frozen if self._was_replaced(each)]:
            self.frozen.remove(each)
            if each.worker.alive:
                each.worker.thaw()
        known = [each.worker for each in self.frozen]
        for worker in self.stage.workers:
            if worker.stopped and worker not in known:  # it was armed to freeze at a crash point
                self.struck["worker frozen at a crash point"] += 1
                self._thaw_later(worker)
        for worker in self.stage.bury():
            if worker.returncode == 137:
                self.struck["worker dead at a crash point"] += 1
        while len(self.stage.workers) < self.stage.wanted:
            self.stage.start_worker(self.arm())
        if self.stage.beat is not None and not self.stage.beat.alive:
            self.stage.start_beat()

    def heal(self) -> None:
        """End it: everything runs, nothing is armed any more."""
        for each in self.frozen:
            if each.worker.alive:
                each.worker.thaw()
        self.frozen, self._arms = [], False
        while any(worker.stopped for worker in self.stage.workers):
            for worker in self.stage.workers:
                worker.thaw()
        self.mend()

    def arm(self) -> str:
        """Have a new worker die or freeze somewhere, sometime; or not."""
        if not self._arms or self.random.random() < 0.5:
            return ""
        point, how = self.random.choice(self._points), self.random.choice(("exit", "stop"))
        return f"{point}={how}@{int(10 ** self.random.uniform(0, 3))}"

    def _thaw_later(self, worker: Process) -> None:
        self.frozen.append(_Frozen(worker, time.monotonic() + 8 * LEASE_SECONDS, self._runs_of(worker)))

    def _awake(self) -> list[Process]:
        return [worker for worker in self.stage.workers if worker.alive and not worker.stopped]

    def _kill(self) -> bool:
        awake = self._awake()
        if awake:
            self.random.choice(awake).kill()
        return bool(awake)

    def _freeze(self) -> bool:
        """Freeze a worker that holds a run while another is awake, for otherwise nobody would notice."""
        for _ in range(50):
            awake = self._awake()
            if len(awake) < 2:
                return False
            worker = self.random.choice(awake)
            worker.freeze()
            if self._runs_of(worker):
                self._thaw_later(worker)
                return True
            worker.thaw()
            time.sleep(0.02)
        return False

    def _runs_of(self, worker: Process) -> dict[Any, int]:
        """Return the epochs of the runs that the worker holds."""
        held = Run.objects.filter(lease_until__isnull=False, lease_owner__contains=f":{worker.pid}:")
        return dict(patiently(lambda: list(held.values_list("pk", "epoch"))))

    def _was_replaced(self, each: _Frozen) -> bool:
        """Tell whether others have taken up what it holds."""
        if time.monotonic() > each.until:
            return True
        rows = Run.objects.filter(pk__in=each.runs).values_list("pk", "epoch")
        return bool(each.runs) and all(epoch > each.runs[pk] for pk, epoch in patiently(lambda: list(rows)))

    def _kill_beat(self) -> None:
        if self.stage.beat is not None:
            self.stage.beat.kill()

    def _flush(self) -> None:
        with suppress(redis.RedisError):
            self.stage.redis.client().flushall()

    def _double(self) -> None:
        """Put each waiting message into its queue once more, as a Redis does that fails over to an older state."""
        with suppress(redis.RedisError):
            client = self.stage.redis.client()
            for queue in client.scan_iter("workflows*", _type="list"):
                messages = client.lrange(queue, 0, 200)
                if messages:
                    client.lpush(queue, *messages)
