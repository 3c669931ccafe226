"""What follows from a custody's word about a transaction, and from what a node shows of it. Pure.

The custody's word alone moves nothing forward: a hash counts once a node shows a transaction of this sender that does
what was asked, and how that ends is for receipts to say. That nothing was sent is what only the custody can say.
"""

from collections.abc import Set
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints, ValidationError

from keyguard import CustodyState, Report
from signer.models import Transaction
from signer.requests import Address, HexData
from signer.states import Purpose, SubState, TransactionState

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1, 60
CODES = {CustodyState.REFUSED: "CUSTODY_REFUSED", CustodyState.FAILED: "CUSTODY_FAILED"}
ENDED = tuple(CODES)

Quantity = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{1,64}$")]


class Move(Enum):
    WAIT = "wait"  # ask again later
    SENT = "sent"  # another hash that may be mined
    END = "end"  # nothing of it can be executed any more
    STOP = "stop"  # wait, and nothing new is handed over until a person has looked
    ALARM = "alarm"  # the custody did something else; it is not asked about this one again


@dataclass(frozen=True)
class Seen:
    """A transaction as a node shows it."""

    hash: str
    sender: str
    to: str | None
    value: int
    data: str
    nonce: int
    gas_limit: int
    max_fee_per_gas_wei: int
    max_priority_fee_per_gas_wei: int


@dataclass(frozen=True)
class Step:
    """What is to be done about a transaction. text: for people, of a STOP or an ALARM."""

    move: Move
    sub_state: SubState = SubState.NONE
    seen: Seen | None = None
    purpose: Purpose = Purpose.PAYLOAD
    error: dict[str, str] | None = None
    text: str = ""


class _WholeTransaction(BaseModel):
    """What must be there, and of which kind, before a node's answer is taken for a transaction."""

    hash: str
    sender: Address
    to: Address | None
    value: Quantity
    input: HexData
    nonce: Quantity
    gas: Quantity
    gasPrice: Quantity = "0x0"  # noqa: N815
    maxFeePerGas: Quantity | None = None  # noqa: N815
    maxPriorityFeePerGas: Quantity | None = None  # noqa: N815


def seen(answer: Any, asked_hash: str) -> Seen | None:
    """Return the transaction in an answer to eth_getTransactionByHash, None when it holds none, or another one."""
    if not isinstance(answer, dict):
        return None
    try:
        found = _WholeTransaction.model_validate({**answer, "sender": answer.get("from")})
    except ValidationError:
        return None
    if found.hash.lower() != asked_hash:
        return None
    fee = int(found.maxFeePerGas or found.gasPrice, 16)
    return Seen(
        asked_hash,
        found.sender,
        found.to,
        int(found.value, 16),
        found.input,
        int(found.nonce, 16),
        int(found.gas, 16),
        fee,
        int(found.maxPriorityFeePerGas or hex(fee), 16),
    )


def purpose_of(shown: Seen, row: Transaction, address: str) -> Purpose | None:
    """Return what the transaction on the chain does: what was asked, nothing at all (a no-op), or None: something else."""
    if shown.sender != address:
        return None
    if (shown.to, shown.value, shown.data) == (row.to, row.value, row.data):
        return Purpose.PAYLOAD
    return Purpose.NOOP if (shown.to, shown.value, shown.data) == (address, 0, "0x") else None


def judge(row: Transaction, address: str, known: Set[str], report: Report, shown: Seen | None) -> Step:
    """Return what is to be done. known: the hashes of its attempts. shown: what a node has under the report's hash."""
    if report.hash and report.hash not in known:
        return _named(row, address, report.hash, shown)
    if row.state == TransactionState.SIGNING:
        return _unsent(row, report)
    return _sent(row, report)


def _named(row: Transaction, address: str, named: str, shown: Seen | None) -> Step:
    """A hash that is new to us."""
    if shown is None:
        is_out = row.state == TransactionState.BROADCASTING
        return Step(Move.WAIT, SubState(row.sub_state) if is_out else SubState.CUSTODY_SENT)
    purpose = purpose_of(shown, row, address)
    if purpose is None:
        return _alarm(row, f"{named} from {shown.sender} does something else")
    if row.nonce not in (None, shown.nonce):
        return _alarm(
            row, f"{named} has nonce {shown.nonce}, what it sent before {row.nonce}: both may be executed"
        )
    return Step(Move.SENT, seen=shown, purpose=purpose)


def _alarm(row: Transaction, what: str) -> Step:
    text = f"the custody was asked for transaction {row.pk}, and {what}"
    return Step(Move.ALARM, SubState.CUSTODY_ALTERED, text=text)


def _unsent(row: Transaction, report: Report) -> Step:
    """It has named no hash."""
    if report.state in ENDED:
        return Step(Move.END, error=error_of(row, report))
    if row.noop_outcome:
        return Step(Move.WAIT, SubState.CALLING_OFF)
    if report.state == CustodyState.AWAITING_APPROVAL:
        return Step(Move.WAIT, SubState.AWAITING_APPROVAL)
    is_sent = report.state == CustodyState.SENT
    return Step(Move.WAIT, SubState.CUSTODY_SENT if is_sent else SubState.WITH_CUSTODY)


def _sent(row: Transaction, report: Report) -> Step:
    """It has sent it, and names no other hash."""
    if row.sub_state == SubState.NONCE_FOREIGN:
        if report.state in ENDED:
            return Step(Move.END, error=error_of(row, report))
        text = (
            f"nonce {row.nonce} was used by a transaction that its custody does not name; transaction {row.pk} can no "
            "longer be executed with it"
        )
        return Step(Move.STOP, SubState.NONCE_FOREIGN, text=text)
    return Step(Move.WAIT, SubState.CUSTODY_GAVE_UP if report.state in ENDED else SubState.NONE)


def error_of(row: Transaction, report: Report) -> dict[str, str]:
    """Return why it ends: what we wanted, where we did, else the custody's own words."""
    if row.noop_outcome and row.error:
        return dict(row.error)
    return {"code": CODES[report.state], "message": report.reason or "the custody gives no reason"}


def wait_seconds(vain_looks: int) -> int:
    """Return how long the next look is put off: twice as long each time that there was nothing new."""
    return int(min(FIRST_WAIT_SECONDS * 2 ** min(vain_looks, 10), LONGEST_WAIT_SECONDS))
