"""Transactions over HTTP, one to a request, from many clients at once: as integrators send them.

To be imported when Django is set up.
"""

import http.client
import itertools
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from benchmarks.contest import Contest, Peer, Sample
from benchmarks.stage import CONCURRENCY, POOL, Stage
from benchmarks.transactions import (
    BATCH,
    GAS,
    TARGET,
    fresh_chain,
    register,
    send_raw,
    start_with_block,
    verify,
    wait_for_all,
)
from dalp.local.processes import start_web, wait_until
from dalp.local.servers import HOST, free_port
from dalp.models import ApiToken, Role
from keyguard import create_key, find_key

COUNT = 1000
CLIENTS = 32
ADDRESSES = 8
KEY = "clients"


def contests(stage: Stage) -> Iterator[Contest]:
    """Prepare the contest, with a warm web process and warm workers."""
    keys = [create_key(f"{KEY}-{number}").alias for number in range(ADDRESSES)]
    _, token = ApiToken.issue("clients", Role.OPERATOR)
    port = free_port()
    web = start_web(stage.env, stage.directory / "web.log", port, workers=CONCURRENCY)
    try:
        wait_until(lambda: is_ready(port), 30, what="the web process answers", alive=[web])
        ours = Clients(stage, port, token)
        ours.send(50, keys)
        yield contest(stage, ours, keys)
    finally:
        web.stop()


def contest(stage: Stage, ours: "Clients", keys: Sequence[str]) -> Contest:
    return Contest(
        title="Transactions over HTTP",
        unit="transactions",
        method=(
            f"{COUNT} POST /transactions of 1 wei, each with an Idempotency-Key of its own, from {CLIENTS} clients with kept connections in one process; "
            f"gunicorn with {CONCURRENCY} processes, one worker, {POOL} with {CONCURRENCY} processes, beat runs; a fresh anvil each time, a block per second; from "
            f"the first request to the last COMPLETED with 1 confirmation, counted on the chain. With a gas limit; or without one, so that each is tried by the "
            f"node before it gets a nonce. Raw, the node's own limit: signed beforehand, in JSON-RPC batches of {BATCH}, beat standing still."
        ),
        settle=stage.settle,
        peers=[
            Peer(f"DALP, {CLIENTS} clients", lambda: ours.send(COUNT, keys[:1])),
            Peer(f"DALP, {ADDRESSES} addresses", lambda: ours.send(COUNT, keys)),
            Peer("DALP, each tried first", lambda: ours.send(COUNT, keys[:1], gas_limit=None)),
            Peer("raw batches", lambda: send_raw(stage, COUNT)),
        ],
    )


class Clients:
    """Clients of one web process, each with a connection that it keeps."""

    def __init__(self, stage: Stage, port: int, token: str) -> None:
        self.stage, self.port, self.token = stage, port, token

    def send(self, count: int, keys: Sequence[str], gas_limit: int | None = GAS) -> Sample:
        addresses = [find_key(key).address for key in keys]
        with fresh_chain(*addresses) as chain:
            chain_id = register(chain, count)
            body = {"chain_id": chain_id, "to": TARGET, "value": "1"}
            if gas_limit is not None:
                body["gas_limit"] = gas_limit
            bodies = [json.dumps({**body, "from": keys[number % len(keys)]}) for number in range(count)]
            turns, began = itertools.count(), start_with_block(chain)
            with ThreadPoolExecutor(CLIENTS) as pool:
                clients = [pool.submit(self._post_each, bodies, turns) for _ in range(CLIENTS)]
                waits = [wait for client in clients for wait in client.result()]
            accepted = time.perf_counter()
            wait_for_all(self.stage, chain_id)
            seconds = time.perf_counter() - began
            verify(chain, addresses, count)
        return Sample(
            count,
            seconds,
            {"accepting_seconds": accepted - began, "median_answer_ms": median(waits) * 1000},
        )

    def _post_each(self, bodies: Sequence[str], turns: Iterator[int]) -> list[float]:
        connection, waits = http.client.HTTPConnection(HOST, self.port, timeout=60), []
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        while (number := next(turns)) < len(bodies):
            began = time.perf_counter()
            key = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
            connection.request("POST", "/api/v1/transactions", bodies[number], headers | key)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 202:
                raise RuntimeError(f"{answer.status}: {text.decode()[:300]}")
            waits.append(time.perf_counter() - began)
        connection.close()
        return waits


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
