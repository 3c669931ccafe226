"""Handing calls over to a custody and asking about them, as tests do."""

from typing import Any

from django.utils import timezone

import keyguard
from keyguard import HandOverRequest, Report
from keyguard.backends import custodies
from keyguard.custodians import Ticket
from keyguard.models import Key
from tests.fakes.credentials import VAULT

TO = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
HASH = "0x" + "ab" * 32


def request(key: Key, external_id: str = "first", **changes: Any) -> HandOverRequest:
    call = {"chainId": 31337, "from": key.address, "to": TO, "value": 1, "data": "0x", **changes}
    return HandOverRequest(external_id, key.address, call)


def hand_over(key: Key, external_id: str = "first", seconds: float = 5, **changes: Any) -> Report:
    return keyguard.hand_over(request(key, external_id, **changes), timeout_seconds=seconds)


def status(external_id: str = "first", seconds: float = 5) -> Report:
    return keyguard.custody_status(external_id, timeout_seconds=seconds)


def ticket(external_id: str = "first", reference: str = VAULT, chain_id: int = 31337) -> Ticket:
    return Ticket(reference, external_id, chain_id, timezone.now())


def forget() -> None:
    """Have the clients know nothing, as in a process that has just begun."""
    custodies.forget()
