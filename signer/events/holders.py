"""Who holds how much of a token, from its Transfer events: ERC-20, and ERC-3643, which has the same event.

A mint comes from the zero address and a burn goes to it; it holds nothing itself. Tokens that change balances without
the event (rebasing ones, wrapped ether's deposits) can't be kept so: sooner or later somebody would hold less than
nothing, and that stops the token's index instead of being written down.
"""

from collections import defaultdict
from collections.abc import Sequence

from signer.errors import MissedLogsError
from signer.events.handlers import Event, on_event
from signer.models import Holding

HOLDERS = "erc20.holders"
ZERO_ADDRESS = "0x" + "0" * 40
TRANSFER = {
    "type": "event",
    "name": "Transfer",
    "inputs": [
        {"name": "sender", "type": "address", "indexed": True},
        {"name": "receiver", "type": "address", "indexed": True},
        {"name": "amount", "type": "uint256", "indexed": False},
    ],
}
ROWS_AT_ONCE = 500


@on_event(HOLDERS, abi=[TRANSFER])
def move(events: Sequence[Event]) -> None:
    """Add the transfers to what is held."""
    _change(events, +1, updated_block=events[-1].block_number)


@move.undo
def move_back(events: Sequence[Event]) -> None:
    """Take the transfers, newest first, away from what is held."""
    _change(events, -1, updated_block=events[-1].block_number - 1)


@move.reset
def forget(chain_id: int, token: str) -> None:
    """Forget who holds anything of the token."""
    Holding.objects.filter(chain=chain_id, token=token).delete()


def _change(events: Sequence[Event], sign: int, updated_block: int) -> None:
    """Write what each holder has after all of the events.

    Read, computed here and written, since SQLite can't add 256-bit numbers. Nobody writes in between: the caller's
    transaction holds the index's row, and nothing else writes holdings.
    """
    changes: dict[str, int] = defaultdict(int)
    for event in events:
        changes[event.arguments["sender"]] -= sign * event.arguments["amount"]
        changes[event.arguments["receiver"]] += sign * event.arguments["amount"]
    changes.pop(ZERO_ADDRESS, None)
    chain_id, token = events[0].chain_id, events[0].address
    held: dict[str, int] = {}
    holders = list(changes)
    for n in range(0, len(holders), ROWS_AT_ONCE):
        rows = Holding.objects.filter(chain=chain_id, token=token, holder__in=holders[n : n + ROWS_AT_ONCE])
        held |= dict(rows.values_list("holder", "balance_wei"))
    balances = {holder: held.get(holder, 0) + change for holder, change in changes.items()}
    for holder, balance in balances.items():
        if balance < 0:
            raise MissedLogsError(f"{holder} would hold {balance} of the token {token}: logs were missed.")
    Holding.objects.bulk_create(
        [
            Holding(
                chain_id=chain_id,
                token=token,
                holder=holder,
                balance_wei=balance,
                updated_block=updated_block,
            )
            for holder, balance in balances.items()
        ],
        update_conflicts=True,
        unique_fields=["chain", "token", "holder"],
        update_fields=["balance_wei", "updated_block"],
        batch_size=ROWS_AT_ONCE,
    )
