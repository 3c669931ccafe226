"""Transactions on a chain with a block each second: through the signer, as raw batches, by web3.py.

The node is anvil as it comes. What it takes then is bounded by the gas of its blocks; with roomy blocks, by the processors,
which it shares with whoever sends.

To be imported when Django is set up.
"""

import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import HTTPProvider, Web3
from web3.middleware import SignAndSendRawMiddlewareBuilder

from benchmarks.config import TRANSACTIONS
from benchmarks.contest import Contest, Peer, Sample
from benchmarks.stage import CONCURRENCY, POOL, Stage
from dalp.local.processes import wait_until
from dalp.local.servers import AnvilServer, start_anvil
from keyguard import create_key, find_key
from signer import Transaction, TransactionRequest, register_chain, submit_transactions
from signer.states import IN_FLIGHT, WAITING

BATCH = 100
BLOCK_SECONDS = 1
TIMEOUT_SECONDS = 300
ADDRESSES = 16
# What is done one by one: what a second of it is worth shows with fewer.
ALONE = 2000
LOOPED = 300
# One for each core, and one for the watcher of the chain, which waits half its time.
PROCESSES = CONCURRENCY + 1

KEY = "benchmark"
TARGET = "0x" + "11" * 20
GAS = 21_000
GWEI = 10**9
BLOCK_GAS = 30_000_000
ROOMY_BLOCK_GAS = 300_000_000

# The signer knows a chain by its id and its genesis: each fresh one is another chain.
_chain_ids = itertools.count(31337)


def contests(stage: Stage) -> Iterator[Contest]:
    """Prepare the contest, with warm workers."""
    keys = [create_key(f"{KEY}-{number}").alias for number in range(ADDRESSES)]
    with stage.worked_by(PROCESSES):
        send_durably(stage, 100, keys)
        yield contest(stage, keys)


def contest(stage: Stage, keys: Sequence[str]) -> Contest:
    return Contest(
        title="Transactions",
        unit="transactions",
        method=(
            f"{TRANSACTIONS} transfers of 1 wei, each time on a fresh anvil with a block per second; the clock starts with a block. "
            f"Blocks have room for {BLOCK_GAS} gas, as anvil's do of itself: {BLOCK_GAS // GAS} transfers; roomy ones for {ROOMY_BLOCK_GAS}. "
            f"DALP: submitted by one process, {BATCH} in a commit or each alone ({ALONE}), from one address, from {ADDRESSES} that have a commit each in "
            f"turn, or from {ADDRESSES} mixed in each commit; one worker, {POOL} with "
            f"{PROCESSES} processes; from the first submission to the last COMPLETED with 1 confirmation. Each brings its gas limit, so none is tried "
            "before it is sent, and a lane may have all of them in flight (by default 16: what every node takes). "
            f"Raw, the node's own limit: signed beforehand, in JSON-RPC batches of {BATCH}, from the first send until all are mined. "
            f"web3.py: {LOOPED} by send_transaction with its signing middleware, as its documentation has it: nonce, gas and fee asked for "
            "each, signed, sent; then every receipt is waited for. Beat stands still for all but DALP."
        ),
        settle=stage.settle,
        peers=[
            Peer(f"DALP, {BATCH} a commit", lambda: send_durably(stage, TRANSACTIONS, keys[:1])),
            Peer(f"DALP, {ADDRESSES} addresses", lambda: send_durably(stage, TRANSACTIONS, keys)),
            Peer(
                f"DALP, {ADDRESSES} addresses in each commit",
                lambda: send_durably(stage, TRANSACTIONS, keys, in_turn=1),
            ),
            Peer("DALP, 1 a commit", lambda: send_durably(stage, ALONE, keys[:1], batch=1)),
            Peer("raw batches", lambda: send_raw(stage, TRANSACTIONS)),
            Peer("web3.py loop", lambda: send_by_web3(stage, LOOPED)),
            Peer(
                f"DALP, {BATCH} a commit, roomy blocks",
                lambda: send_durably(stage, TRANSACTIONS, keys[:1], block_gas=ROOMY_BLOCK_GAS),
            ),
            Peer("raw batches, roomy blocks", lambda: send_raw(stage, TRANSACTIONS, ROOMY_BLOCK_GAS)),
        ],
    )


def send_durably(
    stage: Stage,
    count: int,
    keys: Sequence[str],
    batch: int = BATCH,
    block_gas: int = BLOCK_GAS,
    in_turn: int = BATCH,
) -> Sample:
    """Send so many and wait for their end; in_turn: so many of a key, then so many of the next."""
    label = uuid.uuid4().hex
    addresses = [find_key(key).address for key in keys]
    with fresh_chain(*addresses, block_gas=block_gas) as chain:
        chain_id = register(chain, count)
        requests = [
            (
                TransactionRequest(
                    chain_id=chain_id,
                    sender=keys[number // in_turn % len(keys)],
                    to=TARGET,
                    value=1,
                    gas_limit=GAS,
                ),
                str(number),
            )
            for number in range(count)
        ]
        ours = Transaction.objects.filter(scope=label)
        began = start_with_block(chain)
        for start in range(0, count, batch):
            submit_transactions(requests[start : start + batch], scope=label)
        submitted = time.perf_counter()
        wait_for_all(stage, chain_id)
        seconds = time.perf_counter() - began
        verify(chain, addresses, count)
    instants = ours.values_list("created_at", "settled_at")
    latencies = [(settled - created).total_seconds() for created, settled in instants if settled]
    return Sample(
        count,
        seconds,
        {"submitting_seconds": submitted - began, "median_latency_seconds": median(latencies)},
    )


def wait_for_all(stage: Stage, chain_id: int) -> None:
    """Wait until all of the chain's transactions have ended."""
    left = Transaction.objects.filter(chain_id=chain_id)
    wait_until(
        # Each has an index of its own; to ask for both at once would read the table, twenty times a second.
        lambda: not (left.filter(state__in=IN_FLIGHT).exists() or left.filter(state__in=WAITING).exists()),
        TIMEOUT_SECONDS,
        every=0.05,
        what="all transactions are COMPLETED",
        alive=[stage.worker, stage.beat],
    )


def register(chain: AnvilServer, count: int) -> int:
    """Make the chain known to the signer, with room for all in flight at once."""
    register_chain(
        chain.chain_id,
        f"benchmark {chain.chain_id}",
        [chain.url],
        confirmations=1,
        block_time=BLOCK_SECONDS,
        max_in_flight=count,
    )
    return chain.chain_id


def send_raw(stage: Stage, count: int, block_gas: int = BLOCK_GAS) -> Sample:
    account = Account.create()
    with stage.quiet(), fresh_chain(account.address, block_gas=block_gas) as chain:
        signed = [sign(account, chain.chain_id, nonce) for nonce in range(count)]
        session = requests.Session()
        began = start_with_block(chain)
        for start in range(0, count, BATCH):
            post(session, chain.url, signed[start : start + BATCH])
        submitted = time.perf_counter()
        wait_until(
            lambda: mined(chain, account.address) == count,
            TIMEOUT_SECONDS,
            every=0.02,
            what="all transactions are mined",
        )
        seconds = time.perf_counter() - began
        verify(chain, [account.address], count)
    return Sample(count, seconds, {"submitting_seconds": submitted - began})


def send_by_web3(stage: Stage, count: int) -> Sample:
    account = Account.create()
    with stage.quiet(), fresh_chain(account.address) as chain:
        web3 = Web3(HTTPProvider(chain.url))
        web3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), layer=0)
        began = start_with_block(chain)
        hashes = [
            web3.eth.send_transaction({"from": account.address, "to": TARGET, "value": 1})
            for _ in range(count)
        ]
        submitted = time.perf_counter()
        for transaction_hash in hashes:
            web3.eth.wait_for_transaction_receipt(transaction_hash, timeout=TIMEOUT_SECONDS)
        seconds = time.perf_counter() - began
        verify(chain, [account.address], count)
    return Sample(count, seconds, {"submitting_seconds": submitted - began})


@contextmanager
def fresh_chain(*payers: str, block_gas: int = BLOCK_GAS) -> Iterator[AnvilServer]:
    chain = start_anvil(block_time=BLOCK_SECONDS, chain_id=next(_chain_ids), gas_limit=block_gas)
    try:
        for payer in payers:
            chain.fund(payer)
        yield chain
    finally:
        chain.stop()


def start_with_block(chain: AnvilServer) -> float:
    """Wait for the next block and return the instant: else each measurement would gain or lose part of a block."""
    before = chain.block_number()
    wait_until(lambda: chain.block_number() > before, every=0.002, what="the chain mines")
    return time.perf_counter()


def sign(account: LocalAccount, chain_id: int, nonce: int) -> bytes:
    fields = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "to": TARGET,
        "value": 1,
        "gas": GAS,
        "maxFeePerGas": 100 * GWEI,
        "maxPriorityFeePerGas": GWEI,
    }
    return bytes(account.sign_transaction(fields).raw_transaction)


def post(session: requests.Session, url: str, batch: Sequence[bytes]) -> None:
    body = [
        {"jsonrpc": "2.0", "id": number, "method": "eth_sendRawTransaction", "params": ["0x" + raw.hex()]}
        for number, raw in enumerate(batch)
    ]
    answers = session.post(url, json=body, timeout=60).json()
    if refused := [answer["error"] for answer in answers if "error" in answer]:
        raise RuntimeError(f"the node refused {len(refused)} of {len(batch)}: {refused[0]}")


def mined(chain: AnvilServer, sender: str) -> int:
    return int(chain.rpc("eth_getTransactionCount", sender, "latest"), 16)


def verify(chain: AnvilServer, senders: Sequence[str], count: int) -> None:
    """Raise unless the chain executed exactly what was asked for: nothing lost, nothing twice."""
    received = int(chain.rpc("eth_getBalance", TARGET, "latest"), 16)
    executed = sum(mined(chain, sender) for sender in senders)
    if (executed, received) != (count, count):
        raise RuntimeError(f"{count} were sent, the chain has {executed}, and {received} wei arrived")
