"""Asking several endpoints the same thing at once, and not waiting for the last one longer than it is worth."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial

from signer.errors import RpcTransportError
from signer.rpc.contacts import Contact, Reply

Work = Callable[[Contact], Reply]
Replies = Mapping[Contact, Reply]


@dataclass(frozen=True)
class Gathered:
    """Replies that came in time, and the calls that go on."""

    replies: Replies
    late: Mapping[Contact, "Future[Reply]"]


@dataclass
class Asked:
    """Contacts at work, each in a thread of its own, and what has come of it."""

    running: dict["Future[Reply]", Contact]
    replies: dict[Contact, Reply]


def ask(contacts: Sequence[Contact], work: Work, count: int) -> Asked:
    """Begin `work` with each contact. count: answers in a reply."""
    asked = Asked({}, {})
    for contact in contacts:
        future = contact.health.crew.submit(partial(work, contact))
        if future is None:
            asked.replies[contact] = _busy(contact, count)
        else:
            asked.running[future] = contact
    return asked


def gather(
    asked: Asked,
    *,
    seconds: float,
    grace: float,
    enough: Callable[[Replies], bool],
    patience: float,
    may_wait: Callable[[], bool],
) -> Gathered:
    """Return what came in time.

    In time: all, or whatever has come when `grace` seconds have passed since it was `enough`, or when `seconds` are
    over. When it is not enough after `patience` seconds, `may_wait` says whether to go on.
    """
    replies, running = asked.replies, asked.running
    deadline = time.monotonic() + seconds
    patient_until = time.monotonic() + patience
    while running and time.monotonic() < deadline:
        until = min(deadline, patient_until)
        done, _ = wait(running, timeout=max(0.0, until - time.monotonic()), return_when=FIRST_COMPLETED)
        for future in done:
            replies[running.pop(future)] = future.result()
        if done and enough(replies):
            deadline = min(deadline, time.monotonic() + grace)
        elif not done and until == patient_until:
            patient_until = math.inf
            if not enough(replies) and not may_wait():
                break
    return Gathered(replies, {contact: future for future, contact in running.items()})


def _busy(contact: Contact, count: int) -> Reply:
    error = RpcTransportError(f"{contact.host} has many calls of ours that it does not answer")
    return Reply([error] * count, 0.0, 1.0)
