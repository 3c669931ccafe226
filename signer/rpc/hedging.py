"""Waiting for an answer with a plan: after a while ask another endpoint too, tell the other workers, or give up.

Runs in the thread that waits; a second thread exists only while two endpoints are asked at once.
"""

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from signer.rpc.breaker import wants_another
from signer.rpc.connections import readable
from signer.rpc.contacts import Contact, Reply
from signer.rpc.door import Call
from signer.rpc.methods import share

# How soon the answer of the other endpoint is noticed.
SLICE_SECONDS = 0.01


class OvertakenError(Exception):
    """Another endpoint has answered first."""

    def __init__(self, hedge: "Hedge", reply: Reply) -> None:
        super().__init__("overtaken")
        self.hedge, self.reply = hedge, reply


class GivenUpError(Exception):
    """It is not worth a worker's slot to wait on."""


@dataclass(frozen=True)
class Hedge:
    """The same question to another endpoint."""

    contact: Contact
    future: "Future[Reply]"


@dataclass
class Race:
    """The wait for one endpoint's answer to a read. Called with the socket once the request is sent.

    patience: seconds after which another endpoint is asked; seconds: after which the wait ends in any case.
    another: begins to ask the next endpoint, None when there is none. may_wait: asked once, when everybody who was
    asked lets himself be waited for. is_paused: whether the endpoint was given up by others meanwhile.
    """

    patience: float
    seconds: float
    another: Callable[[], Hedge | None]
    may_wait: Callable[[], bool]
    is_paused: Callable[[], bool]
    hedge: Hedge | None = None
    _asked: bool = False

    def __call__(self, sock: socket.socket) -> None:
        began = time.monotonic()
        if readable(sock, min(self.patience, self.seconds)):
            return
        if self.patience >= self.seconds:
            raise TimeoutError
        self.hedge = self.hedge or self.another()
        while True:
            passed = time.monotonic() - began
            if passed >= self.seconds:
                raise TimeoutError
            if readable(sock, min(SLICE_SECONDS, self.seconds - passed)):
                return
            self._look_at_hedge()
            alone = self.hedge is None or passed >= 2 * self.patience
            if alone and not self._asked:
                self._asked = True
                if not self.may_wait():
                    raise GivenUpError
            if self.is_paused():
                raise GivenUpError

    def _look_at_hedge(self) -> None:
        if self.hedge is None or not self.hedge.future.done():
            return
        reply = self.hedge.future.result()
        if all(wants_another(answer) for answer in reply.answers):
            self.hedge = self.another()
            return
        raise OvertakenError(self.hedge, reply)


@dataclass(frozen=True)
class Question:
    """Some reads, to be answered by a moment of `time.monotonic`."""

    calls: Sequence[Call]
    deadline: float
    prove: bool = False
    share: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", share(self.calls))

    def seconds_left(self) -> float:
        return max(0.05, self.deadline - time.monotonic())

    def put_to(self, contact: Contact, waiting: Race | None = None) -> Reply:
        return contact.ask(self.calls, self.seconds_left(), prove=self.prove, waiting=waiting)
