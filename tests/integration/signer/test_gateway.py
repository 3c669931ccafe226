"""Several nodes of one chain: who is asked, what their answers amount to, and what one of them cannot spoil."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dalp.chain_diagnosis import check_chains, check_nodes
from dalp.local.servers import AnvilServer
from signer import ChainMismatchError, RpcTransportError, queue, slowness, sweeping, tasks
from signer.chains import connect
from signer.errors import RpcDisagreementError, RpcUnavailableError
from signer.models import Chain, Endpoint, Incident, Transaction
from signer.rpc import surveying
from signer.states import IncidentKind, PauseKind, TransactionState
from tests.integration.signer.lying_node import SEND, Call, Chaos, LyingNode, says
from tests.integration.signer.stage import Stage, wait

RECEIPT = "eth_getTransactionReceipt"
Pair = tuple[LyingNode, LyingNode]


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def endpoint(node: LyingNode) -> Endpoint:
    return Endpoint.objects.get(url=node.url)


def end_pauses() -> None:
    """Have the pauses of all endpoints be over, as if their time had passed."""
    Endpoint.objects.filter(paused_until__isnull=False).update(paused_until="2020-01-01T00:00:00Z")


def open_incidents() -> list[str]:
    return list(Incident.objects.filter(closed_at__isnull=True).values_list("kind", flat=True))


# --- Reads ------------------------------------------------------------------------------------------------------


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


# --- Pauses -----------------------------------------------------------------------------------------------------


@pytest.mark.sqlite_too
def test_failing_endpoint_is_left_alone_by_all_and_asked_once_when_its_pause_is_over(
    manual: Stage, pair: Pair
) -> None:
    first, second = pair
    first.lose_requests = True
    for _ in range(3):
        connect(manual.chain).call("eth_chainId")
    row = endpoint(first)
    assert (row.pause_kind, row.pause_reason) == (PauseKind.FAILING, "127.0.0.1: ConnectionError")
    asked = first.requests
    for _ in range(5):
        connect(manual.chain).call("eth_chainId")
    assert first.requests == asked
    end_pauses()
    connect(manual.chain).probe()
    assert first.requests == asked + 1
    assert endpoint(first).paused_until is not None
    first.lose_requests = False
    end_pauses()
    connect(manual.chain).probe()
    assert endpoint(first).paused_until is None
    before = second.requests
    connect(manual.chain).call("eth_chainId")
    assert second.requests == before


@pytest.mark.case("S50")
def test_storm_of_429_pauses_that_endpoint_and_fails_nothing(manual: Stage, pair: Pair) -> None:
    first, second = pair
    first.status, first.retry_after = 429, "40"
    rows = [manual.submit() for _ in range(5)]
    for _ in range(3):
        manual.drain()
    assert {state(row) for row in rows} == {(TransactionState.BROADCASTING, "")}
    assert {attempt.last_error for row in rows for attempt in manual.attempts(row.pk)} == {""}
    assert first.requests == 1
    row = endpoint(first)
    assert row.paused_until is not None
    assert row.unusable_since is not None
    assert 35 < (row.paused_until - row.unusable_since).total_seconds() <= 41
    assert second.seen[SEND] == 5


@pytest.mark.case("S50")
def test_while_all_are_paused_calls_end_at_once_and_say_until_when(manual: Stage, pair: Pair) -> None:
    for node in pair:
        node.status = 429
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.QUEUED, "NODE_UNAVAILABLE")
    asked = [node.requests for node in pair]
    for _ in range(5):
        manual.drain()
    assert [node.requests for node in pair] == asked == [1, 1]
    [answer] = connect(manual.chain).broadcast([b"\x02"])
    assert isinstance(answer, RpcUnavailableError)
    assert " UTC: 127.0.0.1 turns us away" in answer.message
    for node in pair:
        node.status = 0
    end_pauses()
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")


@pytest.mark.case("S40")
def test_refusal_in_whatever_wrapping_pauses_nobody(manual: Stage, liar: LyingNode) -> None:
    liar.lie = says(SEND, '{"error": {"message": "nonce too low"}}', code=-32603)
    row = manual.submit()
    for _ in range(4):
        manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "NONCE_USED")
    assert endpoint(liar).paused_until is None


@pytest.mark.sqlite_too
@pytest.mark.case("S50")
def test_one_process_asks_an_endpoint_whose_pause_is_over(manual: Stage, liar: LyingNode) -> None:
    liar.lose_requests = True
    rpc = connect(manual.chain)
    for _ in range(3):
        rpc.batch([("eth_chainId", [])])
    end_pauses()
    asked = liar.requests
    gateways = [connect(manual.chain) for _ in range(3)]
    assert all(isinstance(g.batch([("eth_chainId", [])])[0], RpcUnavailableError) for g in gateways)
    assert liar.requests == asked + 1


def test_sweep_has_endpoints_asked_whose_pause_is_over(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    monkeypatch.setattr(sweeping, "ring_probe", rung.append)
    liar.status = 429
    connect(manual.chain).batch([("eth_chainId", [])])
    sweeping.paused_endpoints()
    assert rung == []
    end_pauses()
    sweeping.paused_endpoints()
    assert rung == [31337]
    liar.status = 0
    tasks.probe(31337)
    sweeping.paused_endpoints()
    assert rung == [31337]
    assert endpoint(liar).unusable_since is None


@pytest.mark.sqlite_too
def test_unreachable_chain_is_told_once_and_over_when_it_answers(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar.lose_requests = True
    for _ in range(3):
        connect(manual.chain).batch([("eth_chainId", [])])
    assert open_incidents() == []  # a moment is no incident
    Endpoint.objects.update(unusable_since="2020-01-01T00:00:00Z")
    for _ in range(2):
        end_pauses()
        connect(manual.chain).probe()
    assert open_incidents() == [IncidentKind.CHAIN_UNREACHABLE]
    [finding] = check_nodes()
    assert not finding.ok
    assert "does not answer" in finding.detail
    assert liar.url not in finding.detail
    liar.lose_requests = False
    end_pauses()
    connect(manual.chain).probe()
    assert open_incidents() == []
    assert check_nodes()[0].ok


# --- Who they are -----------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(start_anvil: Callable[..., AnvilServer]) -> Iterator[LyingNode]:
    """A node of another chain."""
    node = LyingNode(start_anvil(chain_id=5).url)
    yield node
    node.stop()


@pytest.mark.case("S49", "PC10")
def test_node_of_another_chain_is_not_used_beside_one_of_ours(
    manual: Stage, pair: Pair, stranger: LyingNode
) -> None:
    endpoint(pair[0]).delete()
    Endpoint.objects.create(chain=manual.chain, url=stranger.url, position=0)
    Endpoint.objects.filter(url=pair[1].url).update(position=1)
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")
    assert (stranger.seen[SEND], pair[1].seen[SEND]) == (0, 1)
    assert endpoint(stranger).pause_kind == PauseKind.WRONG_CHAIN
    assert open_incidents() == [IncidentKind.WRONG_CHAIN]
    assert "serves chain 5, not 31337" in Incident.objects.get().text


@pytest.mark.case("S49", "PC10")
def test_when_only_a_node_of_another_chain_is_left_nothing_is_signed_or_sent(
    manual: Stage, liar: LyingNode, stranger: LyingNode
) -> None:
    Endpoint.objects.update(url=stranger.url)
    row = manual.submit()
    for _ in range(3):
        manual.drain()
    assert state(row) == (TransactionState.QUEUED, "NODE_UNAVAILABLE")
    assert manual.attempts(row.pk) == []
    assert (stranger.seen[SEND], liar.seen[SEND]) == (0, 0)
    with pytest.raises(ChainMismatchError):
        connect(manual.chain).call("eth_blockNumber")
    assert isinstance(connect(manual.chain).broadcast([b"\x02"])[0], ChainMismatchError)


@pytest.mark.case("S68")
def test_chain_that_was_begun_anew_gets_nothing(
    manual: Stage, liar: LyingNode, start_anvil: Callable[..., AnvilServer]
) -> None:
    sent, waiting = manual.submit(), None
    manual.drain()
    # The same id, another genesis block.
    liar.node_url = start_anvil(extra=["--no-mining", "--timestamp", "1600000000"]).url
    liar.raw.clear()
    waiting = manual.submit()
    manual.drain()
    assert liar.raw == []
    assert state(waiting) == (TransactionState.QUEUED, "NODE_UNAVAILABLE")
    assert state(sent)[0] == TransactionState.BROADCASTING
    assert open_incidents() == [IncidentKind.WRONG_CHAIN]


@pytest.mark.case("S68")
def test_bytes_are_not_sent_to_a_node_that_has_not_said_who_it_is(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, identity_seconds=0)
    liar.lie = lambda call: {"result": "0x1"} if call["method"] == "eth_chainId" else None
    [answer] = connect(manual.chain).broadcast(["0x02"])
    assert isinstance(answer, ChainMismatchError)
    assert liar.raw == []


# --- Sending ----------------------------------------------------------------------------------------------------


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


# --- Agreement --------------------------------------------------------------------------------------------------


@pytest.mark.case("S46", "S67")
def test_lagging_node_makes_nothing_of_ours_seem_lost_or_settled(manual: Stage, pair: Pair) -> None:
    row = manual.submit()
    manual.drain()
    pair[1].freeze()
    manual.mine()
    for _ in range(3):
        manual.watch()
    assert state(row)[0] == TransactionState.BROADCASTING
    assert manual.lane.next_nonce == 1
    pair[1].thaw()
    manual.watch()
    assert state(row)[0] == TransactionState.COMPLETED


@pytest.mark.case("S46")
def test_older_nonce_of_the_node_that_is_asked_rewinds_nothing(manual: Stage, pair: Pair) -> None:
    pair[0].freeze()
    for _ in range(2):
        manual.submit()
        manual.drain()
        manual.rpc("evm_mine")
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 2
    row = manual.submit()
    manual.drain()
    row.refresh_from_db()
    assert (row.nonce, manual.lane.next_nonce, manual.lane.state) == (2, 3, "ACTIVE")


@pytest.mark.case("S67")
def test_receipt_that_comes_and_goes_between_nodes_moves_nothing(manual: Stage, pair: Pair) -> None:
    Chain.objects.update(confirmations=2)
    row = manual.submit()
    manual.drain()
    manual.mine()
    flaps = [0]

    def lie(call: Call) -> dict[str, Any] | None:
        flaps[0] += call["method"] == RECEIPT
        return {"result": None} if call["method"] == RECEIPT and flaps[0] % 2 else None

    pair[0].lie = lie
    seen = []
    for _ in range(6):
        manual.mine()
        manual.watch()
        seen.append(state(row)[0])
    assert flaps[0] > 1
    assert seen == sorted(seen, key=["BROADCASTING", "CONFIRMING", "COMPLETED"].index)  # never back
    pair[0].lie = None
    manual.mine()
    manual.watch()
    assert state(row)[0] == TransactionState.COMPLETED


@pytest.mark.case("PC12")
def test_two_nodes_on_forks_of_their_own_settle_nothing_until_they_agree(
    fresh_db: str, start_anvil: Callable[..., AnvilServer]
) -> None:
    same = ["--no-mining", "--timestamp", "1700000000"]
    stage, other = Stage(start_anvil(extra=same)), start_anvil(extra=same)
    other.fund(stage.key.address)
    Endpoint.objects.create(chain=stage.chain, url=other.url, position=1)
    row = stage.submit()
    stage.drain()
    assert len(stage.pool()) == 1
    assert int(other.rpc("eth_getTransactionCount", stage.key.address, "pending"), 16) == 1
    stage.mine(3)
    stage.watch()
    assert state(row)[0] == TransactionState.BROADCASTING  # one node has it mined
    for _ in range(3):
        other.rpc("evm_mine")
    receipts = [node.rpc(RECEIPT, stage.attempts(row.pk)[0].hash) for node in (stage.anvil, other)]
    assert receipts[0]["blockHash"] != receipts[1]["blockHash"]
    stage.watch()
    assert state(row)[0] == TransactionState.BROADCASTING  # ... both have, in different blocks
    call: Any = (RECEIPT, [stage.attempts(row.pk)[0].hash])
    assert isinstance(connect(stage.chain).agreed([call])[0], RpcDisagreementError)
    endpoint_of_other = Endpoint.objects.get(url=other.url)
    endpoint_of_other.url = stage.anvil.url + "/"  # it has joined the first one's fork
    endpoint_of_other.save()
    stage.watch()
    assert state(row)[0] == TransactionState.COMPLETED


@pytest.mark.case("S30", "PC12")
def test_quorum_of_two_needs_both_until_one_of_them_is_paused(manual: Stage, pair: Pair) -> None:
    pair[1].lose_requests = True
    rpc = connect(manual.chain)
    call: Any = ("eth_getTransactionCount", [manual.key.address, "latest"])
    assert isinstance(rpc.agreed([call])[0], RpcTransportError)
    rpc.agreed([call])
    rpc.agreed([call])
    assert endpoint(pair[1]).paused_until is not None
    assert rpc.agreed([call]) == ["0x0"]


# --- Heads ------------------------------------------------------------------------------------------------------


@pytest.mark.case("PC11", "S46")
def test_node_that_stopped_following_is_not_read_until_it_has_caught_up(
    manual: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveying, "SURVEY_SECONDS", 0.0)
    connect(manual.chain).latest_header()
    pair[0].freeze()
    manual.mine(40)
    connect(manual.chain).latest_header()
    assert (endpoint(pair[0]).is_behind, endpoint(pair[1]).is_behind) == (True, False)
    assert (endpoint(pair[0]).head_number, endpoint(pair[1]).head_number) == (0, 40)
    assert connect(manual.chain).call("eth_blockNumber") == hex(40)
    [chain, first, second] = check_chains()
    assert (chain.ok, first.ok, second.ok) == (True, False, True)
    assert "lags behind" in first.detail
    assert check_nodes()[0].ok
    pair[0].thaw()
    connect(manual.chain).latest_header()
    assert endpoint(pair[0]).is_behind is False


@pytest.mark.case("PC11")
def test_readyz_fails_when_the_only_node_has_stopped_following(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dalp.diagnosis import readiness

    monkeypatch.setattr(surveying, "SURVEY_SECONDS", 0.0)
    monkeypatch.setattr("signer.rpc.freshness.STILL_SECONDS_MIN", 0.0)
    monkeypatch.setattr("signer.rpc.freshness.STILL_BLOCKS", 0)
    rpc = connect(manual.chain)
    rpc.latest_header()
    rpc.latest_header()
    missing = [finding for finding in readiness() if not finding.ok and finding.name == "chains"]
    assert "its head lags behind" in missing[0].detail
    manual.mine()
    rpc.latest_header()
    assert all(finding.ok for finding in readiness() if finding.name == "chains")


# --- Slow chains ---------------------------------------------------------------------------------------------------


@pytest.mark.case("S24")
def test_slow_chain_gets_one_drain_at_a_time_and_the_others_leave_at_once(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer.tasks import drain

    wait(monkeypatch, hedge_seconds=0.1)
    queue.client().flushdb()
    manual.submit()
    liar.delay = 0.5
    with slowness.visit(31337) as may_work:
        assert may_work
        connect(manual.chain).call("eth_chainId")  # it takes long: the chain is marked, the place is ours
        assert queue.is_slow(31337)
        asked = liar.requests
        began = time.monotonic()
        drain(str(manual.lane.pk))
        assert time.monotonic() - began < 0.4
        assert liar.requests == asked
    drain(str(manual.lane.pk))
    assert liar.requests > asked


@pytest.mark.case("S24")
def test_whoever_has_no_place_gives_up_waiting(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, hedge_seconds=0.2)
    queue.client().flushdb()
    liar.delay = 2
    began = time.monotonic()
    with slowness.visit(31337):
        queue.take_place(31337, "another worker", 30)
        rpc = connect(manual.chain)
        assert isinstance(rpc.batch([("eth_chainId", [])])[0], RpcTransportError)
        assert isinstance(rpc.batch([("eth_chainId", [])])[0], RpcUnavailableError)
    assert time.monotonic() - began < 1
    queue.client().flushdb()


# --- All at once ------------------------------------------------------------------------------------------------


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
