"""Several nodes of one chain: who is asked, who is sent what, and what one of them cannot spoil."""

import threading
import time
from typing import Any

import pytest

from signer import RpcTransportError
from signer.chains import connect
from signer.models import Incident
from signer.states import IncidentKind, TransactionState
from tests.integration.signer.endpoints import Pair, endpoint, open_incidents, state
from tests.integration.signer.lying_node import SEND, Chaos, LyingNode, says
from tests.integration.signer.stage import Stage, wait


def test_one_endpoint_is_asked_while_it_answers(manual: Stage, pair: Pair) -> None:
    first, second = pair
    rpc = connect(manual.chain)
    before = threading.active_count()
    for _ in range(3):
        assert rpc.call("eth_chainId") == "0x7a69"
    assert (first.requests, second.requests) == (3, 0)
    assert threading.active_count() <= before + 2  # the proxy's own


@pytest.mark.parametrize("fault", ["lose_requests", "lose_answers", "truncate"])
def test_read_goes_on_to_the_next_endpoint(manual: Stage, pair: Pair, fault: str) -> None:
    setattr(pair[0], fault, True)
    rpc = connect(manual.chain)
    assert rpc.batch([("eth_chainId", []), ("eth_blockNumber", [])]) == ["0x7a69", "0x0"]
    assert pair[1].requests == 1


@pytest.mark.case("S51")
def test_calls_left_out_of_half_a_batch_are_asked_of_the_next(manual: Stage, pair: Pair) -> None:
    rpc = connect(manual.chain)
    rpc.call("eth_chainId")
    pair[0].halve = True
    calls: list[Any] = [("eth_getBlockByNumber", ["0x0", False]), *[("eth_chainId", [])] * 3]
    assert rpc.batch(calls)[1:] == ["0x7a69"] * 3
    assert pair[1].seen["eth_chainId"] == 2 + 1  # the two that were missing, and who it is
    assert endpoint(pair[0]).paused_until is None


@pytest.mark.case("S24")
def test_slow_endpoint_is_overtaken_by_the_next(
    manual: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, hedge_seconds=0.2)
    rpc = connect(manual.chain)
    rpc.call("eth_chainId")
    pair[0].delay = 3
    began = time.monotonic()
    assert rpc.call("eth_blockNumber") == "0x0"
    assert time.monotonic() - began < 1.5
    assert pair[1].requests == 1


def test_call_ends_in_its_time_when_no_endpoint_answers(
    manual: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, hedge_seconds=0.1, rpc_timeout_seconds=1)
    for node in pair:
        node.delay = 5
    began = time.monotonic()
    answers = connect(manual.chain).batch([("eth_chainId", [])] * 250)
    assert time.monotonic() - began < 1.5
    assert [type(answer) for answer in answers] == [RpcTransportError] * 250


def test_batches_shrink_to_what_the_provider_takes_and_stay_so(manual: Stage, pair: Pair) -> None:
    pair[0].batch_max = 30
    calls: list[Any] = [("eth_getBlockByNumber", [hex(n % 2), False]) for n in range(120)]
    answers = connect(manual.chain).batch(calls)
    assert [answer and answer["number"] for answer in answers] == ["0x0", None] * 60
    assert endpoint(pair[0]).batch_size is not None
    refused = pair[0].faults["too large"]
    assert refused > 0
    connect(manual.chain).batch(calls)
    assert pair[0].faults["too large"] == refused
    assert pair[1].requests == 0


@pytest.mark.case("S45")
@pytest.mark.parametrize("words", ["intrinsic gas too low", "txpool is full", "something new"])
def test_refused_by_one_and_taken_by_the_other_is_sent(manual: Stage, pair: Pair, words: str) -> None:
    pair[0].lie = says(SEND, words)
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")
    [attempt] = manual.attempts(row.pk)
    assert attempt.state == "SENT"
    manual.mine()
    manual.watch()
    assert state(row)[0] == TransactionState.COMPLETED


@pytest.mark.case("S25", "PC1")
def test_lost_answer_of_one_endpoint_is_made_good_by_the_other(manual: Stage, pair: Pair) -> None:
    pair[0].lose_answers, pair[0].only = True, {SEND}
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")
    assert [node.seen[SEND] for node in pair] == [1, 1]  # once to each
    assert pair[0].raw == pair[1].raw


@pytest.mark.case("S26")
def test_lost_by_one_and_refused_for_good_by_the_other_is_possibly_sent(manual: Stage, pair: Pair) -> None:
    pair[0].lose_answers, pair[0].only = True, {SEND}
    pair[1].lie = says(SEND, "intrinsic gas too low")
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "POSSIBLY_SENT")
    assert len(manual.attempts(row.pk)) == 1  # no no-op takes its nonce


@pytest.mark.case("S24")
def test_slow_second_endpoint_does_not_slow_the_lane(manual: Stage, pair: Pair) -> None:
    connect(manual.chain).broadcast(["0x02"])
    pair[1].delay = 3
    row = manual.submit()
    began = time.monotonic()
    manual.drain()
    assert time.monotonic() - began < 2
    assert state(row) == (TransactionState.BROADCASTING, "")


@pytest.mark.case("S44")
def test_duplicate_in_words_that_nobody_knows_clogs_nothing(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node has it and says so in new words, again and again: the receipt decides."""
    wait(monkeypatch, resend_seconds=0)
    rows = [manual.submit() for _ in range(3)]
    liar.lose_answers, liar.only = True, {SEND}
    manual.drain()
    liar.lose_answers = False
    liar.lie = says(SEND, "this one sits in my drawer")
    manual.drain()
    assert {state(row) for row in rows} == {(TransactionState.BROADCASTING, "POSSIBLY_SENT")}
    manual.mine()
    manual.watch()
    assert {state(row)[0] for row in rows} == {TransactionState.COMPLETED}
    assert all(len(manual.attempts(row.pk)) == 1 for row in rows)


@pytest.mark.case("S48")
def test_another_hash_than_computed_raises_the_alarm_and_changes_nothing(
    manual: Stage, liar: LyingNode
) -> None:
    liar.wrong_hash = True
    row = manual.submit()
    manual.submit()
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert manual.pool()["0"]["hash"] == attempt.hash
    assert open_incidents() == [IncidentKind.NODE_ANOMALY]  # once
    assert Incident.objects.get().details["reported"] == "0x" + "de" * 32
    manual.mine()
    manual.watch()
    assert state(row)[0] == TransactionState.COMPLETED


@pytest.mark.case("PC2")
@pytest.mark.parametrize("seed", [1, 2])
def test_random_faults_double_nothing_and_lose_nothing(
    manual: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    wait(monkeypatch, pause_seconds=0.1, hedge_seconds=0.1, resend_seconds=0)
    manual.rpc("evm_setAutomine", True)
    for node in pair:
        node.chaos = Chaos(seed, errors=0.3, dropped=0.05, latency=0.1)
    rows = []
    for _ in range(10):
        rows.append(manual.submit())
        manual.drain()
    manual.settle(60)
    assert {state(row)[0] for row in rows} == {TransactionState.COMPLETED}
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 10
    assert sum(sum(node.faults.values()) for node in pair) > 5


def test_proxy_serves_some_hundred_requests_a_second(manual: Stage, liar: LyingNode) -> None:
    rpc = connect(manual.chain)
    rpc.call("eth_chainId")
    began = time.monotonic()
    for _ in range(200):
        rpc.call("eth_chainId")
    assert time.monotonic() - began < 4
