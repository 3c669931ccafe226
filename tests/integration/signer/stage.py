"""A chain, a key with money, the counter contract, and a signer driven by hand: one drain, one look at the chain."""

import itertools
import json
import time
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

import pytest
from django.conf import settings
from django.db.models import F

from dalp.local.servers import AnvilServer
from keyguard import create_key
from signer import (
    Contract,
    Transaction,
    TransactionRequest,
    encode_constructor,
    granting,
    lanes,
    register_chain,
    replacing,
    sending,
    submit_transaction,
    sweeping,
    watching,
)
from signer.custody import asking, handing
from signer.models import Attempt, Chain, Lane
from signer.states import IN_FLIGHT
from tests.ethereumjs import Consensus, EthereumJs

COUNTER = json.loads((Path(__file__).parents[2] / "contracts" / "Counter.json").read_text())
RICH = hex(10**24)


N = TypeVar("N", AnvilServer, EthereumJs)


class AnyStage(ABC, Generic[N]):
    """The signer on a chain of this test's own, whatever node it has."""

    def __init__(self, node: N, **options: Any) -> None:
        self.node = node
        self.rpc = node.rpc
        self.chain = register_chain(31337, "test", [node.url], block_time=0.2, **options)
        self.key = create_key("sender")
        self.fund(self.key.address)
        self.counter = Contract(COUNTER["abi"])
        self.number = 0

    @abstractmethod
    def fund(self, address: str) -> None:
        """Give the address more than a test can spend."""

    @abstractmethod
    def mine(self, blocks: int = 1) -> None:
        """Have the chain make blocks."""

    def mine_what_came(self) -> None:
        """Do for a chain what it does by itself where transactions come in."""

    def submit(self, **fields: Any) -> Transaction:
        """Submit a plain transfer of 1 wei, or what `fields` say."""
        self.number += 1
        given = {"to": "0x" + "11" * 20, "value": 1, "sender": "sender", **fields}
        key = given.pop("idempotency_key", f"request-{self.number}")
        request = TransactionRequest(chain_id=31337, **given)
        return submit_transaction(request, idempotency_key=key)[0]

    def record(self, request_id: int, **fields: Any) -> Transaction:
        """Submit a call that counts `request_id` on the chain."""
        data = self.counter.encode("record", request_id)
        return self.submit(to=self.counter.address, value=0, data=data, **{"gas_limit": 100_000, **fields})

    def counted(self, request_id: int) -> int:
        data = self.counter.encode("counts", request_id)
        answer = self.rpc("eth_call", {"to": self.counter.address, "data": data}, "latest")
        return int(answer, 16)

    def counted_in_all(self) -> int:
        call = {"to": self.counter.address, "data": self.counter.encode("total")}
        return int(self.rpc("eth_call", call, "latest"), 16)

    def deploy_counter(self) -> None:
        data = encode_constructor(COUNTER["abi"], COUNTER["bytecode"])
        row = self.submit(to=None, value=0, data=data)
        self.settle()
        row.refresh_from_db()
        assert row.winner is not None
        assert row.winner.receipt is not None
        self.counter = self.counter.at(row.winner.receipt["contractAddress"])

    @property
    def lane(self) -> Lane:
        return Lane.objects.get(address=self.key.address)

    def drain(self) -> None:
        """Drain the lane, and again as often as a drain rings for the next."""
        while lanes.drain(self.lane.pk):
            pass

    def watch(self) -> None:
        watching.watch(31337)

    def settle(self, seconds: float = 20) -> None:
        """Drain and watch until nothing is on its way."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for lane_id in Lane.objects.values_list("pk", flat=True):
                lanes.drain(lane_id)
            self.mine_what_came()
            self.watch()
            if not Transaction.objects.filter(settled_at__isnull=True).exists():
                return
        left = Transaction.objects.filter(settled_at__isnull=True).values_list("state", "sub_state")
        raise AssertionError(f"not settled: {list(left)}")

    def later(self, seconds: float) -> None:
        """Have so much time pass for all that is in flight."""
        by = timedelta(seconds=seconds)
        Transaction.objects.filter(state__in=IN_FLIGHT).update(
            look_at=F("look_at") - by, broadcast_at=F("broadcast_at") - by
        )
        Attempt.objects.filter(transaction__state__in=IN_FLIGHT).update(
            first_sent_at=F("first_sent_at") - by, last_sent_at=F("last_sent_at") - by
        )

    def sweep(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Do one sweep of the beat's, and what workers do whom it wakes; returns how many lanes it found work in."""
        woken: list[UUID] = []
        # Whoever looked at them last did so a moment ago: else a sweep takes them for somebody's work.
        Lane.objects.update(looked_at=F("looked_at") - timedelta(seconds=sweeping.GRACE_SECONDS + 1))
        with monkeypatch.context() as patch:
            patch.setattr(sweeping, "ring_lane", woken.append)
            sweeping.sweep()
        for lane_id in dict.fromkeys(woken):
            lanes.drain(lane_id)
        return len(set(woken))

    def in_flight(self) -> int:
        return Transaction.objects.filter(state__in=IN_FLIGHT).count()

    def balance(self, address: str | None) -> int:
        return int(self.rpc("eth_getBalance", address, "latest"), 16)

    def mined_nonces(self) -> int:
        return int(self.rpc("eth_getTransactionCount", self.key.address, "latest"), 16)

    def attempts(self, transaction_id: UUID) -> list[Attempt]:
        return list(Attempt.objects.filter(transaction_id=transaction_id).order_by("seq"))


class Stage(AnyStage[AnvilServer]):
    """On anvil."""

    @property
    def anvil(self) -> AnvilServer:
        return self.node

    def fund(self, address: str) -> None:
        self.rpc("anvil_setBalance", address, RICH)

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.rpc("evm_mine")

    def pool(self) -> dict[str, Any]:
        """What waits in the node's pool from our address, by nonce."""
        content = self.rpc("txpool_content")["pending"]
        return dict(next((v for k, v in content.items() if k.lower() == self.key.address.lower()), {}))


def send_as_stranger(stage: Stage, count: int = 1) -> None:
    """Send from our address without the signer, as another program with the same key would."""
    stage.rpc("anvil_impersonateAccount", stage.key.address)
    for _ in range(count):
        stage.rpc("eth_sendTransaction", {"from": stage.key.address, "to": "0x" + "22" * 20, "value": "0x1"})
    stage.rpc("anvil_stopImpersonatingAccount", stage.key.address)


class SecondStage(AnyStage[EthereumJs]):
    """On EthereumJS, with its consensus client in hand. It mines when told, and while `settle` waits."""

    def __init__(self, node: EthereumJs, **options: Any) -> None:
        self.consensus = Consensus(node)
        super().__init__(node, **options)

    def fund(self, address: str) -> None:
        self.node.give(address, 1000 * 10**18)
        self.mine()

    def mine(self, blocks: int = 1) -> None:
        self.consensus.mine(blocks)

    def mine_what_came(self) -> None:
        self.mine(Chain.objects.get().confirmations)

    def restart(self) -> None:
        """Have the node die and come back, its pool empty, and hear of the chain's head again."""
        head = self.consensus.head()
        self.node.kill()
        self.node.start()
        self.consensus.choose(head)


class Crash(BaseException):
    """Stands for the death of the process at a crash point."""


def crash_at(monkeypatch: pytest.MonkeyPatch, name: str, times: int = 1, passed: int = 0) -> None:
    """Have the process "die" at the named crash point. Its lease is given back at once, to keep the tests short.

    passed: how often it gets over the point before.
    """
    reached_so_far = itertools.count()

    def crashpoint(reached: str) -> None:
        if reached == name and passed <= next(reached_so_far) < passed + times:
            raise Crash(name)

    for module in (granting, replacing, sending, watching, handing, asking):
        monkeypatch.setattr(module, "crashpoint", crashpoint)


def wait(monkeypatch: pytest.MonkeyPatch, **knobs: float) -> None:
    """Change how patient the signer is, in seconds: resend_seconds, bump_after_seconds."""
    for name, value in knobs.items():
        monkeypatch.setitem(settings.SIGNER, name, value)
