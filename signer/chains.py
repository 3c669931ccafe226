"""Chains and the way to their nodes: registering one, checking that a node serves it."""

from collections.abc import Sequence

from django.db import transaction

from signer.errors import ChainMismatchError, RpcError, UnknownChainError
from signer.models import Chain, Endpoint
from signer.rpc import Rpc, quantity
from signer.states import FeeMarket


def connect(chain: Chain | int) -> Rpc:
    """Return the chain's node. Raises UnknownChainError when none is registered."""
    chain_id = chain.pk if isinstance(chain, Chain) else chain
    url = Endpoint.objects.filter(chain_id=chain_id).values_list("url", flat=True).first()
    if url is None:
        raise UnknownChainError(f"chain {chain_id} is not registered")
    return Rpc(url)


def find_chain(chain_id: int) -> Chain:
    """Return the registered chain. Raises UnknownChainError."""
    chain = Chain.objects.filter(pk=chain_id).first()
    if chain is None:
        raise UnknownChainError(f"chain {chain_id} is not registered")
    return chain


def register_chain(
    chain_id: int,
    name: str,
    rpc_urls: Sequence[str],
    *,
    confirmations: int | None = None,
    block_time: float | None = None,
    max_in_flight: int | None = None,
) -> Chain:
    """Register a chain, or update the one registered; what is None keeps its value.

    rpc_urls: its nodes, in order of preference; replaces the list. block_time: seconds.
    Each node is asked for its chain id and its genesis block first. Raises ChainMismatchError, RpcError; then nothing
    is changed.
    """
    known = Chain.objects.filter(pk=chain_id).first()
    identities = {identify(Rpc(url), chain_id) for url in rpc_urls}
    if len(identities) != 1:
        raise ChainMismatchError(f"the nodes given for chain {chain_id} do not agree on its genesis block")
    [(genesis_hash, fee_market)] = identities
    if known is not None and known.genesis_hash != genesis_hash:
        raise ChainMismatchError(
            f"chain {chain_id} was registered with genesis {known.genesis_hash}; the node's is {genesis_hash}"
        )
    updates = {
        "confirmations": confirmations,
        "block_time_ms": None if block_time is None else max(1, round(block_time * 1000)),
        "max_in_flight": max_in_flight,
    }
    with transaction.atomic():
        chain, _ = Chain.objects.update_or_create(
            pk=chain_id,
            defaults={
                "name": name,
                "genesis_hash": genesis_hash,
                "fee_market": fee_market,
                **{field: value for field, value in updates.items() if value is not None},
            },
        )
        Endpoint.objects.filter(chain=chain).delete()
        Endpoint.objects.bulk_create(
            Endpoint(chain=chain, url=url, position=n) for n, url in enumerate(rpc_urls)
        )
    return chain


def identify(rpc: Rpc, chain_id: int) -> tuple[str, FeeMarket]:
    """Return the genesis hash and the fee market of the chain behind the node. Raises ChainMismatchError, RpcError."""
    found, genesis, latest = rpc.batch_or_raise(
        [
            ("eth_chainId", []),
            ("eth_getBlockByNumber", ["0x0", False]),
            ("eth_getBlockByNumber", ["latest", False]),
        ]
    )
    if quantity(found) != chain_id:
        raise ChainMismatchError(f"{rpc.host} serves chain {quantity(found)}, not {chain_id}")
    if not genesis or not latest:
        raise RpcError(f"{rpc.host} does not give its first and its latest block")
    fee_market = FeeMarket.EIP1559 if latest.get("baseFeePerGas") else FeeMarket.LEGACY
    return genesis["hash"].lower(), fee_market


def check_chain(chain: Chain) -> None:
    """Raise when the chain's node does not answer, or serves another chain than the one registered."""
    genesis_hash, _ = identify(connect(chain), chain.pk)
    if genesis_hash != chain.genesis_hash:
        raise ChainMismatchError(
            f"the node of chain {chain.pk} has another genesis block than the one registered"
        )
