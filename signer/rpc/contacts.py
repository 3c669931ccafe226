"""An endpoint as a gateway uses it: asked in batches of its size, and only believed when it serves the chain.

Touches no database, so any thread may ask; what was met is left with the endpoint's health.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from signer.errors import (
    ChainMismatchError,
    RpcError,
    RpcNodeError,
    RpcRejectedError,
    RpcTooLargeError,
    RpcTransportError,
)
from signer.rpc import breaker
from signer.rpc.answers import quantity
from signer.rpc.connections import Waiting
from signer.rpc.door import BATCH_SIZE, Call, portion
from signer.rpc.health import Health
from signer.rpc.methods import share
from signer.rpc.transport import CONNECT_SECONDS, Node

PROOF: tuple[Call, ...] = (("eth_chainId", []), ("eth_getBlockByNumber", ["0x0", False]))


@dataclass(frozen=True)
class Identity:
    """What an endpoint must say of itself."""

    chain_id: int
    genesis_hash: str

    def check(self, host: str, proof: Sequence[Any]) -> None:
        """Raise ChainMismatchError for another chain, RpcError when the proof is incomplete."""
        for answer in proof:
            if isinstance(answer, RpcNodeError) and not breaker.turned_away(answer):
                raise RpcTransportError(f"{host} does not say which chain it serves: {answer.message}")
            if isinstance(answer, RpcError):
                raise answer
        found, genesis = quantity(proof[0]), proof[1]
        if found != self.chain_id:
            raise ChainMismatchError(f"{host} serves chain {found}, not {self.chain_id}")
        genesis_hash = genesis.get("hash") if isinstance(genesis, dict) else None
        if not isinstance(genesis_hash, str):
            raise RpcTransportError(f"{host} does not give its first block")
        if genesis_hash.lower() != self.genesis_hash:
            raise ChainMismatchError(
                f"{host} has another genesis block than the one registered for chain {self.chain_id}"
            )


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered to some calls: a result or RpcError for each, and how long the last request took."""

    answers: list[Any]
    seconds: float
    share: float
    is_proven: bool = False


@dataclass(eq=False)
class Contact:
    """One endpoint of a gateway's chain."""

    pk: int
    node: Node
    identity: Identity
    health: Health
    proof_seconds: float
    position: int = 0
    weight: int = 1
    size: int = BATCH_SIZE
    is_behind: bool = False

    @property
    def host(self) -> str:
        return self.node.host

    def ask(
        self, calls: Sequence[Call], seconds: float, *, prove: bool = False, waiting: Waiting | None = None
    ) -> Reply:
        """Return the answers to reads. The proof of the chain, when it is due, travels with them.

        seconds: for each request. waiting: see `Node.request`; what it raises goes to the caller.
        """
        if not (prove or self.proof_is_due()):
            return self._request_all(calls, seconds, waiting)
        if len(calls) + len(PROOF) > self.size:
            reply = self.prove(seconds, waiting)
            return (
                self._request_all(calls, seconds, waiting) if reply.is_proven else self._repeat(reply, calls)
            )
        reply = self._request_all([*PROOF, *calls], seconds, waiting)
        try:
            self.identity.check(self.host, reply.answers[: len(PROOF)])
        except RpcError as error:
            return Reply([error] * len(calls), reply.seconds, reply.share)
        self.health.proven_at = time.monotonic()
        return Reply(reply.answers[len(PROOF) :], reply.seconds, reply.share, is_proven=True)

    def send(self, calls: Sequence[Call], seconds: float, *, waiting: Waiting | None = None) -> Reply:
        """Put raw transactions before the endpoint, each once. A proof that is due comes first, on its own."""
        if self.proof_is_due():
            reply = self.prove(seconds, waiting)
            if not reply.is_proven:
                return self._repeat(reply, calls)
        return self._request_all(calls, seconds, waiting)

    def prove(self, seconds: float, waiting: Waiting | None = None) -> Reply:
        """Ask the endpoint which chain it serves; the reply has one answer: None, or the RpcError."""
        reply = self._request_all(PROOF, seconds, waiting)
        try:
            self.identity.check(self.host, reply.answers)
        except RpcError as error:
            return Reply([error], reply.seconds, reply.share)
        self.health.proven_at = time.monotonic()
        return Reply([None], reply.seconds, reply.share, is_proven=True)

    def proof_is_due(self) -> bool:
        proven_at = self.health.proven_at
        return proven_at is None or time.monotonic() - proven_at >= self.proof_seconds

    def note(self, reply: Reply, *, is_lone: bool, pause_seconds: float) -> None:
        """Learn from a reply. A pause is in force at once in this process, and waits to be written for the others."""
        error = _fault(reply)
        if error is None:
            self.health.answered(reply.seconds, reply.share)
            return
        failures = self.health.failed() if isinstance(error, RpcTransportError) else breaker.FAILURES_MAX
        if failures >= breaker.FAILURES_MAX:
            self.pause(error, is_lone=is_lone, pause_seconds=pause_seconds)

    def pause(self, error: RpcError, *, is_lone: bool, pause_seconds: float) -> None:
        pause = breaker.pause_for(error, is_lone=is_lone, pause_seconds=pause_seconds)
        self.health.begin_pause(pause, time.monotonic())

    def resume(self) -> None:
        self.health.set_pause(None, time.monotonic())

    def _repeat(self, reply: Reply, calls: Sequence[Call]) -> Reply:
        return Reply(reply.answers * len(calls), reply.seconds, reply.share)

    def _request_all(self, calls: Sequence[Call], seconds: float, waiting: Waiting | None) -> Reply:
        """Ask in requests of the endpoint's size; the first that is waited for in vain, or turned away, is the last."""
        answers: list[Any] = []
        self.node.load()
        began = time.monotonic()
        while len(answers) < len(calls):
            part = portion(calls[len(answers) : len(answers) + self.size], self.size)
            began = time.monotonic()
            got = self.node.request(part, seconds, waiting)
            if isinstance(got[0], RpcTooLargeError) and len(part) > 1:
                # It was refused unread, as a whole: this is not a second time.
                self._shrink(len(part))
                continue
            answers += got
            is_slow = breaker.failed(got) and time.monotonic() - began > CONNECT_SECONDS
            if is_slow or all(isinstance(answer, RpcRejectedError) for answer in got):
                answers += [got[-1]] * (len(calls) - len(answers))
        return Reply(answers, time.monotonic() - began, share(calls))

    def _shrink(self, tried: int) -> None:
        self.size = max(1, min(self.size, tried) // 2)
        self.health.unwritten.append(self.size)


def _fault(reply: Reply) -> RpcError | None:
    """Return why the endpoint may have to be left alone; None when it works, whatever it answered."""
    refusal = next((answer for answer in reply.answers if breaker.turned_away(answer)), None)
    if refusal is not None or not breaker.failed(reply.answers):
        first = reply.answers[0] if reply.answers else None
        return first if isinstance(first, ChainMismatchError) else refusal
    last: RpcError = reply.answers[-1]
    return last
