"""What the parts of the index share while one worker has it: the claim, the node, the contracts, what was seen."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, Q, QuerySet

from signer import chains
from signer.blocks import WINDOW, Header
from signer.errors import RpcTransportError, SignerError
from signer.events.handing_over import HandlerFailedError, described, hand_over
from signer.events.handlers import find_handler
from signer.events.ranges import after_success, smaller
from signer.events.reading import FoundLog, Wanted, read_blocks, read_what_fits
from signer.incidents import close_incident, open_incident
from signer.models import EventIndex, WatchedContract
from signer.rpc import Rpc
from signer.states import IncidentKind, WatchedState
from workflows import Claim, db_now, guard, in_seconds

log = structlog.get_logger()

# So many of the newest blocks are read one by one, whatever the chain calls final.
DEPTH = 16
BLOCKS_AT_ONCE = 50
RETRY_SECONDS_MOST = 300
# Half a minute of attempts: a deploy brings the code, a node has what it lacked.
QUIET_ATTEMPTS = 5
# A node that has failed for so long is not told of before: it comes back by itself, mostly.
PATIENCE = timedelta(minutes=5)

Block = tuple[int, str]


class Tenure:
    """One worker's ownership of a chain's index."""

    def __init__(self, held: Claim[EventIndex]) -> None:
        self.held = held
        self.index = held.row
        self.chain = held.row.chain
        self.contracts: QuerySet[WatchedContract] = WatchedContract.objects.filter(index=self.index)
        self.latest: Header = Header(-1, "", "")
        self.noted: dict[str, Any] = {}  # for the index's row, with the next write or at the end

    @cached_property
    def rpc(self) -> Rpc:
        return chains.connect(self.chain)

    def note(self, **values: Any) -> None:
        """Keep what was seen, for the index's row."""
        for name, value in values.items():
            setattr(self.index, name, value)
        self.noted |= values

    def guard(self, **updates: Any) -> None:
        """Write to the index's row if it is still ours; within the transaction of everything else that is written."""
        guard(self.held, **{**self.noted, **updates})

    @property
    def front(self) -> Block:
        """The block up to which all are read that don't come after on their own; one below the first without any."""
        return (-1 if self.index.front_number is None else self.index.front_number, self.index.front_hash)

    @property
    def line(self) -> int:
        """The highest block that is asked for in ranges: what is above may still be replaced, and is read by its hash."""
        final, head = self.index.final_number, self.latest.number
        return max(-1, min(head - WINDOW if final is None else final, head - DEPTH))

    # --- Contracts ----------------------------------------------------------------------------------------

    def runnable(self, rows: QuerySet[WatchedContract]) -> QuerySet[WatchedContract]:
        """Return those of the contracts that may be worked on now."""
        due = Q(retry_at__isnull=True) | Q(retry_at__lte=db_now())
        return rows.filter(Q(state=WatchedState.ACTIVE) | Q(due, state=WatchedState.FAILED))

    def readable(self, contracts: Iterable[WatchedContract]) -> list[WatchedContract]:
        """Return those whose handler this worker's code has; the others are left behind, for one that has it."""
        found = []
        for contract in contracts:
            try:
                find_handler(contract.handler)
            except SignerError as error:
                number = self.front[0] if contract.own_number is None else contract.own_number
                self.give_up_for_now([contract], number, error)
            else:
                found.append(contract)
        return found

    def give_up_for_now(self, contracts: Iterable[WatchedContract], number: int, error: SignerError) -> None:
        """Leave the contracts at block `number` for what may well pass by itself; the others go on."""
        with transaction.atomic():
            self.guard()
            for contract in contracts:
                self.fail(contract, number, described(error), told_after=QUIET_ATTEMPTS)

    def given(self, contract: WatchedContract, logs: Sequence[FoundLog], before: int) -> bool:
        """Hand the logs over and return True; or leave the contract at block `before`, with its handler's error.

        Within a guarded transaction. One contract's failure is none of the others'.
        """
        try:
            hand_over(contract, logs)
        except HandlerFailedError as error:
            self.fail(contract, before, str(error))
            return False
        return True

    def fail(self, contract: WatchedContract, number: int, text: str, *, told_after: int = 0) -> None:
        """Leave the contract at block `number`, to be tried again, and tell people. Within a guarded transaction.

        told_after: attempts before which nobody is told, for what may well pass by itself.
        """
        seconds = min(2 ** min(contract.attempts, 10), RETRY_SECONDS_MOST)
        self.contracts.filter(pk=contract.pk).update(
            own_number=number,
            state=WatchedState.FAILED,
            attempts=F("attempts") + 1,
            retry_at=in_seconds(seconds),
            last_error=text,
        )
        log.warning("contract_not_indexed", contract=str(contract), after_block=number, error=text)
        if contract.attempts >= told_after:
            told = f"The events after block {number} cannot be handed over: {text}"
            open_incident(
                IncidentKind.INDEX_FAILED, str(contract), told, chain=self.chain, contract=str(contract.pk)
            )

    def mended(self, contract: WatchedContract) -> dict[str, Any]:
        """Return what to write into a contract that failed and has succeeded; within a guarded transaction."""
        if contract.state != WatchedState.FAILED:
            return {}
        close_incident(IncidentKind.INDEX_FAILED, str(contract), "its handler has succeeded")
        return {"state": WatchedState.ACTIVE, "attempts": 0, "retry_at": None, "last_error": ""}

    # --- Reading ------------------------------------------------------------------------------------------

    def logs_in_range(
        self, contracts: Sequence[WatchedContract], first: int, most: int
    ) -> tuple[list[FoundLog], Block]:
        """Return the contracts' logs from block `first` on, and the block up to which these are all, `most` or below.

        Asks for less where the node refuses, down to one block. Raises RpcError.
        """
        known = [block for block in (self.front, (self.latest.number, self.latest.hash)) if block[1]]
        blocks = self.index.range_blocks
        try:
            logs, end = read_what_fits(self.rpc, wanted_by(contracts), first, most, known, blocks)
        except RpcTransportError:  # it may have been too much to answer in time
            self.note(range_blocks=smaller(blocks))
            raise
        read = end.number - first + 1
        is_refused = read < min(blocks, most - first + 1)
        self.note(range_blocks=read if is_refused else after_success(blocks, read, len(logs)))
        return logs, (end.number, end.hash)

    def logs_of_blocks(self, contracts: Sequence[WatchedContract], blocks: Sequence[Block]) -> list[FoundLog]:
        """Return the contracts' logs in these blocks. Raises RpcError."""
        return read_blocks(self.rpc, wanted_by(contracts), blocks)


def wanted_by(contracts: Iterable[WatchedContract]) -> Wanted:
    """Return which logs the contracts' handlers want."""
    contracts = list(contracts)
    topics = {topic for contract in contracts for topic in find_handler(contract.handler).topics}
    return Wanted(sorted({contract.address for contract in contracts}), sorted(topics))


def shared_out(
    contracts: Sequence[WatchedContract], logs: Iterable[FoundLog]
) -> list[tuple[WatchedContract, list[FoundLog]]]:
    """Return each contract with its own logs, in the order of the chain."""
    by_address: dict[str, list[FoundLog]] = {contract.address: [] for contract in contracts}
    for each in logs:
        if each.address in by_address and each.topics:
            by_address[each.address].append(each)
    return [
        (contract, [each for each in by_address[contract.address] if each.topics[0] in topics])
        for contract, topics in ((c, find_handler(c.handler).topics) for c in contracts)
    ]
