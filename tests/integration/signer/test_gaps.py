"""A nonce that no pool holds below others that wait: it is sent again or filled, and what waits is kept as it is."""

import random

import pytest
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes

from signer import foreign, resync, strangers
from signer.models import Attempt, Chain, Lane, Transaction
from tests.integration.signer.endpoints import state
from tests.integration.signer.lying_node import SEND, Call, LyingNode
from tests.integration.signer.stage import Stage, send_as_stranger, wait

RESEND_SECONDS = 60


@pytest.fixture
def counting(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The counter contract, whose nonce is 0, on a chain that mines when told; nothing is ever raised."""
    manual.rpc("evm_setAutomine", True)
    manual.deploy_counter()
    manual.rpc("evm_setAutomine", False)
    wait(monkeypatch, resend_seconds=RESEND_SECONDS, bump_after_seconds=10**6)
    return manual


def pooled(stage: Stage) -> list[int]:
    """Return the nonces that blocks can take from the pool."""
    return sorted(map(int, stage.pool()))


def executed_once(stage: Stage, rows: list[Transaction]) -> None:
    """Each request is counted once and nothing else is, in transactions whose nonces are all there are."""
    count = len(rows)
    assert {state(row) for row in rows} == {("COMPLETED", "")}
    assert [stage.counted(number) for number in range(count)] == [1] * count
    assert stage.counted_in_all() == count
    assert [row.nonce for row in rows] == list(range(1, count + 1))
    assert stage.lane.next_nonce == stage.mined_nonces() == count + 1
    assert Attempt.objects.count() == count + 1, "nothing was signed twice, nothing was filled"


@pytest.mark.case("S70")
def test_lowest_of_sixteen_that_the_pool_dropped_is_sent_again_by_one_sweep(
    counting: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [counting.record(number) for number in range(16)]
    counting.drain()
    assert pooled(counting) == list(range(1, 17))
    lowest = counting.attempts(rows[0].pk)[0].hash
    counting.rpc("anvil_dropTransaction", lowest)
    counting.mine()
    assert (pooled(counting), counting.counted_in_all()) == ([], 0), (
        "without it none of the others can be mined"
    )
    counting.later(RESEND_SECONDS)
    assert counting.sweep(monkeypatch) == 1
    assert pooled(counting) == list(range(1, 17))
    assert counting.pool()["1"]["hash"] == lowest
    counting.mine()
    counting.watch()
    executed_once(counting, rows)


@pytest.mark.case("PC5")
def test_fifth_of_the_pool_that_was_dropped_is_sent_again_within_two_sweeps(
    counting: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting.chain.max_in_flight = 50
    counting.chain.save()
    rows = [counting.record(number) for number in range(50)]
    counting.drain()
    hashes = {row.pk: counting.attempts(row.pk)[0].hash for row in rows}
    dropped = random.Random(5).sample(rows, 10)
    for row in dropped:
        counting.rpc("anvil_dropTransaction", hashes[row.pk])
    assert len(pooled(counting)) < 40
    sweeps = 0
    while len(pooled(counting)) < 50:
        counting.later(RESEND_SECONDS)
        counting.sweep(monkeypatch)
        sweeps += 1
        assert sweeps <= 2
    assert {entry["hash"] for entry in counting.pool().values()} == set(hashes.values())
    counting.mine()
    counting.watch()
    executed_once(counting, rows)


def fillers() -> list[tuple[int | None, str]]:
    return list(Transaction.objects.filter(kind="FILLER").order_by("nonce").values_list("nonce", "state"))


def nonce_of(call: Call) -> int:
    return int(TypedTransaction.from_bytes(HexBytes(call["params"][0])).as_dict()["nonce"])


@pytest.mark.case("S31", "S71")
def test_gap_below_is_filled_before_what_the_node_finds_too_high(manual: Stage, liar: LyingNode) -> None:
    """Its node takes no nonce before the one below, and at first none of the fillers."""
    manual.submit()
    manual.drain()
    # As after a signer that died for good with nonces that it had been given.
    Lane.objects.update(next_nonce=3)
    row = manual.submit()
    is_full, pool = [True], [0]

    def lie(call: Call) -> dict[str, object] | None:
        if call["method"] != SEND or nonce_of(call) in pool:
            return None
        if is_full and nonce_of(call) < 3:
            return {"error": {"code": -32000, "message": "txpool is full"}}
        if nonce_of(call) > pool[-1] + 1:
            return {"error": {"code": -32000, "message": "nonce too high"}}
        pool.append(nonce_of(call))
        return None

    liar.lie = lie
    manual.drain()
    [kept] = manual.attempts(row.pk)
    assert (state(row), row.nonce) == (("BROADCASTING", "POSSIBLY_SENT"), 3)
    assert (kept.state, kept.last_error, pooled(manual)) == ("SIGNED", "NONCE_HIGH", [0])
    is_full.clear()
    manual.later(RESEND_SECONDS)
    manual.drain()
    assert (pool, pooled(manual)) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert manual.pool()["3"]["hash"] == kept.hash
    manual.mine()
    manual.watch()
    assert (state(row), row.nonce, manual.attempts(row.pk)) == (("COMPLETED", ""), 3, [kept])
    assert fillers() == [(1, "COMPLETED"), (2, "COMPLETED")]
    assert manual.balance(row.to) == 2


@pytest.fixture(params=["BLOCK", "ADOPT"])
def adopted(counting: Stage, request: pytest.FixtureRequest) -> Stage:
    """A lane that has gone on above two nonces of a stranger's, in the newest block; a person said so, or the chain's row."""
    Chain.objects.update(foreign_nonces=request.param)
    counting.mine(foreign.DEPTH)
    send_as_stranger(counting, 2)
    counting.mine()
    strangers.look(31337)
    if request.param == "BLOCK":
        resync.resync_lane(counting.lane, actor="anna", reason="known")
    assert (counting.lane.state, counting.lane.first_nonce, counting.lane.next_nonce) == ("ACTIVE", 3, 3)
    return counting


def fork(stage: Stage) -> None:
    """Drop the newest block, and what was in it from the pool."""
    stage.rpc("anvil_reorg", 1, [])
    stage.rpc("anvil_dropAllTransactions")
    assert stage.mined_nonces() == 1


def test_nonces_of_a_stranger_that_a_fork_dropped_are_filled_when_they_stay_unused(adopted: Stage) -> None:
    rows = [adopted.record(number) for number in range(3)]
    adopted.drain()
    fork(adopted)
    rows.append(adopted.record(3))
    adopted.drain()
    adopted.mine()
    adopted.watch()
    assert (fillers(), pooled(adopted)) == ([], []), "a stranger's may still come back"
    adopted.later(RESEND_SECONDS)
    rows.append(adopted.record(4))
    adopted.drain()
    assert (fillers(), adopted.lane.first_nonce) == ([(1, "BROADCASTING"), (2, "BROADCASTING")], 1)
    adopted.mine()
    adopted.watch()
    assert fillers() == [(1, "COMPLETED"), (2, "COMPLETED")]
    assert {state(row) for row in rows} == {("COMPLETED", "")}
    assert [adopted.counted(number) for number in range(5)] == [1] * 5
    assert [row.nonce for row in rows] == [3, 4, 5, 6, 7]
    assert adopted.lane.next_nonce == adopted.mined_nonces() == 8


def test_lane_with_nothing_more_to_send_fills_them_too(
    adopted: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = adopted.record(0)
    adopted.drain()
    fork(adopted)
    adopted.watch()
    wait(monkeypatch, bump_after_seconds=30)
    adopted.later(RESEND_SECONDS)
    assert adopted.sweep(monkeypatch) == 1
    assert pooled(adopted) == [1, 2, 3]
    adopted.mine()
    adopted.watch()
    assert (state(row), adopted.counted_in_all()) == (("COMPLETED", ""), 1)


def test_stranger_s_transaction_that_comes_back_after_a_fork_keeps_its_nonce(adopted: Stage) -> None:
    rows = [adopted.record(0)]
    adopted.drain()
    fork(adopted)
    adopted.mine(5)
    adopted.watch()
    rows.append(adopted.record(1))
    adopted.drain()
    adopted.rpc("anvil_dropAllTransactions")  # the node would give the stranger a nonce above ours
    send_as_stranger(adopted, 2)
    adopted.mine()
    assert adopted.mined_nonces() == 3
    adopted.later(RESEND_SECONDS)
    rows.append(adopted.record(2))
    adopted.drain()
    assert (fillers(), adopted.lane.first_nonce, pooled(adopted)) == ([], 3, [3, 4, 5])
    adopted.mine()
    adopted.watch()
    assert [state(row) for row in rows] == [("COMPLETED", "")] * 3


def test_node_that_lags_makes_no_gap_of_what_others_have_used(adopted: Stage, liar: LyingNode) -> None:
    row = adopted.record(0)
    adopted.drain()
    adopted.watch()

    def lie(call: Call) -> dict[str, object] | None:
        is_count = call["method"] == "eth_getTransactionCount"
        return {"result": "0x1"} if is_count and call["params"][1] == "latest" else None

    liar.lie = lie
    adopted.later(RESEND_SECONDS)
    adopted.record(1)
    adopted.drain()
    assert (fillers(), adopted.lane.first_nonce) == ([], 3)
    liar.lie = None
    adopted.mine()
    adopted.watch()
    assert state(row) == ("COMPLETED", "")
