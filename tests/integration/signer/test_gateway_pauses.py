"""Nodes that fail or are slow: how long they are left alone, and that no other has to wait for them."""

import time

import pytest

from dalp.chain_diagnosis import check_nodes
from signer import RpcTransportError, queue, slowness, sweeping, tasks
from signer.chains import connect
from signer.errors import RpcUnavailableError
from signer.models import Endpoint
from signer.states import IncidentKind, PauseKind, TransactionState
from tests.integration.signer.endpoints import Pair, end_pauses, endpoint, open_incidents, state
from tests.integration.signer.lying_node import SEND, LyingNode, says
from tests.integration.signer.stage import Stage, wait


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
    # The second: for its opinion of the price, and in the first one's place.
    assert [node.requests for node in pair] == asked == [1, 2]
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
def test_whoever_leaves_a_slow_chain_rings_for_those_that_it_kept_away(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer.tasks import drain

    rung: list[str] = []
    monkeypatch.setattr("signer.ringing._ring", lambda target, *_: rung.append(target))
    queue.client().flushdb()
    row = manual.submit()
    target = queue.lane_target(row.lane_id)
    queue.mark_slow(31337, 10)
    queue.take_place(31337, "another worker", 30)
    drain(str(row.lane_id))
    row.refresh_from_db()
    assert row.state == TransactionState.RECEIVED
    queue.return_place(31337, "another worker")
    rung.clear()
    drain(str(row.lane_id))
    drain(str(row.lane_id))
    assert rung.count(target) == 1, "whoever leaves next rings, once"
    row.refresh_from_db()
    assert row.state == TransactionState.BROADCASTING


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
