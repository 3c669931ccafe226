"""What a transaction costs in statements and questions, and how soon it is sent. To be imported when Django is set up."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psycopg
from django.conf import settings
from django.db import connection
from django.test import Client

from benchmarks.figures import Figures, Rows
from benchmarks.latency import spread
from benchmarks.stage import CONCURRENCY, POOL, Stage
from benchmarks.transactions import GAS, TARGET, fresh_chain, register
from dalp.local.processes import wait_until
from dalp.local.servers import HOST, AnvilServer
from dalp.models import ApiToken, Role
from keyguard import create_key
from signer import Lane, Transaction, TransactionRequest, lanes, submit_transactions, watching
from signer.models import Attempt
from signer.rpc.transport import Node
from workflows import claim

KEY = "costs"
SIZES = (1, 100)
IN_FLIGHT = 1000
POSTS = 100
PAUSE_SECONDS = 0.05
# More would break the promise of one commit for many.
STATEMENTS_EACH_MAX = 0.5


def contests(stage: Stage) -> Iterator[Figures]:
    """Prepare the measurements."""
    create_key(KEY)
    costs = Figures(
        title="What a transaction costs",
        method=(
            "Transfers of 1 wei with a gas limit, 1 confirmation, driven in one process on a fresh anvil. SQL: statements that the process sends to "
            "PostgreSQL, BEGIN and COMMIT aside, from the lane's claim until the transactions are COMPLETED, keyguard's included. "
            f"RPC: JSON-RPC calls, each of a batch counted. The watcher: its calls for one block, with {IN_FLIGHT} transactions of one address in "
            "flight of which the block holds none, or all."
        ),
        settle=stage.settle,
        measure=lambda: measure_costs(stage, costs),
        rounds_max=1,
    )
    yield costs
    yield Figures(
        title="From the API to the node",
        method=(
            f"{POSTS} POST /transactions, one each {PAUSE_SECONDS * 1000:g} ms, on a system that does nothing else; from the row's created_at to the "
            f"instant at which a node has it. Django's test client in this process; one worker, {POOL} with {CONCURRENCY} processes; beat runs."
        ),
        settle=stage.settle,
        measure=lambda: measure_latency(stage),
    )


def measure_costs(stage: Stage, figures: Figures) -> Rows:
    rows: Rows = {}
    with stage.quiet(), nobody_rings(), short_slices():
        for size in SIZES:
            with a_chain() as chain:
                send(chain, 1)  # learns the lane's first nonce
                sql, rpc = counted(lambda: send(chain, size))  # noqa: B023
            rows[f"a batch of {size}"] = {
                "sql_statements_each": sql / size,
                "rpc_calls_each": sum(rpc.values()) / size,
                "rpc_requests": rpc["requests"],
            }
            rpc.pop("requests")
        with a_chain() as chain:
            rows |= watch_many(chain)
    each = rows["a batch of 100"]["sql_statements_each"]
    figures.complaints[:] = [f"{each:.2f} statements each"] if each > STATEMENTS_EACH_MAX else []
    return rows


@contextmanager
def a_chain() -> Iterator[AnvilServer]:
    """A chain that mines when it is told, and its only lane."""
    from keyguard import find_key

    with fresh_chain(find_key(KEY).address) as chain:
        chain.rpc("evm_setIntervalMining", 0)
        register(chain, IN_FLIGHT)
        yield chain


def submit(chain: AnvilServer, count: int) -> Lane:
    request = TransactionRequest(chain_id=chain.chain_id, sender=KEY, to=TARGET, value=1, gas_limit=GAS)
    found = submit_transactions([(request, uuid.uuid4().hex) for _ in range(count)], scope="costs")
    return found[0][0].lane


def send(chain: AnvilServer, count: int) -> None:
    """Take transactions from their submission to their end."""
    lane = submit(chain, count)
    COUNTING.clear()  # what the submission cost
    lanes.drain(lane.pk)
    chain.rpc("evm_mine")
    watching.watch(chain.chain_id)
    left = Transaction.objects.filter(lane=lane, settled_at__isnull=True).count()
    if left:
        raise RuntimeError(f"{left} of {count} transactions have not ended")


def watch_many(chain: AnvilServer) -> Rows:
    lane = submit(chain, IN_FLIGHT)
    lanes.drain(lane.pk)
    held = claim(lane.chain.__class__, chain.chain_id, 60)
    if held is None:
        raise RuntimeError("another watches the chain")
    watch = watching.Watch(held)
    watch.poll()
    _, none = counted(lambda: (chain.rpc("anvil_dropAllTransactions"), chain.rpc("evm_mine"), watch.poll()))
    raws = Attempt.objects.filter(transaction__lane=lane).order_by("nonce").values_list("raw", flat=True)
    for raw in raws:
        chain.rpc("eth_sendRawTransaction", "0x" + bytes(raw).hex())
    sql, all_of_them = counted(lambda: (chain.rpc("evm_mine"), watch.poll()))
    return {
        "a block with none of 1,000 in flight": {
            "rpc_calls": sum(none.values()) - none["requests"],
            "rpc_requests": none["requests"],
        },
        "a block with all 1,000 in flight": {
            "rpc_calls": sum(all_of_them.values()) - all_of_them["requests"],
            "rpc_requests": all_of_them["requests"],
            "sql_statements": sql,
        },
    }


COUNTING: Counter[str] = Counter()


def counted(work: Any) -> tuple[int, Counter[str]]:
    """Do the work; return the SQL statements and the JSON-RPC calls, by method, with the number of requests."""
    execute, request = psycopg.Cursor.execute, Node.request

    def counting_execute(self: Any, *args: Any, **options: Any) -> Any:
        COUNTING["sql"] += 1
        return execute(self, *args, **options)

    def counting_request(self: Any, calls: Sequence[Any], *args: Any, **options: Any) -> Any:
        COUNTING["requests"] += 1
        COUNTING.update(method for method, _ in calls)
        return request(self, calls, *args, **options)

    COUNTING.clear()
    with (
        mock.patch.object(psycopg.Cursor, "execute", counting_execute),
        mock.patch.object(Node, "request", counting_request),
    ):
        work()
    found = Counter(COUNTING)
    return found.pop("sql", 0), found


@contextmanager
def nobody_rings() -> Iterator[None]:
    """Keep the worker out of it."""
    with mock.patch("signer.ringing._ring"):
        yield


@contextmanager
def short_slices() -> Iterator[None]:
    with mock.patch.dict(settings.SIGNER, {"watch_slice_seconds": 0.01}):
        yield


def measure_latency(stage: Stage) -> Rows:
    _, token = ApiToken.issue(f"benchmark {uuid.uuid4().hex}", Role.OPERATOR, [])
    client = Client(headers={"Authorization": f"Bearer {token}"}, SERVER_NAME=HOST)
    with fresh_chain(_address()) as chain:
        register(chain, IN_FLIGHT)
        sent = Attempt.objects.filter(seq=0, first_sent_at__isnull=False)
        # Workers take up a new chain's queue within a second of its registration.
        first, _ = post(client, chain)
        wait_until(lambda: sent.filter(transaction=first).exists(), 30, what="the workers know the chain")
        ids, answered = [], []
        for _ in range(POSTS):
            time.sleep(PAUSE_SECONDS)
            pk, seconds = post(client, chain)
            ids.append(pk)
            answered.append(seconds)
        stage.settle()
        time.sleep(1)
        pairs = sent.filter(transaction__in=ids).values_list("transaction__created_at", "first_sent_at")
        latencies = [(at - created).total_seconds() for created, at in pairs if at]
    if len(latencies) != POSTS:
        raise RuntimeError(f"{len(latencies)} of {POSTS} were sent")
    return {"accepted to sent": spread(latencies), "the answer to the POST": spread(answered)}


def post(client: Client, chain: AnvilServer) -> tuple[str, float]:
    """Ask for a transfer; return the transaction's id, and how long the answer took."""
    body = {"chain_id": chain.chain_id, "from": KEY, "to": TARGET, "value": "1", "gas_limit": GAS}
    began = time.perf_counter()
    answer = client.post(
        "/api/v1/transactions",
        body,
        content_type="application/json",
        headers={"Idempotency-Key": uuid.uuid4().hex},
    )
    return answer.json()["id"], time.perf_counter() - began


def _address() -> str:
    from keyguard import find_key

    connection.close_if_unusable_or_obsolete()
    return find_key(KEY).address
