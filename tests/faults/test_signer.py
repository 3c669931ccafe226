"""Workers that die between signing, committing, sending and recording; what came of it is counted by a contract."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterable

import pytest

from dalp.local.processes import Process
from signer import Transaction
from signer.models import Attempt, Chain, Endpoint, Lane
from signer.states import TransactionState
from signer.sweeping import sweep
from signer.tasks import drain
from tests.integration.signer.lying_node import Chaos, LyingNode
from tests.integration.signer.stage import Stage, wait
from tests.services import Live

QUICK = {
    "DALP_SIGNER_LEASE_SECONDS": "2",
    "DALP_SIGNER_RESEND_SECONDS": "2",
    "DALP_SIGNER_WATCH_SLICE_SECONDS": "1",
}
KILLED = 137
AWAY_SECONDS = 4.5


@pytest.fixture
def stage(live: Live, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A chain with blocks of 0.2 s and the counter contract on it; nonce 0 is the contract's."""
    # The sweeps of this process are as impatient as the workers.
    wait(monkeypatch, resend_seconds=2, bump_after_seconds=1)
    stage = Stage(live.anvil(block_time=0.2), max_in_flight=64)
    stage.deploy_counter()
    return stage


def swept() -> bool:
    """Do what beat does every second."""
    sweep()
    return True


def settle(live: Live, rows: Iterable[Transaction], timeout: float = 60) -> None:
    """Sweep as beat does until every transaction has ended."""
    ids = [row.pk for row in rows]

    def ended() -> bool:
        sweep()
        return not Transaction.objects.filter(pk__in=ids, settled_at__isnull=True).exists()

    def left() -> str:
        rows = Transaction.objects.filter(pk__in=ids, settled_at__isnull=True)
        return f"settled: {list(rows.values_list('nonce', 'state', 'sub_state'))}"

    live.wait_until(ended, timeout, what=left)


def died(live: Live, worker: Process, point: str) -> None:
    def waited() -> bool:
        sweep()
        return not worker.alive

    live.wait_until(waited, 30, what=f"the worker dies at {point}")
    assert worker.returncode == KILLED, worker.tail()


def executed_once(stage: Stage, numbers: Iterable[int]) -> None:
    """Each request stands at one in the contract, there is no other, and every nonce is used and one transaction's."""
    wanted = list(numbers)
    assert {number: stage.counted(number) for number in wanted} == dict.fromkeys(wanted, 1)
    assert stage.counted_in_all() == len(wanted)
    rows = list(Transaction.objects.order_by("nonce"))
    assert [row.nonce for row in rows] == list(range(len(rows)))
    assert int(stage.rpc("eth_getTransactionCount", stage.key.address, "latest"), 16) == len(rows)
    assert stage.lane.next_nonce == len(rows)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("signer.prepared", marks=pytest.mark.case("S2")),
        pytest.param("signer.signed", marks=pytest.mark.case("S3")),
        pytest.param("signer.attempts_inserted", marks=pytest.mark.case("S10")),
        pytest.param("signer.attempts_committed", marks=pytest.mark.case("S4")),
        pytest.param("signer.sent", marks=pytest.mark.case("S5", "S27")),
        "signer.receipts_read",
        pytest.param("signer.receipts_stored", marks=pytest.mark.case("S8")),
        "signer.settling",
        "signer.settled",
    ],
)
def test_each_request_is_executed_once_wherever_the_worker_is_killed(
    live: Live, stage: Stage, point: str
) -> None:
    worker = live.start_worker(fault=f"{point}=exit", env=QUICK)
    rows = [stage.record(number) for number in range(1, 7)]
    died(live, worker, point)
    before = dict(Attempt.objects.values_list("transaction_id", "hash"))
    live.start_worker(env=QUICK)
    settle(live, rows)
    executed_once(stage, range(1, 7))
    after = dict(Attempt.objects.filter(seq=0).values_list("transaction_id", "hash"))
    assert before.items() <= after.items(), "committed bytes are sent again, never signed anew"
    if point == "signer.attempts_committed":
        assert len(before) > 1, "it died before anything was committed"


@pytest.mark.sqlite_too
@pytest.mark.case("S1")
def test_transaction_of_a_process_that_died_before_it_told_anybody_is_found(live: Live, stage: Stage) -> None:
    script = (
        "import django; django.setup(); "
        "from signer import submit_transaction, TransactionRequest; "
        f"submit_transaction(TransactionRequest(chain_id=31337, sender='sender', to='{stage.counter.address}', "
        f"data='{stage.counter.encode('record', 1)}'), idempotency_key='x')"
    )
    process = live.run("-c", script, env={**QUICK, "DALP_FAULT": "signer.received=exit"})
    assert process.returncode == KILLED, process.tail()
    row = Transaction.objects.get(idempotency_key="x")
    assert row.state == TransactionState.RECEIVED
    live.start_worker(env=QUICK)
    settle(live, [row])
    executed_once(stage, [1])


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("signer.bump_committed", marks=pytest.mark.case("S6")),
        pytest.param("signer.bump_sent", marks=pytest.mark.case("S7", "S55")),
    ],
)
def test_replacement_cut_off_by_a_crash_is_one_execution_whichever_hash_is_mined(
    live: Live, stage: Stage, point: str
) -> None:
    impatient = {**QUICK, "DALP_SIGNER_BUMP_AFTER_SECONDS": "1"}
    stage.rpc("evm_setIntervalMining", 0)
    worker = live.start_worker(fault=f"{point}=exit", env=impatient)
    row = stage.record(1)
    died(live, worker, point)
    first, second = stage.attempts(row.pk)
    assert second.max_priority_fee_per_gas_wei * 1000 >= first.max_priority_fee_per_gas_wei * 1125
    live.start_worker(env=QUICK)
    stage.rpc("evm_setIntervalMining", 1)
    settle(live, [row])
    executed_once(stage, [1])
    row.refresh_from_db()
    assert row.winner_id in (first.pk, second.pk)


@pytest.mark.timeout(240)
@pytest.mark.sqlite_too
@pytest.mark.case("S12")
def test_thousand_transactions_survive_a_worker_killed_every_two_seconds(live: Live, stage: Stage) -> None:
    """Or sooner, when it has seen an eighth of them to their end. On SQLite three hundred, which take as long."""
    numbers = range(1, 301 if live.database == "sqlite" else 1001)
    Chain.objects.update(max_in_flight=40)  # else one worker has them all sent before it is killed
    rows = [stage.record(number) for number in numbers]
    open_rows = Transaction.objects.filter(settled_at__isnull=True)
    killed = 0
    while (left := open_rows.count()) and killed < 20:
        worker = live.start_worker(env=QUICK)
        until, few = time.monotonic() + 2, left - len(numbers) // 8
        live.wait_until(
            lambda until=until, few=few: swept() and (time.monotonic() > until or open_rows.count() < few),
            what="two seconds have passed, or an eighth is through",
        )
        worker.kill()
        killed += 1
    live.start_worker(env=QUICK)
    settle(live, rows)
    executed_once(stage, numbers)
    assert killed > 2, "they were through before much was killed"


@pytest.mark.sqlite_too
@pytest.mark.case("S13")
def test_lane_rung_ten_times_by_three_workers_sends_each_once(live: Live, stage: Stage) -> None:
    for _ in range(3):
        live.start_worker(env=QUICK)
    rows = [stage.record(number) for number in range(1, 21)]
    for _ in range(10):
        drain.delay(str(stage.lane.pk))
    settle(live, rows)
    executed_once(stage, range(1, 21))
    assert set(Counter(Attempt.objects.values_list("transaction_id", flat=True)).values()) == {1}


@pytest.mark.case("S19")
def test_message_delivered_again_while_its_work_is_still_going_on_does_no_harm(
    live: Live, stage: Stage
) -> None:
    """What the broker does when work outlasts its visibility timeout: the same message goes to another worker."""
    slow = live.start_worker(fault="signer.sent=stop", env=QUICK)
    rows = [stage.record(number) for number in range(1, 5)]
    live.wait_until(lambda: slow.stopped, 30, what="the worker stands still")
    redis = live.redis.client()
    unacknowledged = [json.loads(entry) for entry in redis.hvals("unacked")]
    assert unacknowledged, "nothing is under way"
    for message, _, queue in unacknowledged:
        redis.lpush(queue, json.dumps(message))
    live.start_worker(env=QUICK)
    settle(live, rows)
    slow.thaw()
    executed_once(stage, range(1, 5))


def freeze_and_replace(live: Live, stage: Stage, **env: str) -> tuple[Process, list[Transaction]]:
    """Freeze a worker that has signed and not committed, let another finish, thaw it."""
    settings = {**QUICK, **env}
    frozen = live.start_worker(fault="signer.signed=stop", env=settings)
    rows = [stage.record(number) for number in range(1, 5)]
    live.wait_until(lambda: swept() and frozen.stopped, 30, what="the worker freezes")
    live.redis.client().flushall()  # its Redis lock has run out
    live.start_worker(env=settings)
    settle(live, rows)
    frozen.thaw()
    return frozen, rows


@pytest.mark.sqlite_too
@pytest.mark.case("S14")
def test_worker_frozen_beyond_its_lease_commits_and_sends_nothing(live: Live, stage: Stage) -> None:
    frozen, _ = freeze_and_replace(live, stage)
    live.wait_until(lambda: "fenced" in frozen.output(), 20, what="the thawed worker is fenced")
    executed_once(stage, range(1, 5))
    assert set(Attempt.objects.values_list("seq", flat=True)) == {0}


@pytest.mark.case("S14")
def test_without_the_epoch_check_the_stale_worker_reaches_the_nonces(live: Live, stage: Stage) -> None:
    """The test above goes red with the check switched off: what stops the stale worker then are the constraints."""
    frozen, _ = freeze_and_replace(live, stage, DALP_TEST_DISABLE_FENCE="true")
    live.wait_until(
        lambda: "IntegrityError" in frozen.output(), 20, what="the thawed worker meets a constraint"
    )
    assert "fenced" not in frozen.output()
    executed_once(stage, range(1, 5))


@pytest.mark.case("S16")
def test_redis_flushed_and_gone_for_a_while_changes_no_nonce(live: Live, stage: Stage) -> None:
    """Gone while some are in flight, for longer than a client waits (2 s) and rests (2 s), the lease and the re-send.

    The 5 s for which a wake-up stands in the way of the next are Redis's own, and gone with it.
    """
    worker = live.start_worker(env=QUICK)
    rows = []
    for number in range(1, 31):
        rows.append(stage.record(number))
        if number % 10 == 0:
            live.redis.client().flushall()
    live.wait_until(lambda: Attempt.objects.count() > 1, what="some are sent")
    live.redis.kill()
    try:
        gone_at = time.monotonic()
        given = set(Attempt.objects.values_list("transaction_id", "nonce", "hash"))
        rows += [stage.record(number) for number in range(31, 51)]  # accepted: the row is all that is needed
        live.wait_until(lambda: swept() and time.monotonic() - gone_at > AWAY_SECONDS, what="it was away")
    finally:
        live.redis.start()
    settle(live, rows)
    executed_once(stage, range(1, 51))
    assert given <= set(Attempt.objects.values_list("transaction_id", "nonce", "hash"))
    assert set(Attempt.objects.values_list("seq", flat=True)) == {0}
    assert worker.alive


@pytest.mark.timeout(240)
@pytest.mark.case("PC2")
def test_hundred_transactions_end_once_where_a_third_of_all_requests_fail(live: Live, stage: Stage) -> None:
    """Before two nodes: 30 % errors, 5 % lost answers, and each tenth answer comes after two seconds."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    Chain.objects.update(max_in_flight=100)
    pair = [LyingNode(stage.node.url) for _ in range(2)]
    Endpoint.objects.all().delete()
    for position, node in enumerate(pair):
        Endpoint.objects.create(chain=stage.chain, url=node.url, position=position)
        node.chaos = Chaos(seed + position, errors=0.3, dropped=0.05, slow=0.1)
    try:
        for _ in range(2):
            live.start_worker(
                env={**QUICK, "DALP_SIGNER_PAUSE_SECONDS": "0.2", "DALP_SIGNER_HEDGE_SECONDS": "0.2"}
            )
        rows = [stage.record(number) for number in range(1, 101)]
        settle(live, rows, 150)
    finally:
        for node in pair:
            node.stop()
    executed_once(stage, range(1, 101))
    struck = sum((node.faults for node in pair), Counter())
    assert struck["closed"] + struck["bad gateway"] + struck["internal error"] > 10, struck
    assert struck["slow"] + struck["dropped"] > 1, struck


@pytest.mark.case("S47")
def test_node_that_forgets_its_pool_is_sent_the_same_bytes_again(live: Live, stage: Stage) -> None:
    stage.rpc("evm_setIntervalMining", 0)
    live.start_worker(env=QUICK)
    rows = [stage.record(number) for number in range(1, 4)]
    live.wait_until(lambda: swept() and len(stage.pool()) == 3, what="the node has all three")
    hashes = {row.pk: stage.attempts(row.pk)[0].hash for row in rows}
    stage.rpc("anvil_dropAllTransactions")
    live.wait_until(lambda: swept() and len(stage.pool()) == 3, what="they are sent again")
    stage.rpc("evm_setIntervalMining", 1)
    settle(live, rows)
    executed_once(stage, range(1, 4))
    for row in rows:
        row.refresh_from_db()
        assert row.winner is not None
        assert row.winner.hash == hashes[row.pk]


def test_lane_row_is_given_back_after_the_work(live: Live, stage: Stage) -> None:
    live.start_worker(env=QUICK)
    settle(live, [stage.record(1)])
    live.wait_until(lambda: Lane.objects.get().lease_until is None, what="the lease is released")
