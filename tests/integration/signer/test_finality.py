"""When a block counts as final, and the second look at what was settled."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from django.utils import timezone

from signer import queue, sweeping
from signer.models import Attempt, Chain, Incident, Lane, Transaction
from signer.watching import Watch, watch
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import Stage
from workflows import claim, release


def state(row: Transaction) -> str:
    row.refresh_from_db()
    return row.state


def test_chain_that_names_its_final_block_is_believed(manual: Stage, liar: LyingNode) -> None:
    Chain.objects.update(finality="FINALIZED")
    final = ["0x0"]

    def lie(call):  # type: ignore[no-untyped-def]
        if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "finalized":
            return {"result": manual.rpc("eth_getBlockByNumber", final[0], False)}
        return None

    liar.lie = lie
    row = manual.submit()
    manual.drain()
    manual.mine(40)
    manual.watch()
    assert state(row) == "CONFIRMING", "forty blocks deep, and not final"
    final[0] = "0x1"
    manual.mine()
    manual.watch()
    assert state(row) == "COMPLETED"
    assert Chain.objects.get().finalized_number == 1


def test_final_block_never_goes_back(manual: Stage, liar: LyingNode) -> None:
    Chain.objects.update(finality="FINALIZED", finalized_number=30)
    liar.lie = lambda call: (
        {"result": manual.rpc("eth_getBlockByNumber", "0x0", False)}
        if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "finalized"
        else None
    )
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row) == "COMPLETED", "block 1 was below what another node called final"


@pytest.mark.case("S66")
def test_second_look_finds_a_reorganisation_that_nobody_watched(manual: Stage) -> None:
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row) == "COMPLETED"
    manual.mine(3)
    manual.rpc("anvil_reorg", 4, [])
    manual.mine(2)
    Chain.objects.update(rechecked_at=timezone.now() - timezone.timedelta(seconds=400), lease_until=None)
    manual.watch()
    incident = Incident.objects.get(kind="DEEP_REORG")
    assert incident.details["transactions"] == [str(row.pk)]
    manual.watch()
    assert Incident.objects.count() == 1, "told once"


def test_second_look_at_a_chain_that_kept_its_blocks_says_nothing(manual: Stage) -> None:
    manual.submit()
    manual.drain()
    manual.mine(5)
    manual.watch()
    Chain.objects.update(rechecked_at=None)
    manual.watch()
    assert Chain.objects.get().rechecked_at is not None
    assert not Incident.objects.exists()


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chains whose watchers a sweep wakes."""
    woken: list[int] = []
    monkeypatch.setattr(sweeping, "ring_chain", woken.append)
    queue.client().delete("chains:31337:rechecked")
    return woken


def idle(manual: Stage) -> Transaction:
    """Have the chain come to rest after a transaction, and its last second look be long ago."""
    row = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row) == "COMPLETED"
    Chain.objects.update(rechecked_at=timezone.now() - timezone.timedelta(seconds=400), lease_until=None)
    return row


@pytest.mark.case("S66")
@pytest.mark.sqlite_too
def test_reorganisation_of_an_idle_chain_is_told_of_after_one_sweep(manual: Stage, rung: list[int]) -> None:
    row = idle(manual)
    manual.rpc("anvil_reorg", 1, [])
    assert manual.rpc("eth_getTransactionReceipt", manual.attempts(row.pk)[0].hash) is None
    sweeping.sweep()
    assert rung == [31337]
    for chain_id in rung:
        watch(chain_id)
    incident = Incident.objects.get(closed_at=None)
    assert (incident.kind, incident.details["transactions"]) == ("DEEP_REORG", [str(row.pk)])
    assert state(row) == "COMPLETED", "what was told cannot be taken back by a program"


def test_idle_chain_is_looked_at_once_in_a_while_and_not_for_ever(manual: Stage, rung: list[int]) -> None:
    idle(manual)
    sweeping.sweep()
    watch(31337)
    queue.client().delete("chains:31337:rechecked")
    sweeping.sweep()
    assert rung == [31337], "it has just been looked at"
    Chain.objects.update(rechecked_at=None)
    Transaction.objects.update(settled_at=timezone.now() - timezone.timedelta(days=2))
    sweeping.sweep()
    assert rung == [31337], "it has been looked at for a day"


def test_idle_chain_whose_node_is_away_is_not_called_upon_every_second(
    manual: Stage, liar: LyingNode, rung: list[int]
) -> None:
    idle(manual)
    liar.lose_requests = True
    for _ in range(3):
        sweeping.sweep()
        watch(31337)
    assert rung == [31337]
    liar.lose_requests = False
    queue.client().delete("chains:31337:rechecked")
    sweeping.sweep()
    assert rung == [31337, 31337], "it is still due"


def test_second_look_alone_follows_no_heads(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle(manual)
    followed: list[object] = []
    monkeypatch.setattr("signer.watching.heads", followed.append)
    liar.seen.clear()
    watch(31337)
    assert followed == []
    assert sum(liar.seen.values()) <= 3, "the block, and whose chain it is"


@pytest.mark.parametrize("count", [3, 40])
def test_receipts_of_a_full_block_are_asked_for_as_a_whole(
    manual: Stage, liar: LyingNode, count: int
) -> None:
    Chain.objects.update(max_in_flight=100)
    first = manual.submit()
    manual.drain()
    manual.mine()
    held = claim(Chain, 31337, 30)
    assert held is not None
    watch = Watch(held)
    watch.poll()
    assert state(first) == "COMPLETED"
    rows = [manual.submit(gas_limit=21_000) for _ in range(count)]
    manual.drain()
    manual.mine()
    liar.seen.clear()
    watch.poll()
    assert {state(row) for row in rows} == {"COMPLETED"}
    assert liar.seen["eth_getBlockReceipts"] == (1 if count >= 10 else 0)
    assert liar.seen["eth_getTransactionReceipt"] == (0 if count >= 10 else count)
    assert sum(liar.seen.values()) < (10 if count >= 10 else count + 10)


def test_what_was_mined_between_two_watches_is_asked_for_by_the_block(manual: Stage, liar: LyingNode) -> None:
    Chain.objects.update(max_in_flight=100)
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    rows = []
    for _ in range(5):
        rows += [manual.submit(gas_limit=21_000) for _ in range(12)]
        manual.drain()
        manual.mine()
    liar.seen.clear()
    manual.watch()
    assert {state(row) for row in rows} == {"COMPLETED"}
    assert liar.seen["eth_getTransactionReceipt"] == 0
    assert liar.seen["eth_getBlockReceipts"] == 6, (
        "the five, and the last of before, in case its watcher died"
    )


def test_lanes_are_woken_by_what_ends_only_where_something_waits_for_it(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[UUID] = []
    monkeypatch.setattr("signer.watching.ring_lane", rung.append)
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert rung == []
    Chain.objects.update(max_in_flight=1)
    manual.submit()
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert rung == [manual.lane.pk], "there was no room for the second"
    manual.drain()
    rung.clear()
    Lane.objects.update(state="DRAINING", state_reason="a person wants it")
    manual.mine()
    manual.watch()
    assert rung == [manual.lane.pk], "it is empty now"


@pytest.fixture
def watched(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """A watch of a chain with a block of 25 transactions, that looks at ten of them at a time."""
    monkeypatch.setattr("signer.candidates.LIMIT", 10)
    Chain.objects.update(max_in_flight=100, confirmations=2)
    for _ in range(25):
        manual.submit(gas_limit=21_000)
    manual.drain()
    manual.mine()
    held = claim(Chain, 31337, 30)
    assert held is not None
    watch = Watch(held)
    watch._read_number = manual.anvil.block_number() - 1  # it has followed the chain
    yield watch
    release(held)


def confirming() -> set[str]:
    """Return the blocks in which transactions are said to be."""
    found = Transaction.objects.filter(state="CONFIRMING").order_by()
    return set(found.values_list("block_hash", flat=True).distinct())


def test_block_that_takes_several_looks_is_read_once(manual: Stage, liar: LyingNode, watched: Watch) -> None:
    liar.seen.clear()
    for _ in range(5):
        watched.poll()
    assert Transaction.objects.filter(state="CONFIRMING").count() == 25
    assert liar.seen["eth_getBlockReceipts"] == 1
    assert liar.seen["eth_getTransactionReceipt"] == 0


def test_receipts_at_hand_are_let_go_with_their_block(manual: Stage, watched: Watch) -> None:
    watched.poll()
    (gone,) = confirming()
    again = [["0x" + bytes(attempt.raw).hex(), 0] for attempt in Attempt.objects.order_by("nonce")]
    manual.rpc("anvil_reorg", 1, again)
    manual.mine(2)
    for _ in range(8):
        watched.poll()
    assert Transaction.objects.filter(state="COMPLETED").exclude(block_hash=gone).count() == 25
