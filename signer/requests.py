"""What the signer is asked for and what it answers, as values: the request, the receipt, and their types."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from eth_utils.address import is_checksum_formatted_address, is_hex_address, to_checksum_address
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from workflows import Command, Operation

MAX_UINT256 = 2**256 - 1
# geth refuses transactions over 128 KB in all; the rest is room for the other fields and the signature.
MAX_DATA_BYTES = 127 * 1024


def _checksummed(text: str) -> str:
    if not is_hex_address(text) or not text.startswith(("0x", "0X")):
        raise ValueError("not an address: 0x and 40 hexadecimal digits")
    checksummed = to_checksum_address(text)
    # Mixed case is a checksum (EIP-55); a wrong one is a mistyped address.
    if is_checksum_formatted_address(text) and text != checksummed:
        raise ValueError("the address's checksum is wrong")
    return checksummed


def _lower_hex(text: str) -> str:
    text = text.lower()
    if len(text) % 2:
        raise ValueError("an odd number of hexadecimal digits")
    return text


Address = Annotated[str, StringConstraints(max_length=42), AfterValidator(_checksummed)]
HexData = Annotated[
    str,
    StringConstraints(pattern=r"^0x[0-9a-fA-F]*$", max_length=2 + 2 * MAX_DATA_BYTES),
    AfterValidator(_lower_hex),
]
Wei = Annotated[int, Field(ge=0, le=MAX_UINT256)]

WORKFLOW_SCOPE = "workflow"


class Log(BaseModel):
    """One event as the chain recorded it."""

    model_config = ConfigDict(frozen=True)
    address: Address
    topics: list[str]
    data: str


class Receipt(BaseModel):
    """The proof that a transaction was executed, at the depth its chain asks for."""

    model_config = ConfigDict(frozen=True)
    transaction_id: str
    transaction_hash: str
    chain_id: int
    block_number: int
    block_hash: str
    gas_used: int
    contract_address: Address | None
    logs: list[Log]


class TransactionRequest(Command):
    """A transaction to be executed once. Returned by a workflow's step, the run waits for its receipt.

    sender: the alias or address of a key in keyguard. to: None creates a contract from `data`.
    gas_limit: estimated when None; give one when the transaction depends on others that are not mined yet.
    simulate: whether it is tried before it gets a nonce, and fails without one if it would revert; None: unless a gas
    limit is given. error_abi: the ABI entries of custom errors by which a revert is understood.
    priority: higher ones of a sender get their nonces first, equal ones in the order of submission.
    valid_until: after this instant it is not begun; if it was sent already, a no-op takes its nonce.
    """

    kind: ClassVar[str] = "transaction"
    result_type: ClassVar[Any] = Receipt

    chain_id: int = Field(gt=0, lt=2**63)
    sender: str = Field(min_length=1, max_length=100)
    to: Address | None
    data: HexData = "0x"
    value: Wei = 0
    gas_limit: int | None = Field(default=None, ge=21_000, lt=2**63)
    speed: Literal["economy", "standard", "fast"] = "standard"
    simulate: bool | None = None
    error_abi: tuple[dict[str, Any], ...] = ()
    priority: int = Field(default=0, ge=-100, le=100)
    label: str = Field(default="", max_length=200)
    valid_until: datetime | None = None

    @model_validator(mode="after")
    def _creation_has_code(self) -> "TransactionRequest":
        if self.to is None and self.data == "0x":
            raise ValueError("a contract creation (no `to`) needs code in `data`")
        if self.valid_until is not None and self.valid_until.tzinfo is None:
            raise ValueError("valid_until needs a time zone")
        return self

    def fingerprint(self) -> str:
        """Return a hash that tells two requests under one idempotency key apart."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def submit(self, operation: Operation, index: int) -> str:
        """Insert the transaction in the engine's own database transaction and return its id."""
        from signer.submission import submit_transaction

        transaction, _ = submit_transaction(
            self,
            idempotency_key=f"{operation.key}:{operation.attempt}:{index}",
            scope=WORKFLOW_SCOPE,
            correlation_id=operation.correlation_id,
        )
        return str(transaction.pk)

    @classmethod
    def withdraw(cls, reference: str) -> bool:
        """Cancel the transaction if no worker has begun with it; otherwise the chain decides how it ends."""
        from signer.settling import cancel_unbegun

        return cancel_unbegun(reference)
