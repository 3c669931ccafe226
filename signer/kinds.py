"""Whether a chain takes a kind of transaction, as its newest block shows it. Pure.

Nothing of it is remembered: a chain that was upgraded takes from its next block on what it refused before. What a node
does not show is not refused here; then it decides when it is sent the bytes.
"""

from typing import Any

from signer.errors import EnvelopeUnsupportedError
from signer.market import Market
from signer.models import Transaction
from signer.rpc import Call
from signer.states import Envelope

# Adds two points at infinity: 128 bytes, or nothing before Prague. Source: EIP-2537, which came with EIP-7702, also to
# rollups whose headers show nothing of Prague.
PRAGUE: Call = ("eth_call", [{"to": "0x" + "0" * 38 + "0b", "data": "0x" + "00" * 256}, "latest"])

AGAIN = "Submitting it again helps once the chain is upgraded"
NEVER = "Submitting it again does not help"
ELSEWHERE = "send the bytes as `data`, or on another chain."


def refusal(row: Transaction, market: Market, prague: Any = None) -> dict[str, str] | None:
    """Return the error of a transaction that the chain cannot take, or None.

    prague: the answer to PRAGUE, or an RpcError; None when it was not asked.
    """
    why = ""
    if row.envelope == Envelope.BLOB:
        why = _without_blobs(market)
    elif row.envelope == Envelope.SET_CODE and not market.has_requests and prague == "0x":
        why = (
            f"authorizations (EIP-7702): block {market.head_number} has no requestsHash and its precompiles are those "
            f"from before Prague. {AGAIN}; until then leave the authorizations out, or use another chain."
        )
    return (
        {"code": EnvelopeUnsupportedError.code, "message": f"chain {row.chain_id} takes no {why}"}
        if why
        else None
    )


def _without_blobs(market: Market) -> str:
    """Return why there are no blobs, or nothing. Headers of rollups have the fields, and say nothing with them."""
    block = f"blobs (EIP-4844): block {market.head_number}"
    if market.is_rollup:
        return f"blobs (EIP-4844): it has an L1 fee oracle, and such rollups take none. {NEVER}; {ELSEWHERE}"
    if not market.has_blob_gas:
        return f"{block} has no excessBlobGas, as before Cancun. {AGAIN}; until then {ELSEWHERE}"
    if not market.blob_base_fee_wei:
        return (
            f"{block} has excessBlobGas, but its node names no price for it (eth_feeHistory, baseFeePerBlobGas). "
            f"Submitting it again helps with another node (add_chain); else {ELSEWHERE}"
        )
    return ""
