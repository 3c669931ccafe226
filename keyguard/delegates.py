"""The contracts that accounts may be handed to (EIP-7702): a list, and what is not on it is refused.

A delegate's code can do with the account whatever its key could, for as long as the delegation stands. So each is
examined once, by a person, and allowed for one chain: the same address on another one may hold other code. The list
holds for all keys; which of them may do what is for policies to say. Taking a delegation back needs no permission.
"""

from collections.abc import Sequence
from typing import Any

import structlog
from django.db.models import Q
from django.db.models.signals import ModelSignal, post_delete, post_save
from django.dispatch import receiver

from keyguard.audit.chaining import note
from keyguard.authorizations import NOBODY, Authorization, SignedAuthorization
from keyguard.curve import checksummed
from keyguard.errors import DelegateNotAllowedError
from keyguard.ethereum import UnsignedTransaction
from keyguard.floor import checked_address
from keyguard.jobs import Content
from keyguard.models import AllowedDelegate

log = structlog.get_logger("keyguard")


def allow_delegate(chain_id: int, address: str, note: str) -> AllowedDelegate:
    """Put a contract on the list, or change its note. Raises ValidationError."""
    entry = AllowedDelegate(chain_id=chain_id, address=address, note=note)
    entry.full_clean(validate_constraints=False)
    row, created = AllowedDelegate.objects.update_or_create(
        chain_id=chain_id, address=entry.address, defaults={"note": note}
    )
    if created:
        log.info("delegate_allowed", chain=chain_id, address=row.address)
    return row


def disallow_delegate(chain_id: int, address: str) -> bool:
    """Take a contract off the list; return whether it was on it. Delegations that were signed before stand."""
    rows = AllowedDelegate.objects.filter(chain_id=chain_id, address=checked_address(address, "address"))
    removed = bool(rows.delete()[0])
    if removed:
        log.info("delegate_disallowed", chain=chain_id, address=address)
    return removed


@receiver([post_save, post_delete], sender=AllowedDelegate)
def _note(instance: AllowedDelegate, signal: ModelSignal, **_: Any) -> None:
    event = "delegate_taken_off" if signal is post_delete else "delegate_allowed"
    note(event, {"chain": instance.chain_id, "address": instance.address, "note": instance.note})


def require_allowed(content: Content) -> None:
    """Raise DelegateNotAllowedError when the content hands an account to a contract that is not on the list.

    Asked for an authorisation before it is signed, and again for the transaction that carries it.
    """
    if isinstance(content, Authorization):
        _require([("delegate", content)])
    elif isinstance(content, UnsignedTransaction) and content.authorizations:
        named = [f"authorizationList[{place}].address" for place in range(len(content.authorizations))]
        _require(list(zip(named, content.authorizations, strict=True)))


def _require(given: Sequence[tuple[str, Authorization | SignedAuthorization]]) -> None:
    wanted = {
        (one.chain_id, checksummed(f"0x{one.delegate.hex()}")) for _, one in given if one.delegate != NOBODY
    }
    if not wanted:
        return
    where = Q()
    for chain_id, address in wanted:
        where |= Q(chain_id=chain_id, address=address)
    allowed = set(AllowedDelegate.objects.filter(where).values_list("chain_id", "address"))
    for name, one in given:
        address = checksummed(f"0x{one.delegate.hex()}")
        if one.delegate != NOBODY and (one.chain_id, address) not in allowed:
            raise DelegateNotAllowedError(name, f"{address} is not on the list of chain {one.chain_id}")
