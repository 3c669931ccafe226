"""Transactions of one address on a chain with a block each second: through the signer, as raw batches, by web3.py.

To be imported when Django is set up.
"""

import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import requests
from django.db.transaction import atomic
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import HTTPProvider, Web3

from benchmarks.config import TRANSACTIONS
from benchmarks.contest import Contest, Peer, Sample
from benchmarks.stage import CONCURRENCY, POOL, Stage
from dalp.local.processes import wait_until
from dalp.local.servers import AnvilServer, start_anvil
from keyguard import create_key, find_key
from signer import Transaction, TransactionRequest, TransactionState, register_chain, submit_transaction

BATCH = 100
BLOCK_SECONDS = 1
TIMEOUT_SECONDS = 300

KEY = "benchmark"
TARGET = "0x" + "11" * 20
GAS = 21_000
GWEI = 10**9

# The signer knows a chain by its id and its genesis: each fresh one is another chain.
_chain_ids = itertools.count(31337)


def contests(stage: Stage) -> Iterator[Contest]:
    """Prepare the contest, with warm workers."""
    create_key(KEY)
    send_durably(stage, 20)
    yield Contest(
        title="Transactions of one address",
        unit="transactions",
        method=(
            f"{TRANSACTIONS} transfers of 1 wei, each on a fresh anvil with a block per second; the clock starts with a block. "
            f"DALP: submit_transaction for each, {BATCH} or one of them in a commit, in one process; one worker, {POOL} with {CONCURRENCY} processes; "
            "from the first submission to the last COMPLETED with 1 confirmation. "
            f"Raw: signed beforehand, in JSON-RPC batches of {BATCH}, until all are mined; one block has room for all. "
            "web3.py: sign and send one at a time, then wait for every receipt. Beat stands still during both."
        ),
        settle=stage.settle,
        peers=[
            Peer(f"DALP, {BATCH} a commit", lambda: send_durably(stage, TRANSACTIONS)),
            Peer("DALP, 1 a commit", lambda: send_durably(stage, TRANSACTIONS, batch=1)),
            Peer("raw batches", lambda: send_raw(stage, TRANSACTIONS)),
            Peer("web3.py loop", lambda: send_by_web3(stage, TRANSACTIONS)),
        ],
    )


def send_durably(stage: Stage, count: int, batch: int = BATCH) -> Sample:
    key, label = find_key(KEY), uuid.uuid4().hex
    with fresh_chain(key.address) as chain:
        url, chain_id = chain.url, chain.chain_id
        register_chain(
            chain_id,
            f"benchmark {chain_id}",
            [url],
            confirmations=1,
            block_time=BLOCK_SECONDS,
            max_in_flight=count,
        )
        request = TransactionRequest(chain_id=chain_id, sender=KEY, to=TARGET, value=1, gas_limit=GAS)
        ours = Transaction.objects.filter(scope=label)
        began = start_with_block(chain)
        for start in range(0, count, batch):
            with atomic():
                for number in range(start, min(start + batch, count)):
                    submit_transaction(request, idempotency_key=str(number), scope=label)
        submitted = time.perf_counter()
        wait_until(
            lambda: ours.filter(state=TransactionState.COMPLETED).count() == count,
            TIMEOUT_SECONDS,
            every=0.02,
            what="all transactions are COMPLETED",
            alive=[stage.worker, stage.beat],
        )
        seconds = time.perf_counter() - began
        verify(chain, key.address, count)
    instants = ours.values_list("created_at", "settled_at")
    latencies = [(settled - created).total_seconds() for created, settled in instants if settled]
    return Sample(
        count,
        seconds,
        {"submitting_seconds": submitted - began, "median_latency_seconds": median(latencies)},
    )


def send_raw(stage: Stage, count: int) -> Sample:
    account = Account.create()
    with stage.quiet(), fresh_chain(account.address) as chain:
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
        verify(chain, account.address, count)
    return Sample(count, seconds, {"submitting_seconds": submitted - began})


def send_by_web3(stage: Stage, count: int) -> Sample:
    account = Account.create()
    with stage.quiet(), fresh_chain(account.address) as chain:
        web3 = Web3(HTTPProvider(chain.url))
        began = start_with_block(chain)
        hashes = [
            web3.eth.send_raw_transaction(sign(account, chain.chain_id, nonce)) for nonce in range(count)
        ]
        submitted = time.perf_counter()
        for transaction_hash in hashes:
            web3.eth.wait_for_transaction_receipt(transaction_hash, timeout=TIMEOUT_SECONDS)
        seconds = time.perf_counter() - began
        verify(chain, account.address, count)
    return Sample(count, seconds, {"submitting_seconds": submitted - began})


@contextmanager
def fresh_chain(payer: str) -> Iterator[AnvilServer]:
    chain = start_anvil(block_time=BLOCK_SECONDS, chain_id=next(_chain_ids), gas_limit=300_000_000)
    try:
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


def verify(chain: AnvilServer, sender: str, count: int) -> None:
    """Raise unless the chain executed exactly what was asked for: nothing lost, nothing twice."""
    received = int(chain.rpc("eth_getBalance", TARGET, "latest"), 16)
    if (mined(chain, sender), received) != (count, count):
        raise RuntimeError(
            f"{count} were sent, the chain has {mined(chain, sender)}, and {received} wei arrived"
        )
