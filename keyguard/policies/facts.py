"""What a request is, as far as a policy may ask. Read from what will be signed, and from nothing else. Pure.

`what` sorts requests by what they can do: what hands out a right is never taken for the call that it looks like.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from eth_hash.auto import keccak

from keyguard.authorizations import Authorization
from keyguard.blobs import GAS_PER_BLOB
from keyguard.calls import Call
from keyguard.curve import checksummed
from keyguard.ethereum import GAS_PRICED, UnsignedTransaction
from keyguard.jobs import Content, Job
from keyguard.typed_data import TypedData


class What(StrEnum):
    """The kinds of things that can be asked for. A rule that allows says which of them it means."""

    NOOP = "noop"  # nothing to itself: uses a nonce up
    PAYMENT = "payment"
    CALL = "call"
    ALLOWANCE = "allowance"  # lets another take tokens: by a call or by typed data
    CREATION = "creation"
    DELEGATION = "delegation"  # lets code act for the account (EIP-7702), or carries what does
    MESSAGE = "message"
    TYPED_DATA = "typed_data"


# Calls that let another address take what the sender has. Sources: EIP-20, 721, 1155, 2612; OpenZeppelin; Permit2.
ALLOWANCES = (
    "approve(address,uint256)",
    "increaseAllowance(address,uint256)",
    "increaseApproval(address,uint256)",
    "setApprovalForAll(address,bool)",
    "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
    "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
    "approve(address,address,uint160,uint48)",
    "authorizeOperator(address)",
    "setOperator(address,bool)",
    "approve(address,uint256,uint256)",
)
# Typed data that does the same, by the beginning of its primary type's name.
ALLOWANCE_TYPES = (
    "Permit",
    "Approve",
    "SetApprovalForAll",
    "TransferWithAuthorization",
    "ReceiveWithAuthorization",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one request. `None` and empty: it has none."""

    what: What
    key: str  # alias
    address: str  # of the key, in lower case
    caller: str
    at: datetime
    chain: int | None = None
    to: str = ""  # a transaction's target, typed data's contract, an authorisation's delegate; in lower case
    value: int = 0
    gas_cost: int | None = 0  # the most that its gas may cost in wei; None: nobody can know
    data: bytes = field(default=b"", repr=False)
    primary_type: str = ""
    domain: Mapping[str, Any] = field(default_factory=dict, repr=False)
    message: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # A digest of what no rule asks for and people's answer is bound to all the same.
    rest: str = field(default="", repr=False, compare=False)
    # The arguments of the call by the function's text: several rules may ask for them.
    read: dict[str, dict[str, Any] | None] = field(default_factory=dict, repr=False, compare=False)

    selector: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "selector", self.data[:4])


def facts_of(job: Job, at: datetime) -> Facts:
    """Return what a policy may know of the job."""
    return facts_of_content(job.content, job.key.alias, job.key.address, job.caller, at)


def facts_of_content(content: "Content | Call", alias: str, address: str, caller: str, at: datetime) -> Facts:
    """As `facts_of`, for content that may be no job's: a call that a custody is to execute."""
    who: dict[str, Any] = {"key": alias, "address": address.lower(), "caller": caller, "at": at}
    match content:
        case UnsignedTransaction():
            return Facts(
                what=_what(content, who["address"]),
                chain=content.chain_id,
                to=_hex(content.to),
                value=content.value,
                gas_cost=_gas_cost(content),
                data=content.data,
                rest=_rest(content),
                **who,
            )
        case Call():
            cost = None
            if content.gas_limit is not None and content.max_fee_per_gas_wei is not None:
                cost = content.gas_limit * content.max_fee_per_gas_wei
            return Facts(
                what=_what_call(content.to, content.value, content.data, who["address"]),
                chain=content.chain_id,
                to=_hex(content.to),
                value=content.value,
                gas_cost=cost,
                data=content.data,
                **who,
            )
        case TypedData():
            grants = content.primary_type.startswith(ALLOWANCE_TYPES)
            return Facts(
                what=What.ALLOWANCE if grants else What.TYPED_DATA,
                chain=content.chain_id,
                to=_hex(content.verifying_contract),
                primary_type=content.primary_type,
                domain=content.domain,
                message=content.message,
                rest=hashlib.sha256(content.payload()).hexdigest(),  # the types, too
                **who,
            )
        case Authorization():
            return Facts(what=What.DELEGATION, chain=content.chain_id, to=_hex(content.delegate), **who)
        case bytes():
            return Facts(what=What.MESSAGE, data=content, **who)


def _what(content: UnsignedTransaction, address: str) -> What:
    if content.authorizations:
        return What.DELEGATION
    return _what_call(content.to, content.value, content.data, address)


def _what_call(to: bytes, value: int, data: bytes, address: str) -> What:
    if not to:
        return What.CREATION
    if not data:
        return What.NOOP if not value and _hex(to) == address else What.PAYMENT
    return What.ALLOWANCE if data[:4] in _allowances() else What.CALL


@cache
def _allowances() -> frozenset[bytes]:
    return frozenset(keccak(signature.encode())[:4] for signature in ALLOWANCES)


def _gas_cost(content: UnsignedTransaction) -> int:
    price = content.gas_price if content.type in GAS_PRICED else content.max_fee_per_gas
    blobs = len(content.sidecar.versioned_hashes) if content.sidecar else 0
    return content.gas * price + blobs * GAS_PER_BLOB * content.max_fee_per_blob_gas


def _rest(content: UnsignedTransaction) -> str:
    """Return a digest of what a transaction carries besides, without the nonces, which may change; mostly nothing."""
    blobs = content.sidecar.versioned_hashes if content.sidecar else ()
    # The delegates and who hands over to them; the signatures are of the nonces.
    carried = [(one.chain_id, one.delegate, one.authority()) for one in content.authorizations]
    if not (content.access_list or blobs or carried):
        return ""
    return hashlib.sha256(repr([content.access_list, list(blobs), carried]).encode()).hexdigest()


def _hex(address: bytes) -> str:
    return f"0x{address.hex()}" if address else ""


def shown(facts: Facts) -> dict[str, Any]:
    """Return a request as people read it, and as a rehearsal reads it again."""
    return {
        "what": str(facts.what),
        "key": facts.key,
        "address": checksummed(facts.address),
        "caller": facts.caller,
        "at": facts.at.isoformat(),
        "chain": facts.chain,
        "to": checksummed(facts.to) if facts.to else "",
        "value": str(facts.value),
        "gas_cost": None if facts.gas_cost is None else str(facts.gas_cost),
        "data": f"0x{facts.data.hex()}",
        "primary_type": facts.primary_type,
        "domain": plain(facts.domain),
        "message": plain(facts.message),
    }


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it without losing a digit."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    return value if isinstance(value, bool | str) or value is None else str(value)


def facts_from(given: Mapping[str, Any]) -> Facts:
    """Return the facts of which `shown` made this."""
    return Facts(
        What(given["what"]),
        given["key"],
        given["address"].lower(),
        given["caller"],
        datetime.fromisoformat(given["at"]),
        given["chain"],
        given["to"].lower(),
        int(given["value"]),
        None if given["gas_cost"] is None else int(given["gas_cost"]),
        bytes.fromhex(given["data"][2:]),
        given["primary_type"],
        _numbers(given["domain"]),
        _numbers(given["message"]),
    )


def _numbers(value: Any) -> Any:
    """Take back what `plain` did to integers; what only looks like one is compared as one anyway."""
    if isinstance(value, Mapping):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return int(value) if isinstance(value, str) and value.removeprefix("-").isdecimal() else value
