"""The faults, each kind in its own rhythm; which worker, chain and depth is drawn from a seed."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from django.db.models import Max

import signer.tasks  # noqa: F401 - what it imports registers the crash points
from signer import Transaction, TransactionState
from tests.chaos.stage import patiently
from tests.chaos_signer.stage import Stage
from workflows import crashpoint

REORG_DEPTH_MAX = 3
SIGNING = ["keyguard.intended", "keyguard.signed", "keyguard.concluded", "keyguard.before_head"]


@dataclass
class _Kind:
    name: str
    every: float
    strike: Callable[[], bool]
    at: float = 0.0


class Faults:
    """Strikes at the stage when `tick` is called often. `struck` counts the faults by kind."""

    def __init__(self, stage: Stage, seed: int, kill_every: float) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.struck: Counter[str] = Counter()
        self._points = sorted(name for name in crashpoint.names if name.startswith("signer.")) + SIGNING
        self._arms = True
        self._kinds = [
            _Kind("worker killed", kill_every, self._kill),
            _Kind("Redis flushed", 9, self._flush),
            _Kind("blocks taken back", 8, self._reorganise),
            _Kind("pool forgotten", 23, self._forget),
        ]
        for kind in self._kinds:
            self._later(kind)

    def tick(self) -> None:
        """Replace the dead, and strike with what is due; where it would do nothing now, a little later."""
        self._replace()
        for kind in self._kinds:
            if time.monotonic() >= kind.at:
                kind.at = time.monotonic() + 0.1
                if kind.strike():
                    self._later(kind)
                    self.struck[kind.name] += 1

    def heal(self) -> None:
        """End it: everything runs, answers come back, nothing is armed any more."""
        self._arms, self._kinds = False, []
        for chain in self.stage.chains:
            chain.proxy.chaos = None
        self._replace()

    def _later(self, kind: _Kind) -> None:
        kind.at = time.monotonic() + self.random.uniform(0.7, 1.3) * kind.every

    def _replace(self) -> None:
        for worker in self.stage.bury():
            if worker.returncode == 137:
                self.struck["worker dead at a crash point"] += 1
        while len(self.stage.workers) < self.stage.wanted:
            self.stage.start_worker(self._arm())
        if self.stage.beat is None or not self.stage.beat.alive:
            self.stage.start_beat()

    def _arm(self) -> str:
        """Have every second new worker die at a crash point that it comes by."""
        if not self._arms or self.random.random() < 0.5:
            return ""
        return f"{self.random.choice(self._points)}=exit@{self.random.randint(1, 20)}"

    def _kill(self) -> bool:
        alive = [worker for worker in self.stage.workers if "ready." in worker.output()]
        if alive:
            self.random.choice(alive).kill()
        return bool(alive)

    def _flush(self) -> bool:
        with self.stage.redis.client() as client:
            client.flushall()
        return True

    def _reorganise(self) -> bool:
        """Take back blocks from which something has been concluded already: else nobody would notice."""
        chain = self.random.choice(self.stage.chains)
        head = chain.anvil.block_number()
        confirming = Transaction.objects.filter(
            chain_id=chain.chain_id,
            state=TransactionState.CONFIRMING,
            block_number__gt=head - REORG_DEPTH_MAX,
        )
        newest = patiently(lambda: confirming.aggregate(newest=Max("block_number"))["newest"])
        if newest is None:
            return False
        depth = self.random.randint(head - newest + 1, REORG_DEPTH_MAX)
        chain.miner.reorganise(depth)
        self.struck[f"... {depth} deep"] += 1
        return True

    def _forget(self) -> bool:
        self.random.choice(self.stage.chains).anvil.rpc("anvil_dropAllTransactions")
        return True
