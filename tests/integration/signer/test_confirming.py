"""When something is final, and what a fork takes back."""

import time
from itertools import pairwise

import pytest

from signer.models import Attempt, Block, Chain, Incident, Transaction
from signer.watching import Watch
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import Crash, Stage, crash_at, wait
from workflows import claim, release


def state(row: Transaction) -> str:
    row.refresh_from_db()
    return row.state


def test_confirmations_are_waited_for(manual: Stage) -> None:
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    for expected in ("CONFIRMING", "CONFIRMING", "COMPLETED"):
        manual.mine()
        manual.watch()
        assert state(row) == expected


def test_failure_is_final_no_sooner_than_success_and_says_why(manual: Stage) -> None:
    manual.rpc("evm_setAutomine", True)
    manual.deploy_counter()
    refuse = manual.submit(
        to=manual.counter.address, value=0, data=manual.counter.encode("refuse", 7, True), gas_limit=100_000
    )
    manual.settle()
    assert state(refuse) == "COMPLETED"
    manual.rpc("evm_setAutomine", False)
    Chain.objects.update(confirmations=2)
    row = manual.record(7)
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row) == "CONFIRMING"
    manual.mine()
    manual.watch()
    assert state(row) == "FAILED"
    assert row.error == {"code": "TRANSACTION_REVERTED", "message": "request refused"}


@pytest.mark.case("S62")
def test_mined_again_in_another_block_completes_once_with_that_block(manual: Stage) -> None:
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row) == "CONFIRMING"
    orphan = row.block_hash
    raw = "0x" + bytes(manual.attempts(row.pk)[0].raw).hex()
    manual.rpc("anvil_reorg", 1, [[raw, 0]])
    manual.watch()
    manual.watch()
    assert state(row) == "CONFIRMING"
    assert row.block_hash != orphan
    manual.mine(2)
    manual.watch()
    assert state(row) == "COMPLETED"
    assert not Block.objects.get(hash=orphan).canonical


@pytest.mark.case("S63")
def test_dropped_by_a_fork_is_sent_again_with_its_nonce(manual: Stage) -> None:
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    manual.mine(2)
    manual.watch()
    assert state(row) == "CONFIRMING"
    manual.rpc("anvil_reorg", 2, [])
    manual.watch()
    manual.watch()
    assert state(row) == "BROADCASTING"
    assert row.sub_state == "REORGED"
    manual.drain()
    assert list(manual.pool()) == ["0"]
    manual.mine(3)
    manual.watch()
    assert state(row) == "COMPLETED"
    assert (row.nonce, len(manual.attempts(row.pk))) == (0, 1)


@pytest.mark.case("PC3", "S63")
@pytest.mark.timeout(60)
def test_forks_of_every_depth_to_twelve_have_all_that_they_drop_sent_again(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One transaction in the oldest and one in the newest block that a fork drops, and its pool is lost with them."""
    Chain.objects.update(confirmations=13)
    wait(monkeypatch, bump_after_seconds=10**6)
    held = claim(Chain, 31337, 60)
    assert held is not None
    watch = Watch(held)
    receivers = {}
    for depth in range(1, 13):
        rows = []
        for blocks in [depth - 1, 1] if depth > 1 else [1]:
            rows.append(manual.submit(to=f"0x{depth:02x}{len(rows):02x}{17:036x}", value=depth))
            manual.drain()
            manual.rpc("anvil_mine", hex(blocks))
        watch.poll()
        assert [state(row) for row in rows] == ["CONFIRMING"] * len(rows)
        hashes = [manual.attempts(row.pk)[0].hash for row in rows]
        manual.rpc("anvil_reorg", depth, [])
        manual.rpc("anvil_dropAllTransactions")
        assert [manual.balance(row.to) for row in rows] == [0] * len(rows)
        watch.poll()
        assert [(state(row), row.sub_state) for row in rows] == [("BROADCASTING", "REORGED")] * len(rows)
        manual.drain()
        assert {entry["hash"] for entry in manual.pool().values()} == set(hashes)
        manual.rpc("anvil_mine", hex(13))
        watch.poll()
        assert [state(row) for row in rows] == ["COMPLETED"] * len(rows)
        receivers |= {row.to: depth for row in rows}
    release(held)
    assert len(receivers) == 23
    assert {address: manual.balance(address) for address in receivers} == receivers
    assert Transaction.objects.count() == Attempt.objects.count() == manual.mined_nonces() == 23
    assert not Incident.objects.exists()


@pytest.mark.case("S62")
def test_fork_is_noticed_when_the_new_chain_is_longer(manual: Stage) -> None:
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    orphan = Transaction.objects.get(pk=row.pk).block_hash
    raw = "0x" + bytes(manual.attempts(row.pk)[0].raw).hex()
    manual.rpc("anvil_reorg", 1, [[raw, 0]])
    manual.mine(5)
    manual.watch()
    manual.watch()
    assert state(row) == "COMPLETED"
    assert row.block_hash != orphan
    assert not Block.objects.get(hash=orphan).canonical


@pytest.mark.case("S64")
@pytest.mark.parametrize("longer_by", [0, 5])
def test_fork_that_mines_another_attempt_ends_with_that_attempt(manual: Stage, longer_by: int) -> None:
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    manual.later(700)
    manual.drain()
    old, new = manual.attempts(row.pk)
    manual.mine()
    manual.watch()
    assert (state(row), row.winner) == ("CONFIRMING", new)
    manual.rpc("anvil_reorg", 1, [["0x" + bytes(old.raw).hex(), 0]])
    manual.mine(longer_by)
    manual.watch()
    manual.watch()
    manual.mine(2)
    manual.watch()
    assert (state(row), row.winner) == ("COMPLETED", old)
    assert (old.receipt, row.block_hash) == (None, manual.attempts(row.pk)[0].receipt["blockHash"])
    assert manual.attempts(row.pk)[1].receipt is None, "of a block that is gone"
    assert not Incident.objects.exists()


@pytest.mark.case("S65")
@pytest.mark.parametrize("fails_at_last", [False, True])
def test_fork_that_turns_failure_into_success_or_back_ends_as_the_last_chain_says(
    manual: Stage, fails_at_last: bool
) -> None:
    """What decides is a call of somebody else, which one of the two chains has before ours and the other has not."""
    manual.rpc("evm_setAutomine", True)
    manual.deploy_counter()
    manual.rpc("evm_setAutomine", False)
    Chain.objects.update(confirmations=3)
    [stranger] = manual.rpc("eth_accounts")[:1]
    refuse = {
        "from": stranger,
        "to": manual.counter.address,
        "data": manual.counter.encode("refuse", 7, True),
    }
    if not fails_at_last:
        manual.rpc("eth_sendTransaction", {**refuse, "gas": hex(100_000)})
    manual.mine()
    row = manual.record(7)
    manual.drain()
    manual.mine()
    manual.watch()
    [attempt] = manual.attempts(row.pk)
    assert state(row) == "CONFIRMING"
    assert attempt.receipt is not None
    assert attempt.receipt["status"] == ("0x1" if fails_at_last else "0x0")
    ours = ["0x" + bytes(attempt.raw).hex(), 1]
    manual.rpc("anvil_reorg", 2, [[refuse, 0], ours] if fails_at_last else [ours])
    manual.watch()
    manual.watch()
    assert state(row) == "CONFIRMING", "neither is final yet"
    manual.mine(3)
    manual.watch()
    assert state(row) == ("FAILED" if fails_at_last else "COMPLETED")
    assert row.error == (
        {"code": "TRANSACTION_REVERTED", "message": "request refused"} if fails_at_last else None
    )
    assert manual.counted(7) == (0 if fails_at_last else 1)


@pytest.mark.case("S66")
def test_fork_below_a_final_transaction_is_an_incident_and_its_bytes_are_sent_again(manual: Stage) -> None:
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row) == "COMPLETED"
    assert row.winner is not None
    manual.submit()
    manual.rpc("anvil_reorg", 1, [])
    manual.drain()
    manual.watch()
    incident = Incident.objects.get(kind="DEEP_REORG")
    assert incident.details["transactions"] == [str(row.pk)]
    assert [entry["nonce"] for entry in manual.pool().values()] == ["0x0", "0x1"]
    assert manual.pool()["0"]["hash"] == row.winner.hash, "nothing above it could be mined without it"
    assert state(row) == "COMPLETED", "what was told cannot be taken back"


@pytest.mark.case("S8")
@pytest.mark.parametrize("point", ["signer.receipts_read", "signer.receipts_stored", "signer.settling"])
def test_death_while_settling_settles_later(
    manual: Stage, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    rows = [manual.submit() for _ in range(3)]
    manual.drain()
    manual.mine()
    crash_at(monkeypatch, point)
    with pytest.raises(Crash):
        manual.watch()
    assert {state(row) for row in rows} == {"BROADCASTING"}
    manual.watch()
    assert {state(row) for row in rows} == {"COMPLETED"}


def test_mined_while_nobody_watched_is_found(manual: Stage) -> None:
    """Far deeper than the list of headers reaches."""
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.rpc("anvil_mine", hex(600))
    manual.watch()
    assert state(row) == "COMPLETED"


@pytest.mark.parametrize("gap", [100, 300, 900])
def test_orphaned_while_nobody_watched_is_sent_again_with_its_nonce(manual: Stage, gap: int) -> None:
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row) == "CONFIRMING"
    manual.rpc("anvil_reorg", 1, [])
    manual.rpc("anvil_dropAllTransactions")
    manual.rpc("anvil_mine", hex(gap))
    manual.watch()
    manual.watch()
    assert (state(row), row.sub_state, row.nonce) == ("BROADCASTING", "REORGED", 0)
    manual.drain()
    assert list(manual.pool()) == ["0"]
    manual.mine(3)
    manual.watch()
    assert state(row) == "COMPLETED"
    assert len(manual.attempts(row.pk)) == 1


def test_missing_receipt_of_a_block_that_is_on_the_chain_takes_nothing_back(
    manual: Stage, liar: LyingNode
) -> None:
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    liar.lie = lambda call: {"result": None} if call["method"] == "eth_getTransactionReceipt" else None
    manual.rpc("anvil_mine", hex(300))
    manual.watch()
    assert state(row) == "CONFIRMING"
    liar.lie = None
    manual.watch()
    assert state(row) == "COMPLETED"


@pytest.mark.parametrize("depth", [5, 100, 255])
def test_blocks_mined_while_nobody_watched_are_linked(manual: Stage, depth: int) -> None:
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    row = manual.submit()
    manual.drain()
    manual.rpc("anvil_mine", hex(depth))
    manual.watch()
    assert state(row) == "COMPLETED"
    numbers = (
        Block.objects.filter(canonical=True).order_by("number").values_list("number", "hash", "parent_hash")
    )
    for (n, block_hash, _), (m, _, parent) in pairwise(numbers):
        assert (m, parent) == (n + 1, block_hash)


def test_slow_chain_is_not_asked_without_pause(manual: Stage, liar: LyingNode) -> None:
    """A slice that is shorter than the pause between two looks is slept to its end."""
    Chain.objects.update(block_time_ms=12_000)
    manual.submit()
    manual.drain()
    liar.seen.clear()
    began = time.monotonic()
    manual.watch()
    assert time.monotonic() - began >= 0.3
    assert liar.seen["eth_getTransactionCount"] == 1
