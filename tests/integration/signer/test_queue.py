"""The Redis side: no command runs twice, and nothing waits for a server that is gone."""

import time
from uuid import uuid4

import pytest
import redis

from dalp.local.servers import RedisServer
from signer import queue


@pytest.mark.case("PB7")
def test_stalled_server_runs_no_command_twice(redis_server: RedisServer) -> None:
    """redis-py's own default would send INCR again after its timeout, and count 2."""
    key = f"stalled-{uuid4()}"
    client = queue.connect(redis_server.url)
    client.ping()
    redis_server.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(redis.TimeoutError):
            client.incr(key)
        assert time.monotonic() - began < 3
    finally:
        redis_server.thaw()
    assert redis_server.client().get(key) == b"1"


@pytest.mark.case("S16")
def test_dead_server_costs_one_timeout_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "client", lambda: queue.connect("redis://127.0.0.1:1/0"))
    monkeypatch.setitem(queue._rest, "until", 0.0)
    lane = uuid4()
    assert queue.push({lane: [(uuid4(), 1.0)]}) == [lane]
    assert queue.ring_wanted("x") is True
    assert queue.waiting(lane) is None
    with queue.lane_lock(lane, 5) as lock:
        assert lock is not None  # the row's lease decides
        lock.renew()
    monkeypatch.setitem(queue._rest, "until", 0.0)


def test_one_worker_holds_a_lane_and_a_late_one_does_not_release_it(redis_url: str) -> None:
    lane = uuid4()
    with queue.lane_lock(lane, 0.2) as late:
        assert late is not None
        with queue.lane_lock(lane, 5) as second:
            assert second is None
        time.sleep(0.3)
        third = queue.LaneLock(lane, 5)
        assert third.acquire()
    with queue.lane_lock(lane, 5) as fourth:
        assert fourth is None
    third.release()


def test_one_wake_up_is_under_way_until_it_is_heard(redis_url: str) -> None:
    target = f"lane:{uuid4()}"
    assert [queue.ring_wanted(target) for _ in range(3)] == [True, False, False]
    queue.heard(target)
    assert queue.ring_wanted(target) is True


def test_waiting_transactions_are_counted_once(redis_url: str) -> None:
    lane, one, two = uuid4(), uuid4(), uuid4()
    assert queue.push({lane: [(one, 1.0), (two, 2.0)]}) == [lane]
    assert queue.push({lane: [(one, 1.0)]}) == []  # a wake-up is under way
    assert queue.waiting(lane) == 2
    queue.take(lane, [one])
    assert queue.waiting(lane) == 1
