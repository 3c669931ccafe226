"""What a lane must know of the chain before it acts, read in one batch and checked against what we registered."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from signer import fees
from signer.errors import RpcError, RpcNodeError, RpcTransportError
from signer.fees import Fees, Prices
from signer.models import Chain
from signer.rpc import Call, Rpc, quantity
from signer.rpc.door import LATEST
from signer.states import GAS_PRICED, Envelope, FeeMarket

# What the code of an address begins with that lets other code act for it. Source: EIP-7702.
DELEGATION = "0xef0100"


@dataclass(frozen=True)
class Market:
    """One look at the chain, for one address."""

    balance_wei: int
    mined_nonces: int  # the address's transaction count in the latest block
    delegated: bool  # the address has code by EIP-7702: a pool holds one transaction of it
    head_number: int
    block_gas_limit: int
    has_blob_gas: bool  # the header counts it (EIP-4844)
    has_requests: bool  # the header has their hash (EIP-7685): Prague
    is_rollup: bool  # of those whose oracle says what data costs on the chain below
    base_fee_wei: int
    blob_base_fee_wei: int
    quotes: Mapping[str, Fees]
    ceiling_wei: int
    ceiling_percent: int

    def quote(self, speed: str, envelope: str = Envelope.DYNAMIC_FEE) -> Fees:
        """Return what to offer now for a transaction of this kind, never above the chain's ceiling."""
        offer = fees.within(self.quotes[speed], self.ceiling_wei)
        if envelope == Envelope.BLOB:
            return offer
        if envelope in GAS_PRICED and self.base_fee_wei:
            return fees.single_price(offer, self.base_fee_wei)
        return fees.without_blobs(offer)

    def ceiling(self, speed: str) -> Fees:
        return fees.ceiling(self.quotes[speed], self.ceiling_wei, self.ceiling_percent)


def read_market(rpc: Rpc, chain: Chain, address: str, more: Sequence[Call] = ()) -> tuple[Market, list[Any]]:
    """Return the market and the answers to `more` (results or RpcErrors), all from one batch.

    Where the chain has several nodes the others are asked for the price at the same time, for one alone might say
    anything up to the ceiling. Raises RpcError when any part of the market is missing, ChainMismatchError when the node serves another chain.
    """
    legacy = chain.fee_market == FeeMarket.LEGACY
    price: Call = ("eth_gasPrice", []) if legacy else _fee_history()
    calls: list[Call] = [
        LATEST,
        ("eth_getBalance", [address, "latest"]),
        ("eth_getTransactionCount", [address, "latest"]),
        ("eth_getCode", [address, "latest"]),
        price,
    ]
    opinions = rpc.begin_opinions([price])
    # Proved: bytes signed for one chain may be valid on another, and its nonces are not ours.
    answers = rpc.batch([*calls, *more], prove=True)
    own, rest, others = answers[: len(calls)], answers[len(calls) :], [answer for [answer] in opinions()]
    if not legacy and isinstance(own[-1], RpcNodeError):
        own[-1] = _history_of_young_chain(rpc, own[0], own[-1])
    for answer in own:
        if isinstance(answer, RpcError):
            raise answer
    try:
        return _market(chain, own, others, legacy), rest
    except (KeyError, IndexError, TypeError, ValueError):
        raise RpcTransportError(f"{rpc.host} sent an answer of an unknown shape") from None


def count_with_pool(address: str) -> Call:
    """Return what asks for the count of an address's transactions with what waits in the node's pool.

    A hint, never an allocator; and a node may go through its whole pool for it.
    """
    return ("eth_getTransactionCount", [address.lower(), "pending"])  # in lower case EthereumJS finds it


def _fee_history(blocks: int = fees.HISTORY_BLOCKS) -> Call:
    return ("eth_feeHistory", [hex(blocks), "latest", list(fees.PERCENTILES.values())])


def _history_of_young_chain(rpc: Rpc, latest: Any, refusal: RpcNodeError) -> Any:
    """Return the fees of all blocks there are, or the refusal: EthereumJS has an error for whoever asks for more."""
    try:
        blocks = quantity(latest["number"]) + 1
    except (RpcError, KeyError, TypeError):
        return refusal
    return rpc.batch([_fee_history(blocks)], prove=True)[0] if blocks < fees.HISTORY_BLOCKS else refusal


def _market(chain: Chain, own: Sequence[Any], opinions: Sequence[Any], legacy: bool) -> Market:
    latest, balance, mined, code, price = own
    prices = fees.median([_prices(price, legacy), *_understood(opinions, legacy)])
    return Market(
        balance_wei=quantity(balance),
        mined_nonces=quantity(mined),
        delegated=str(code).lower().startswith(DELEGATION),
        head_number=quantity(latest["number"]),
        block_gas_limit=quantity(latest["gasLimit"]),
        has_blob_gas=latest.get("excessBlobGas") is not None,
        has_requests=latest.get("requestsHash") is not None,
        is_rollup=bool(chain.l1_fee_oracle),
        base_fee_wei=prices.base_fee_wei,
        blob_base_fee_wei=prices.blob_base_fee_wei,
        quotes=prices.quotes,
        ceiling_wei=chain.max_fee_per_gas_wei,
        ceiling_percent=chain.ceiling_percent,
    )


def _prices(answer: Any, legacy: bool) -> Prices:
    return fees.prices_of_gas_price(quantity(answer)) if legacy else fees.prices(answer)


def _understood(opinions: Sequence[Any], legacy: bool) -> list[Prices]:
    """Return what the other nodes say, of those who say something that is understood."""
    found = []
    for answer in opinions:
        if not isinstance(answer, RpcError):
            with suppress(RpcError, KeyError, IndexError, TypeError, ValueError, AttributeError):
                found.append(_prices(answer, legacy))
    return found
