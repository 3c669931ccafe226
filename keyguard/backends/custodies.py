"""The custodies there are, and their clients: made at the first question, one for each process.

Upholds: nothing of a custody is loaded before it is asked something. Every process knows which keys are a custody's;
asking one takes its secrets, which web processes have not, and raises CustodyMisconfiguredError without. A client made
before a fork is not used after it: its connections are the parent's.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from django.core import checks
from django.core.checks import CheckMessage, Error

from keyguard.backends.configuring import Problem
from keyguard.backends.dfns import configured as dfns
from keyguard.backends.fireblocks import configured as fireblocks
from keyguard.backends.remote import RemoteSigner, register_remote_signer
from keyguard.calls import Call
from keyguard.custodians import Custodian, Report, Ticket, register_custodian


class ProbedCustodian(Custodian, Protocol):
    """A custodian that can say how its custody stands."""

    def probe(self, reference: str, address: str) -> str:
        """Say so in words, after one read of a key that is ours, or raise a KeyguardError."""


Made = tuple[ProbedCustodian, RemoteSigner, Callable[[], None]]  # the last one closes its connections

_made: dict[str, tuple[int, Made]] = {}
_lock = threading.Lock()


class LazyCustodian:
    """A custodian whose client is made at the first question. What it can do is known without."""

    def __init__(self, name: str, *, can_cancel: bool) -> None:
        self._name = name
        self.can_cancel = can_cancel

    def public_key(self, reference: str) -> bytes:
        """Return the public key, 65 bytes, of what the custody calls `reference`."""
        return client_of(self._name).public_key(reference)

    def submit(self, ticket: Ticket, call: Call, *, timeout_seconds: float) -> Report:
        """Ask for the call to be executed once, by the key of the ticket."""
        return client_of(self._name).submit(ticket, call, timeout_seconds=timeout_seconds)

    def find(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Return how it stands."""
        return client_of(self._name).find(ticket, timeout_seconds=timeout_seconds)

    def cancel(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Ask for it not to be sent, where that is possible, and return how it stands."""
        return client_of(self._name).cancel(ticket, timeout_seconds=timeout_seconds)


def _fireblocks() -> Made:
    from keyguard.backends.fireblocks.client import Client  # loads the vendor's SDK: seconds
    from keyguard.backends.fireblocks.custodian import FireblocksCustodian
    from keyguard.backends.fireblocks.signer import FireblocksSigner

    client = Client(fireblocks.read())
    return FireblocksCustodian(client), FireblocksSigner(client), client.close


def _dfns() -> Made:
    from keyguard.backends.dfns.client import Client
    from keyguard.backends.dfns.custodian import DfnsCustodian
    from keyguard.backends.dfns.signer import DfnsSigner

    client = Client(dfns.read())
    return DfnsCustodian(client), DfnsSigner(client), client.close


_MAKERS: Mapping[str, Callable[[], Made]] = {"fireblocks": _fireblocks, "dfns": _dfns}
_CAN_ASK: Mapping[str, Callable[[], bool]] = {"fireblocks": fireblocks.can_ask, "dfns": dfns.can_ask}
_CAN_CANCEL = {"fireblocks": True, "dfns": False}


def client_of(name: str) -> Custodian:
    """Return the custody's own custodian in this process, with everything loaded."""
    return _of(name)[0]


def askable() -> set[str]:
    """Return the custodies that this process has the secrets of. Nothing of them is loaded by that."""
    return {name for name, can_ask in _CAN_ASK.items() if can_ask()}


def probe(name: str, reference: str, address: str) -> str:
    """Say in words how a custody stands, or raise a KeyguardError. reference, address: of a key that it should have."""
    return _of(name)[0].probe(reference, address)


def _of(name: str) -> Made:
    """Return the custody's clients in this process."""
    with _lock:
        process, made = _made.get(name, (0, None))
        if made is None or process != os.getpid():
            made = _MAKERS[name]()
            _made[name] = (os.getpid(), made)
        return made


def forget() -> None:
    """Make the clients anew at the next question, from the settings as they are then."""
    with _lock:
        for process, (*_, close) in _made.values():
            if process == os.getpid():
                close()
        _made.clear()


def register() -> None:
    """Register the custodies. Django calls this once, when it starts."""
    for name, can_cancel in _CAN_CANCEL.items():
        custodian = LazyCustodian(name, can_cancel=can_cancel)
        register_custodian(name, lambda custodian=custodian: custodian)  # type: ignore[misc]
        register_remote_signer(name, lambda name=name: _of(name)[1])  # type: ignore[misc]


def check_custodies(app_configs: Sequence[Any] | None = None, **_: Any) -> list[CheckMessage]:
    """Return an error for each setting of a custody that is missing or wrong, once one of them is there."""
    pages = (("E001", "fireblocks", fireblocks.problems()), ("E002", "dfns", dfns.problems()))
    return [_error(number, page, problem) for number, page, found in pages for problem in found]


def _error(number: str, page: str, problem: Problem) -> Error:
    name, what = problem
    hint = f"docs/deploy/{page}.md lists what is needed. To do without this custody, unset all of it."
    return Error(f"{name} {what}.", hint=hint, id=f"keyguard.{number}")


def register_checks() -> None:
    """Register the checks with Django."""
    checks.register(check_custodies)
