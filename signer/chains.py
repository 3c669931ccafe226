"""Chains and the way to their nodes: registering one, checking that a node serves it."""

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction

from signer.errors import ChainMismatchError, RpcError, UnknownChainError
from signer.models import Chain, Endpoint
from signer.ringing import after_commit
from signer.routing import announce
from signer.rpc import BATCH_SIZE, Node, Rpc, health, pauses, quantity
from signer.rpc.breaker import Pause
from signer.rpc.contacts import PROOF, Contact, Identity
from signer.rpc.door import LATEST
from signer.rpc.gateway import Gateway
from signer.rpc.methods import LIGHT
from signer.states import FeeMarket, Finality, ForeignNonces, PauseKind
from workflows import db_now


def connect(chain: Chain | int) -> Gateway:
    """Return the way to the chain's nodes, as their rows stand now. Raises UnknownChainError when there is none."""
    chain_id = chain.pk if isinstance(chain, Chain) else chain
    endpoints = Endpoint.objects.filter(chain_id=chain_id).annotate(now=db_now())
    rows = list(endpoints if isinstance(chain, Chain) else endpoints.select_related("chain"))
    if not rows:
        raise UnknownChainError(f"chain {chain_id} is not registered")
    registered = chain if isinstance(chain, Chain) else rows[0].chain
    identity = Identity(chain_id, registered.genesis_hash)
    return Gateway(chain_id, registered.block_time_ms / 1000, [_contact(row, identity) for row in rows])


def _contact(row: Any, identity: Identity) -> Contact:
    known = health.of(row.pk, row.url)
    if not known.unwritten:  # what this process has met since is newer than the row
        known.set_pause(_pause(row), time.monotonic())
    if not known.latencies and row.latency_ms is not None:
        known.latencies[LIGHT] = row.latency_ms / 1000
    return Contact(
        pk=row.pk,
        node=known.node(row.url),
        identity=identity,
        health=known,
        proof_seconds=float(settings.SIGNER["identity_seconds"]),
        position=row.position,
        weight=row.weight,
        size=row.batch_size or BATCH_SIZE,
        is_behind=row.is_behind,
    )


def _pause(row: Any) -> Pause | None:
    if row.paused_until is None:
        return None
    left = (row.paused_until - row.now).total_seconds()
    return Pause(PauseKind(row.pause_kind or PauseKind.FAILING), left, row.pause_reason)


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
    max_in_flight_adaptive: int | None = None,
    finality: Finality | None = None,
    max_fee_per_gas_wei: int | None = None,
    ceiling_percent: int | None = None,
    foreign_nonces: ForeignNonces | None = None,
    l1_fee_oracle: str | None = None,
) -> Chain:
    """Register a chain, or update the one registered; what is None keeps its value.

    rpc_urls: its nodes, in order of preference; replaces the list. A ws:// or wss:// URL is where the node before it (or
    the first) announces new blocks. block_time: seconds. The rest is what `signer.models.Chain` says.
    Each node is asked for its chain id and its genesis block first. Raises ChainMismatchError, RpcError, and ValueError
    without an http(s) URL; then nothing is changed.
    """
    known = Chain.objects.filter(pk=chain_id).first()
    ways = sorted_urls(rpc_urls)
    identities = {identify(Node(url), chain_id) for url, _ in ways}
    for _, heads_url in ways:
        if heads_url:
            from signer.rpc.announcements import check_source  # loads websockets

            check_source(heads_url, chain_id)
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
        "max_in_flight_adaptive": max_in_flight_adaptive,
        "finality": finality,
        "max_fee_per_gas_wei": max_fee_per_gas_wei,
        "ceiling_percent": ceiling_percent,
        "foreign_nonces": foreign_nonces,
        "l1_fee_oracle": l1_fee_oracle,
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
        pauses.forget_incidents(chain_id)
        Endpoint.objects.filter(chain=chain).delete()
        Endpoint.objects.bulk_create(
            Endpoint(chain=chain, url=url, heads_url=heads_url, position=n)
            for n, (url, heads_url) in enumerate(ways)
        )
        after_commit(lambda: announce([chain_id]))
    return chain


def sorted_urls(urls: Sequence[str]) -> list[tuple[str, str]]:
    """Return the nodes' URLs, each with the one where it announces new blocks, or "". Raises ValueError without a node."""
    ways: list[tuple[str, str]] = []
    early = ""
    for url in urls:
        if urlsplit(url).scheme not in ("ws", "wss"):
            ways.append((url, early))
            early = ""
        elif ways:
            ways[-1] = (ways[-1][0], url)
        else:
            early = url
    if not ways:
        raise ValueError("a chain needs at least one http:// or https:// URL")
    return ways


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


def look_at(url: str, chain: Chain) -> Any:
    """Return the newest header of the node at this URL. Raises RpcError when it does not serve the chain."""
    found, genesis, latest = Node(url).batch_or_raise([*PROOF, LATEST])
    Identity(chain.pk, chain.genesis_hash).check(Node(url).host, [found, genesis])
    if not isinstance(latest, dict):
        raise RpcError("the node does not give its latest block")
    return latest
