"""Custodies that own nonce and fee, sign and send by themselves: what one of them can do, and which there are.

A custodian is a thin client of such a service. Everything that decides whether it is asked at all, and what is kept of
its answers, is in `keyguard.handing_over`, on the one path that all of them share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from keyguard.calls import Call
from keyguard.errors import BackendUnknownError
from keyguard.states import CustodyState


@dataclass(frozen=True, slots=True)
class Report:
    """What a custody says of a call: where it stands, what was sent last, and its own words about it."""

    state: CustodyState
    hash: str = ""  # of the transaction that it has sent for it; another one when it has replaced that
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a request is looked up by: whose key, on which chain, under which id of ours, and not older than `since`."""

    reference: str  # what the custody calls the key
    external_id: str
    chain_id: int
    since: datetime


class Custodian(Protocol):
    """A client of one custody. Each call returns within `timeout_seconds`, or raises: then the outcome is unknown.

    The external id is ours, and at most one transaction's for ever: `submit` under one that the custody knows already
    must ask for nothing new, and answers how the first stands. Whatever the service says that this does not list is
    WORKING, never a success and never an end.
    """

    can_cancel: bool

    def public_key(self, reference: str) -> bytes:
        """Return the public key, 65 bytes, of what the custody calls `reference`."""

    def submit(self, ticket: Ticket, call: Call, *, timeout_seconds: float) -> Report:
        """Ask for the call to be executed once, by the key of the ticket."""

    def find(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Return how it stands; UNKNOWN only when the custody itself says that it has no such request."""

    def cancel(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        """Ask for it not to be sent, where `can_cancel`, and return how it stands. Asking again does no harm."""


CUSTODIANS: dict[str, Callable[[], Custodian]] = {}


def register_custodian(backend: str, make: Callable[[], Custodian]) -> None:
    """Have the keys of this backend be looked after by what `make` returns."""
    CUSTODIANS[backend] = make


def custodian_of(backend: str) -> Custodian:
    """Return the custodian of this backend, or raise BackendUnknownError."""
    if backend not in CUSTODIANS:
        raise BackendUnknownError(f"custody {backend[:20]!r}: not one of: {', '.join(sorted(CUSTODIANS))}")
    return CUSTODIANS[backend]()
