"""Many at one lane at the same time, some of them with a wrong clock, or a person: each nonce is one transaction's."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db.models import Max
from django.test import Client
from django.utils import timezone

from dalp.local.processes import wait_until
from dalp.local.servers import AnvilServer
from signer import lanes, queue, resync, tasks
from signer.models import Act, Attempt, Chain, Lane, Transaction
from signer.sweeping import sweep
from tests.integration.signer.lying_node import Call, LyingNode
from tests.integration.signer.stage import Stage
from tests.threads import at_once
from workflows import claim, release
from workflows.clock import now

LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.mark.case("S22")
def test_thousand_submissions_of_twenty_workers_get_the_first_thousand_nonces(manual: Stage) -> None:
    """Each submits fifty, and after ten of them has the lane drained, as its message would."""
    Chain.objects.update(max_in_flight=1000)
    first = manual.submit(idempotency_key="first", gas_limit=21_000)

    def work(worker: int) -> None:
        for number in range(50):
            if worker or number:  # one has been submitted
                manual.submit(idempotency_key=f"{worker}-{number}", gas_limit=21_000)
            if number % 10 == 9:
                lanes.drain(first.lane_id)

    at_once(20, work)
    manual.drain()
    nonces = Transaction.objects.order_by("nonce").values_list("nonce", flat=True)
    assert list(nonces) == list(range(1000))
    assert Attempt.objects.count() == 1000
    manual.mine()
    manual.watch()
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 1000
    assert int(manual.rpc("eth_getBalance", first.to, "latest"), 16) == 1000, "each of them once"


@pytest.mark.case("S82")
@pytest.mark.filterwarnings("ignore:No directory at:UserWarning")
def test_resync_clicked_under_load_shows_the_truth_and_takes_no_nonce_back(
    fresh_db: str, start_anvil: Callable[..., AnvilServer]
) -> None:
    """Two submit, one drains and watches, one has an eye on the lane, and a person compares and confirms, again and again."""
    stage = Stage(start_anvil(block_time=0.2))
    stage.deploy_counter()
    lane, over = stage.lane.pk, threading.Event()
    client = Client()
    get_user_model().objects.create_superuser("anna", "op@example.com", "a long password")
    client.login(username="anna", password="a long password")
    numbers: list[int] = []

    def submit() -> None:
        numbers.append(number := time.monotonic_ns())
        stage.record(number, idempotency_key=str(number))
        time.sleep(0.01)

    def work() -> None:
        lanes.drain(lane)
        stage.watch()

    def look() -> None:
        [seen] = Lane.objects.annotate(highest=Max("transactions__nonce"))
        assert seen.next_nonce > seen.highest, "a nonce that was given would be given again"

    def click() -> None:
        page = f"/admin/signer/lane/{lane}/resync/"
        for count in range(6):
            before = Lane.objects.get().next_nonce or 0
            wait_until(
                lambda before=before: (Lane.objects.get().next_nonce or 0) > before, what="more is sent"
            )
            assert "The lane and the chain are in step." in client.get(page).content.decode()
            assert Act.objects.count() == count, "what is shown changes nothing"
            assert client.post(page, {"reason": "to be sure"}).status_code == 302

    def act(worker: int) -> None:
        try:
            click() if worker == 0 else until_over([submit, submit, work, look][worker - 1])
        finally:
            over.set()

    def until_over(once: Callable[[], None]) -> None:
        while not over.is_set():
            once()

    at_once(5, act)
    found = [each.details for each in Act.objects.order_by("at")]
    assert all(each["proposed_next_nonce"] == each["next_nonce"] > each["highest_given"] for each in found)
    assert len({each["next_nonce"] for each in found}) == 6, "something was sent before each"
    assert any(each["in_flight"] for each in found)
    stage.settle()
    assert [stage.counted(number) for number in numbers] == [1] * len(numbers)
    nonces = Transaction.objects.order_by("nonce").values_list("nonce", flat=True)
    assert list(nonces) == list(range(len(numbers) + 1))


@pytest.mark.case("S82")
def test_nonce_given_while_the_chain_is_asked_is_no_difference(manual: Stage, liar: LyingNode) -> None:
    manual.submit()
    manual.drain()

    def meanwhile(call: Call) -> None:
        if call["method"] == "eth_getTransactionCount":
            liar.lie = None
            manual.submit()
            at_once(1, lambda _: manual.drain())

    liar.lie = meanwhile
    found = resync.lane_difference(manual.lane)
    assert (found.next_nonce, found.proposed_next_nonce, found.in_flight) == (2, 2, 2)
    assert found.notes == ["The lane and the chain are in step."]


@pytest.mark.case("S15")
def test_sweeps_of_two_schedulers_double_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find the same work, before either has done anything about it, and the messages of both are taken up at once."""
    stage.deploy_counter()
    rows = [stage.record(number) for number in range(12)]
    queue.client().flushall()  # the message of the submission is lost
    of_this_thread, both_have_swept = threading.local(), threading.Barrier(2)

    def ring(target: str, task: str, argument: str | int) -> None:
        of_this_thread.rung.append((task, argument))

    monkeypatch.setattr("signer.ringing._ring", ring)
    # Redis would keep the second message back, while the first is on its way.
    monkeypatch.setattr(queue, "ring_wanted", lambda target: True)

    def schedule(_: int) -> list[tuple[str, str | int]]:
        found = of_this_thread.rung = []
        sweep()
        both_have_swept.wait(30)
        of_this_thread.rung = []  # what the work itself rings is of no matter here: the next sweep finds it
        for task, argument in found:
            getattr(tasks, task)(argument)
        return found

    rung = []
    while Transaction.objects.filter(settled_at__isnull=True).exists() and len(rung) < 20:
        Lane.objects.update(looked_at=LONG_AGO)
        rung.append(at_once(2, schedule))
    first, second = rung[0]
    assert first == second
    assert ("drain", str(stage.lane.pk)) in first
    assert [stage.counted(number) for number in range(12)] == [1] * 12
    assert sorted(Transaction.objects.values_list("nonce", flat=True)) == list(range(13))
    assert Attempt.objects.count() == 13
    assert {Transaction.objects.get(pk=row.pk).state for row in rows} == {"COMPLETED"}


@pytest.mark.case("S23")
@pytest.mark.postgresql("SQLite lives on this machine and has no other clock")
@pytest.mark.parametrize("minutes", [-10, 10])
def test_clock_of_a_worker_decides_about_no_lease(
    manual: Stage, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    row = manual.submit()
    others = claim(Lane, manual.lane.pk, 30)
    assert others is not None
    shift_clock(monkeypatch, minutes)
    manual.drain()
    assert manual.in_flight() == 0, "it belongs to another worker"
    Lane.objects.update(lease_until=now() - timedelta(seconds=1))
    manual.drain()
    assert manual.in_flight() == 1, "the other's lease has run out"
    release(others)
    mine = claim(Lane, manual.lane.pk, 30)
    assert mine is not None
    assert timedelta(seconds=25) < manual.lane.lease_until - now() <= timedelta(seconds=30)
    release(mine)
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert attempt.send_count == 1, "neither sent again nor raised before its time"
    manual.mine()
    manual.watch()
    row.refresh_from_db()
    assert (row.state, row.nonce) == ("COMPLETED", 0)
    instants = [row.broadcast_at, row.settled_at, attempt.first_sent_at]
    assert all(at and abs(now() - at) < timedelta(minutes=1) for at in instants)


def shift_clock(monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    """Have the clock of this machine jump; the database's is right."""
    seconds, now = time.time, timezone.now
    monkeypatch.setattr(time, "time", lambda: seconds() + 60 * minutes)
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + timedelta(minutes=minutes))
