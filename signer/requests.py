"""What the signer is asked for and what it answers, as values: the request, the receipt, and their types."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from eth_utils.address import is_checksum_formatted_address, is_hex_address, to_checksum_address
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from signer.errors import EnvelopeUnsupportedError
from signer.intrinsic import least_gas
from signer.states import Envelope, FeeMarket
from workflows import Command, Operation

MAX_UINT256 = 2**256 - 1
# geth refuses transactions over 128 KB in all; the rest is room for the other fields and the signature.
MAX_DATA_BYTES = 127 * 1024
BLOB_BYTES = 131_072
MAX_BLOBS = 6
MAX_AUTHORIZATIONS = 64
# What each takes in a transaction at most, with its length before it.
ADDRESS_BYTES, SLOT_BYTES, AUTHORIZATION_BYTES = 29, 33, 108
# Of BLS12-381: a blob's field elements are below it. Source: EIP-4844.
BLS_MODULUS = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001


def checksummed(text: str) -> str:
    """Return the address with its checksum. Raises ValueError."""
    if not is_hex_address(text) or not text.startswith(("0x", "0X")):
        raise ValueError("not an address: 0x and 40 hexadecimal digits")
    checksummed = to_checksum_address(text)
    # Mixed case is a checksum (EIP-55); a wrong one is a mistyped address.
    if is_checksum_formatted_address(text) and text != checksummed:
        raise ValueError("the address's checksum is wrong")
    return checksummed


def _require_room(data: str, size: int = 0) -> None:
    """Refuse call data that, with `size` bytes beside it, no node would take. Raises ValueError."""
    if (len(data) - 2) // 2 + size > MAX_DATA_BYTES:
        beside = "with the data " if size else ""
        raise ValueError(f"{beside}more than {MAX_DATA_BYTES // 1024} KiB, which no node takes")


def _lower_hex(text: str) -> str:
    _require_room(text)
    text = text.lower()
    if len(text) % 2:
        raise ValueError("an odd number of hexadecimal digits")
    return text


def _field_elements(text: str) -> str:
    data = bytes.fromhex(text[2:])
    if len(data) != BLOB_BYTES:
        raise ValueError(f"a blob has {BLOB_BYTES} bytes")
    for start in range(0, BLOB_BYTES, 32):
        if int.from_bytes(data[start : start + 32]) >= BLS_MODULUS:
            raise ValueError(f"the 32 bytes at {start} are no field element: let each begin with a zero byte")
    return text.lower()


Address = Annotated[str, StringConstraints(max_length=42), AfterValidator(checksummed)]
HexData = Annotated[
    str,
    StringConstraints(pattern=r"^0x[0-9a-fA-F]*$"),
    AfterValidator(_lower_hex),
]
Word = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$"), AfterValidator(str.lower)]
Blob = Annotated[
    str,
    StringConstraints(pattern=r"^0x(?:[0-9a-fA-F]{2})*$", max_length=2 + 2 * BLOB_BYTES),
    AfterValidator(_field_elements),
]
Wei = Annotated[int, Field(ge=0, le=MAX_UINT256)]

WORKFLOW_SCOPE = "workflow"


def _listed_bytes(entries: "list[AccessListItem] | None") -> int:
    return sum(ADDRESS_BYTES + SLOT_BYTES * len(entry.storageKeys) for entry in entries or [])


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


class AccessListItem(BaseModel):
    """A contract that the transaction will touch, and its storage slots. As eth_createAccessList returns it (EIP-2930)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    address: Address
    storageKeys: list[Word]  # noqa: N815


class AuthorizationRequest(BaseModel):
    """That the code of `delegate` shall act for the account `authority` (EIP-7702).

    authority: the alias or address of a key in keyguard, which signs it. delegate: a contract that keyguard allows, or
    the zero address, which takes a delegation back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    authority: str = Field(min_length=1, max_length=100)
    delegate: Address


class TransactionRequest(Command):
    """A transaction to be executed once. Returned by a workflow's step, the run waits for its receipt.

    sender: the alias or address of a key in keyguard. to: None creates a contract from `data`.
    gas_limit: estimated when None; give one when the transaction depends on others that are not mined yet.
    simulate: whether it is tried before it gets a nonce, and fails without one if it would revert; None: unless a gas
    limit is given. error_abi: the ABI entries of custom errors by which a revert is understood.
    valid_until: after this instant it is not begun; if it was sent already, a no-op takes its nonce.
    access_list: what it will touch. envelope: the kind of transaction, where the chain's own does not do.
    blobs: at most six of 131072 bytes each, as 0x text (EIP-4844). authorizations: accounts to be handed to contracts
    (EIP-7702); then `gas_limit` is required, for nobody can estimate what they will do before they are signed.
    priority: 0 to 9; higher ones get their nonces first.
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
    label: str = Field(default="", max_length=200)
    valid_until: datetime | None = None
    access_list: list[AccessListItem] | None = None
    envelope: Literal["legacy", "access_list", "dynamic_fee"] | None = None
    blobs: list[Blob] = Field(default=[], max_length=MAX_BLOBS, repr=False)
    authorizations: list[AuthorizationRequest] = Field(default=[], max_length=MAX_AUTHORIZATIONS)
    priority: int = Field(default=0, ge=0, le=9)

    @field_validator("access_list")
    @classmethod
    def _access_list_fits(
        cls, entries: list[AccessListItem] | None, info: ValidationInfo
    ) -> list[AccessListItem] | None:
        _require_room(info.data.get("data", "0x"), _listed_bytes(entries))
        return entries

    @field_validator("envelope")
    @classmethod
    def _envelope_holds_the_access_list(cls, envelope: str | None, info: ValidationInfo) -> str | None:
        if envelope == "legacy" and info.data.get("access_list"):
            raise ValueError("a legacy transaction has no access list")
        return envelope

    @field_validator("blobs", "authorizations")
    @classmethod
    def _can_be_carried(cls, carried: list[Any], info: ValidationInfo) -> list[Any]:
        if not carried:
            return carried
        if info.data.get("to", "malformed") is None:
            raise ValueError("a transaction that creates a contract (no `to`) carries none")
        if info.data.get("envelope") is not None:
            raise ValueError("these have a kind of transaction of their own: leave `envelope` out")
        if info.data.get("blobs"):
            raise ValueError("a transaction carries blobs or authorizations, not both")
        return carried

    @field_validator("authorizations")
    @classmethod
    def _authorizations_are_paid_for(
        cls, wanted: list[AuthorizationRequest], info: ValidationInfo
    ) -> list[AuthorizationRequest]:
        if wanted and info.data.get("gas_limit") is None:
            raise ValueError("a transaction with authorizations needs a gas_limit")
        listed = _listed_bytes(info.data.get("access_list"))
        _require_room(info.data.get("data", "0x"), listed + AUTHORIZATION_BYTES * len(wanted))
        return wanted

    @model_validator(mode="after")
    def _creation_has_code(self) -> "TransactionRequest":
        if self.to is None and self.data == "0x":
            raise ValueError("a contract creation (no `to`) needs code in `data`")
        if self.valid_until is not None and self.valid_until.tzinfo is None:
            raise ValueError("valid_until needs a time zone")
        return self

    @model_validator(mode="after")
    def _gas_limit_is_enough_to_begin(self) -> "TransactionRequest":
        listed = self.access_list or []
        least = least_gas(
            self.data,
            creates=self.to is None,
            addresses=len(listed),
            slots=sum(len(entry.storageKeys) for entry in listed),
            authorizations=len(self.authorizations),
        )
        if self.gas_limit is not None and self.gas_limit < least:
            raise ValueError(f"gas_limit is too low: {least} is used before any code runs")
        return self

    def kind_on(self, fee_market: FeeMarket | str) -> Envelope:
        """Return the kind of transaction to make on a chain with this fee market. Raises EnvelopeUnsupportedError."""
        if fee_market == FeeMarket.LEGACY and (
            self.blobs or self.authorizations or self.envelope == "dynamic_fee"
        ):
            raise EnvelopeUnsupportedError(
                "the chain had no base fee (EIP-1559) when it was registered, so it takes no such transaction"
            )
        if self.blobs:
            return Envelope.BLOB
        if self.authorizations:
            return Envelope.SET_CODE
        if self.envelope is not None:
            return Envelope(self.envelope.upper())
        if fee_market == FeeMarket.LEGACY:
            return Envelope.ACCESS_LIST if self.access_list else Envelope.LEGACY
        return Envelope.DYNAMIC_FEE

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
