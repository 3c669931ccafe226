"""Going back: to where the chain that was read and the node's chain part, or because a person wants it read again.

Each log above is undone, newest first, and marked as removed. Ordinarily that is one commit, with the front set back; what
is too much for one, or fails, is left marked as to be taken back, and nothing is read for that contract before.
"""

import structlog
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from signer.events.following import remember
from signer.events.forks import fork_point
from signer.events.handing_over import HandlerFailedError, take_back
from signer.events.tenure import Tenure
from signer.incidents import open_incident
from signer.models import EventLog, WatchedContract
from signer.rpc.door import LATEST
from signer.states import IncidentKind, WatchedState
from workflows import crashpoint

log = structlog.get_logger()

CONTRACTS_AT_ONCE = 20

crashpoint.register("signer.index_rewinding", "in the middle of the commit that takes logs back")


def rewind(tenure: Tenure, final: int | None) -> None:
    """Go back to the highest block that was read and is still on the node's chain. Raises SignerError.

    final: up to where what was read counted as final, before this look at the chain.
    """
    fork = fork_point(tenure.index, tenure.rpc, tenure.latest.number)
    number, block_hash = fork or (-1, "")
    is_deep = final is not None and number < final
    if is_deep or fork is None:
        # Another chain behind the URL is not a fork: nothing is undone for it.
        _prove_chain(tenure)
        tenure.note(final_number=number if fork else None)
    was = tenure.front[0]
    with transaction.atomic():
        tenure.guard(front_number=number if fork else None, front_hash=block_hash)
        tenure.index.blocks.filter(number__gt=number).delete()
        tenure.index.front_number, tenure.index.front_hash = (number if fork else None), block_hash
        if fork:
            remember(tenure, [fork])
        _set_back_contracts(tenure, number if fork else None)
        if is_deep:
            _tell(tenure, number, was, final)
        crashpoint("signer.index_rewinding")
    log.warning("index_rewound", chain=tenure.chain.pk, to_block=number, from_block=was, deep=is_deep)


def _prove_chain(tenure: Tenure) -> None:
    """Raise RpcError unless the node serves the chain that was registered."""
    tenure.rpc.batch_or_raise([LATEST], prove=True)


def _set_back_contracts(tenure: Tenure, number: int | None) -> None:
    """Set back to block `number`, None for their beginning, all that was read above it, and undo what was handed over."""
    if number is None:
        tenure.contracts.update(own_number=F("from_block") - 1)
    else:
        above = tenure.contracts.filter(Q(own_number__isnull=True) | Q(own_number__gt=number))
        # On the other fork a contract may have been created earlier.
        above.filter(from_block__gt=number + 1).update(from_block=number + 1)
        tenure.contracts.filter(own_number__gt=number).update(own_number=number)
    logs = EventLog.objects.filter(contract=OuterRef("pk"), removed_at__isnull=True)
    above_it = logs if number is None else logs.filter(block_number__gt=number)
    for contract in tenure.contracts.filter(Exists(above_it)):
        if contract.own_number is None:
            contract.own_number = number
        tenure.contracts.filter(pk=contract.pk).update(own_number=contract.own_number, rewinding=True)
        # What a person has paused, or has failed, is undone when it goes on.
        if contract.state == WatchedState.ACTIVE:
            _take_back(tenure, contract)


def take_back_some(tenure: Tenure) -> bool:
    """Take back some of what is left marked so; return whether there was anything."""
    waiting = tenure.runnable(tenure.contracts.filter(rewinding=True))
    contracts = tenure.readable(
        waiting.order_by(F("read_at").asc(nulls_first=True), "pk")[:CONTRACTS_AT_ONCE]
    )
    for contract in contracts:
        with transaction.atomic():
            tenure.guard()
            tenure.contracts.filter(pk=contract.pk).update(read_at=Now())
            _take_back(tenure, contract)
            crashpoint("signer.index_rewinding")
    return bool(contracts)


def _take_back(tenure: Tenure, contract: WatchedContract) -> None:
    """Undo what the contract was given above its block, as much as one commit takes. Within a guarded transaction."""
    number = contract.own_number
    assert number is not None
    try:
        is_done = take_back(contract, number)
    except HandlerFailedError as error:
        tenure.fail(contract, number, str(error))
        return
    if is_done:
        joins = contract.state == WatchedState.ACTIVE and number == tenure.index.front_number
        tenure.contracts.filter(pk=contract.pk).update(rewinding=False, own_number=None if joins else number)


def _tell(tenure: Tenure, number: int, was: int, final: int | None) -> None:
    text = (
        f"The blocks from {number + 1} on were replaced, though block {final} counted as final. What was read up to "
        f"block {was} is taken back and read again. Look at what was concluded from it, and at the chain's confirmations."
    )
    open_incident(
        IncidentKind.DEEP_REORG,
        str(tenure.index),
        text,
        chain=tenure.chain,
        fork=number,
        final=final,
        was=was,
    )
