"""Contracts that are behind the front: each is read on its own, in ranges, and joins the front when it is there.

Those at the same block are read together. All get their tenure, whoever waits longest first, and none holds up the front.
"""

from collections import defaultdict
from collections.abc import Sequence

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from signer.errors import RpcNodeError
from signer.events.reading import FoundLog
from signer.events.tenure import BLOCKS_AT_ONCE, Tenure, shared_out
from signer.models import WatchedContract
from workflows import crashpoint

CONTRACTS_AT_ONCE = 100


def catch_up(tenure: Tenure) -> bool:
    """Read one range for each group of contracts behind the front; return whether there were any. Raises RpcError."""
    rows = tenure.contracts.filter(own_number__lte=tenure.front[0], rewinding=False)
    waiting = tenure.runnable(rows).order_by(F("read_at").asc(nulls_first=True), "pk")[:CONTRACTS_AT_ONCE]
    groups: dict[int, list[WatchedContract]] = defaultdict(list)
    for contract in tenure.readable(waiting):
        assert contract.own_number is not None
        groups[contract.own_number].append(contract)
    for number, contracts in groups.items():
        try:
            logs, last = _read_after(tenure, contracts, number)
        except RpcNodeError as error:  # for these it says no, down to a single block; not for the others
            tenure.give_up_for_now(contracts, number, error)
            continue
        _record(tenure, contracts, logs, number, last)
    return bool(groups)


def _read_after(
    tenure: Tenure, contracts: Sequence[WatchedContract], number: int
) -> tuple[Sequence[FoundLog], int]:
    """Return the next logs after block `number`, and up to where these are all. Raises RpcError."""
    first, front = number + 1, tenure.front[0]
    if first > front:
        return [], front
    if first > tenure.line:
        last = min(front, first + BLOCKS_AT_ONCE - 1)
        kept = tenure.index.blocks.filter(number__range=(first, last)).order_by("number")
        blocks = list(kept.values_list("number", "hash"))
        if len(blocks) == last - first + 1:
            return tenure.logs_of_blocks(contracts, blocks), last
    logs, end = tenure.logs_in_range(
        contracts, first, front if first > tenure.line else min(front, tenure.line)
    )
    return logs, end[0]


def _record(
    tenure: Tenure, contracts: Sequence[WatchedContract], logs: Sequence[FoundLog], number: int, last: int
) -> None:
    """Commit what was read, with the contracts' move to block `last`; those that reach the front join it."""
    crashpoint("signer.index_read")
    joined = last == tenure.front[0]
    with transaction.atomic():
        tenure.guard()
        for contract, its in shared_out(contracts, logs):
            if not tenure.given(contract, its, number):
                continue
            mended = tenure.mended(contract) if its or joined else {}
            tenure.contracts.filter(pk=contract.pk).update(
                own_number=None if joined else last, read_at=Now(), **mended
            )
        crashpoint("signer.index_handing_over")
    crashpoint("signer.index_handed_over")
