"""Which contracts are read, and what people do about one: pause it, resume it, have it read again.

What changes where a contract stands takes the index away from the worker that has it: whatever that worker has read
meanwhile is refused by the epoch, and the next claim begins with the contract as it is now.
"""

from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F
from eth_utils.address import to_checksum_address

from signer import acts
from signer.chains import find_chain
from signer.errors import NotPossibleError
from signer.events.handlers import find_handler
from signer.incidents import close_incident
from signer.models import EventIndex, WatchedContract
from signer.ringing import after_commit, ring_index
from signer.states import IncidentKind, WatchedState


def watch_contract(
    chain_id: int, address: str, *, handler: str, from_block: int, label: str = ""
) -> WatchedContract:
    """Have the contract's events handed to a handler, from block `from_block` on; return its registration.

    from_block: of the contract's creation, or any block before it. Joins the caller's transaction, so a step with the
    effect `transactional` registers together with its checkpoint. A second time changes nothing, unless it asks for
    earlier blocks: then all is read again, from there. Raises UnknownChainError, UnknownHandlerError.
    """
    find_handler(handler)
    with transaction.atomic():
        index, _ = EventIndex.objects.get_or_create(chain=find_chain(chain_id))
        contract, created = WatchedContract.objects.get_or_create(
            index=index,
            address=to_checksum_address(address),
            handler=handler,
            defaults={"from_block": from_block, "own_number": from_block - 1, "label": label},
        )
        if not created and from_block < contract.from_block:
            _set_back(_taken_from_worker(contract.pk), from_block)
        after_commit(lambda: ring_index(chain_id))
    contract.refresh_from_db()
    return contract


def pause_contract(pk: UUID, *, actor: str, reason: str) -> None:
    """Read no more of the contract until it is resumed. Raises NotPossibleError when it is paused."""
    with transaction.atomic():
        contract = _taken_from_worker(pk)
        if contract.state == WatchedState.PAUSED:
            raise NotPossibleError("the contract is paused already", "Nothing needs to be done.")
        _write(contract, state=WatchedState.PAUSED, own_number=contract.number)
        close_incident(IncidentKind.INDEX_FAILED, str(contract), f"paused: {reason}", actor=actor)
        _note(contract, "pause_contract", actor, reason)


def resume_contract(pk: UUID, *, actor: str, reason: str) -> None:
    """Read the contract on, where it was paused or where its handler failed. Raises NotPossibleError when it is being read."""
    with transaction.atomic():
        contract = _taken_from_worker(pk)
        if contract.state == WatchedState.ACTIVE:
            raise NotPossibleError("the contract is being read", "Nothing needs to be done.")
        # What failed stays failed until it has succeeded; it is tried at once.
        state = WatchedState.FAILED if contract.last_error else WatchedState.ACTIVE
        _write(contract, state=state, retry_at=None)
        _note(contract, "resume_contract", actor, reason)


def reread_contract(pk: UUID, *, from_block: int, actor: str, reason: str) -> None:
    """Take back what the contract's handler was given from block `from_block` on, and read it again.

    Raises NotPossibleError where it has not been read so far yet.
    """
    with transaction.atomic():
        contract = _taken_from_worker(pk)
        if contract.number is None or from_block > contract.number:
            raise NotPossibleError(
                f"the contract is read up to block {contract.number} only", "Name a block that has been read."
            )
        if from_block < 0:
            raise NotPossibleError("there are no blocks below 0", "Name a block from 0 on.")
        _set_back(contract, from_block)
        _note(contract, "reread_contract", actor, reason, from_block=from_block)


def _taken_from_worker(pk: UUID) -> WatchedContract:
    """Return the contract as nobody else can change it before the caller's transaction ends.

    The epoch first, as its worker does: its row is what both wait for.
    """
    chain_id = WatchedContract.objects.values_list("index_id", flat=True).get(pk=pk)
    EventIndex.objects.filter(pk=chain_id).update(epoch=F("epoch") + 1, lease_until=None, look_at=None)
    after_commit(lambda: ring_index(chain_id))
    return WatchedContract.objects.select_related("index__chain").get(pk=pk)


def _set_back(contract: WatchedContract, from_block: int) -> None:
    number = from_block - 1
    _write(
        contract,
        own_number=number if contract.number is None else min(number, contract.number),
        rewinding=True,
        from_block=min(from_block, contract.from_block),
        retry_at=None,
    )


def _write(contract: WatchedContract, **updates: Any) -> None:
    WatchedContract.objects.filter(pk=contract.pk).update(**updates)


def _note(contract: WatchedContract, verb: str, actor: str, reason: str, **details: Any) -> None:
    what = {"contract": str(contract.pk), "address": contract.address, "handler": contract.handler}
    acts.note(actor, verb, reason, details={**what, **details})
