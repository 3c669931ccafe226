"""A stranger's use of a lane's nonce is noticed where the lane has nothing to send, and nothing of ours is taken for it."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from celery.schedules import schedule
from django.conf import settings

from keyguard import create_key
from signer import lanes, resync, strangers, tasks, work
from signer.models import Chain, Incident, Lane
from signer.rpc import Rpc
from signer.states import LaneState, TransactionState
from tests.integration.signer.endpoints import Pair, open_incidents, state
from tests.integration.signer.lying_node import LyingNode, says
from tests.integration.signer.stage import RICH, Stage, send_as_stranger
from workflows import claim, release

COUNT = "eth_getTransactionCount"


@pytest.fixture
def at_rest(manual: Stage) -> Stage:
    """A lane that has sent one transaction and has nothing more to send."""
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row)[0] == TransactionState.COMPLETED
    return manual


def beat(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Do what the beat has done; return the chains that were looked at."""
    asked: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(tasks.check_nonces, "apply_async", lambda args, **_: asked.extend(args))
        tasks.watch_nonces()
    for chain_id in asked:
        tasks.check_nonces(chain_id)
    return asked


def test_beat_has_it_done_every_minute() -> None:
    entry = settings.CELERY_BEAT_SCHEDULE["signer-nonces"]
    assert (entry["task"], entry["schedule"]) == (tasks.watch_nonces.name, 60.0)
    assert schedule(entry["schedule"]).run_every.total_seconds() > entry["options"]["expires"]


@pytest.mark.case("S69", "PC8")
@pytest.mark.sqlite_too
def test_stranger_on_an_idle_lane_blocks_it_and_is_told_of_once(
    at_rest: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert beat(monkeypatch) == [31337]
    assert (at_rest.lane.state, open_incidents()) == (LaneState.ACTIVE, [])
    send_as_stranger(at_rest, 2)
    strangers.look(31337)
    assert at_rest.lane.state == LaneState.ACTIVE, "no block holds it"
    at_rest.mine()
    assert beat(monkeypatch) == [31337]
    lane = at_rest.lane
    assert lane.state == LaneState.BLOCKED
    assert lane.state_reason.startswith(
        "the chain has used nonce 2, the next to be given here was 1: another"
    )
    assert lane.next_nonce == 1, "a person decides"
    [incident] = Incident.objects.all()
    assert (incident.kind, incident.lane, incident.closed_at) == ("LANE_BLOCKED", lane, None)
    assert lane.lease_until is None
    assert beat(monkeypatch) == [], "a person looks at it"
    resync.resync_lane(lane, actor="ann", reason="known")
    assert beat(monkeypatch) == [31337]
    assert (at_rest.lane.state, open_incidents()) == (LaneState.ACTIVE, [])


@pytest.mark.case("S69")
def test_lane_of_a_chain_that_adopts_goes_on_with_the_nonces_that_are_left(at_rest: Stage) -> None:
    Chain.objects.update(foreign_nonces="ADOPT")
    send_as_stranger(at_rest, 3)
    at_rest.mine()
    for _ in range(2):
        strangers.look(31337)
    lane = at_rest.lane
    assert (lane.state, lane.next_nonce, lane.first_nonce) == (LaneState.ACTIVE, 4, 4)
    assert open_incidents() == ["FOREIGN_NONCE"]
    row = at_rest.submit()
    at_rest.drain()
    at_rest.mine()
    at_rest.watch()
    assert (*state(row), row.nonce) == (TransactionState.COMPLETED, "", 4)


@pytest.mark.case("S69")
def test_paused_lane_is_compared_too(at_rest: Stage) -> None:
    Lane.objects.update(state=LaneState.PAUSED, state_reason="a person wants it")
    send_as_stranger(at_rest)
    at_rest.mine()
    strangers.look(31337)
    assert at_rest.lane.state == LaneState.BLOCKED


def test_nothing_of_ours_is_taken_for_a_stranger_s(at_rest: Stage) -> None:
    rows = [at_rest.submit() for _ in range(3)]
    strangers.look(31337)  # queued
    at_rest.drain()
    strangers.look(31337)  # in the pool
    at_rest.mine()
    strangers.look(31337)  # mined, and no receipt read
    at_rest.watch()
    strangers.look(31337)
    assert {state(row)[0] for row in rows} == {TransactionState.COMPLETED}
    assert (at_rest.lane.state, at_rest.lane.next_nonce, open_incidents()) == (LaneState.ACTIVE, 4, [])


@pytest.mark.parametrize("when", ["before the count", "after the count"])
def test_nonce_that_is_given_and_mined_while_a_look_is_under_way_is_ours(
    at_rest: Stage, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    ask = strangers._mined
    claims: list[object] = []

    def slow(rpc: Rpc, given: Sequence[tuple[UUID, str]]) -> Iterator[tuple[UUID, int]]:
        counts = [] if when == "before the count" else list(ask(rpc, given))
        at_rest.submit()
        at_rest.drain()
        at_rest.mine()
        yield from counts or ask(rpc, given)

    monkeypatch.setattr(strangers, "_mined", slow)
    monkeypatch.setattr(strangers, "owned", claims.append)
    strangers.look(31337)
    assert at_rest.lane.next_nonce == 2
    assert claims == [], "the lane is left to its worker"


def test_lane_that_goes_on_before_it_is_owned_is_compared_with_what_it_has_then(at_rest: Stage) -> None:
    stale = Lane.objects.select_related("chain").get()
    stale.next_nonce = 0
    strangers._examine(stale, 1)
    assert (at_rest.lane.state, open_incidents()) == (LaneState.ACTIVE, [])


def test_lane_that_a_worker_has_is_left_to_the_next_look(
    at_rest: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PATIENCE_SECONDS", 0.0)
    send_as_stranger(at_rest)
    at_rest.mine()
    held = claim(Lane, at_rest.lane.pk, 30)
    assert held is not None
    strangers.look(31337)
    assert at_rest.lane.state == LaneState.ACTIVE
    release(held)
    strangers.look(31337)
    assert at_rest.lane.state == LaneState.BLOCKED


@pytest.mark.case("S69", "S46")
def test_one_of_two_nodes_alone_blocks_nothing(at_rest: Stage, pair: Pair) -> None:
    for liar in pair:
        liar.lie = lambda call: {"result": "0x9"} if call["method"] == COUNT else None
        strangers.look(31337)
        assert at_rest.lane.state == LaneState.ACTIVE
        liar.lie = None
    pair[1].lie = says(COUNT, "header not found")
    send_as_stranger(at_rest)
    at_rest.mine()
    strangers.look(31337)
    assert at_rest.lane.state == LaneState.ACTIVE, "an error is no vote"
    pair[1].lie = None
    strangers.look(31337)
    assert at_rest.lane.state == LaneState.BLOCKED


def test_all_used_lanes_are_asked_about_in_one_request(
    manual: Stage, liar: LyingNode, django_assert_num_queries: Any
) -> None:
    aliases = ["sender", *(f"key-{n}" for n in range(4))]
    for alias in aliases[1:]:
        manual.rpc("anvil_setBalance", create_key(alias).address, RICH)
    for alias in aliases:
        lanes.drain(manual.submit(sender=alias).lane_id)
    create_key("unused")
    manual.mine()
    manual.watch()
    Lane.objects.create(chain=manual.chain, address="0x" + "33" * 20)  # has never given a nonce
    liar.seen.clear()
    liar.requests = 0
    with django_assert_num_queries(3):  # which lanes, the chain's nodes, what the lanes have given by now
        strangers.look(31337)
    assert (liar.requests, liar.seen[COUNT]) == (1, 5)


@pytest.mark.parametrize("lie", [says(COUNT, "no"), lambda call: {"result": "many"}])
def test_node_that_does_not_answer_proves_nothing(at_rest: Stage, liar: LyingNode, lie: Any) -> None:
    send_as_stranger(at_rest)
    at_rest.mine()
    liar.lie = lambda call: lie(call) if call["method"] == COUNT else None
    strangers.look(31337)
    assert (at_rest.lane.state, open_incidents()) == (LaneState.ACTIVE, [])
