"""What a transaction's data costs on the chain below (L1), where a contract of the chain says so: OP Stack's GasPriceOracle.

The fee is taken from the sender beside the gas, so it is part of what is reserved. It follows from the bytes and from the
chain below alone: a higher offer for gas changes nothing of it. Chains that charge for their data in gas have no such
contract, and need none.
"""

from typing import Any

from signer.errors import RpcError
from signer.models import Transaction
from signer.rpc import Call, quantity

# The chain below may ask more by the time the transaction is mined.
MARGIN_PERCENT = 125
SELECTOR = "0x49948e0e"  # getL1Fee(bytes)
ENVELOPE_BYTES = 130  # nonce, fees, addresses and signature around the data
ADDRESS_BYTES, SLOT_BYTES = 24, 33  # in an access list


def question(oracle: str, row: Transaction) -> Call:
    """Return what asks for the fee of as many bytes as the transaction will have.

    What is not known yet counts as incompressible, and so does its access list.
    """
    listed = row.access_list or []
    around = ENVELOPE_BYTES + sum(ADDRESS_BYTES + SLOT_BYTES * len(entry["storageKeys"]) for entry in listed)
    return question_about(oracle, bytes.fromhex(row.data[2:]), around)


def question_about(oracle: str, data: bytes, around: int = ENVELOPE_BYTES) -> Call:
    """Return what asks for the fee of a transaction with this data, and so many bytes around it that are not known yet."""
    body = data + b"\xff" * around
    padded = body + bytes(-len(body) % 32)
    asked = f"{SELECTOR}{32:064x}{len(body):064x}{padded.hex()}"
    return ("eth_call", [{"to": oracle, "data": asked}, "latest"])


def with_margin(answer: Any) -> int | None:
    """Return the fee to reserve, given the oracle's answer: None when it does not say."""
    try:
        return quantity(answer) * MARGIN_PERCENT // 100
    except RpcError:
        return None
