"""A market that runs away from what is out, and blocks without room: raised by what a node takes, never above the ceiling."""

from itertools import pairwise

import pytest

from signer.models import Attempt, Chain, Incident, Transaction
from signer.states import IncidentKind
from tests.integration.signer.stage import Stage, wait

GWEI = 10**9
# So long that the head's best attempt is raised, however often it was raised before.
LONG_SECONDS = 700


def set_base_fee(stage: Stage, wei: int) -> None:
    stage.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))


def mine_full_block(stage: Stage) -> None:
    """Mine a block that has no room for the least transaction."""
    stage.rpc("evm_setBlockGasLimit", hex(20_000))
    stage.mine()
    stage.rpc("evm_setBlockGasLimit", hex(30_000_000))


def look_much_later(stage: Stage) -> None:
    stage.later(LONG_SECONDS)
    stage.drain()


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def each_was_raised_enough(attempts: list[Attempt]) -> bool:
    """Return whether each offers a tenth more than the one before, on both fields: geth takes no less."""
    return all(
        10 * new.max_fee_per_gas_wei >= 11 * old.max_fee_per_gas_wei
        and 10 * new.max_priority_fee_per_gas_wei >= 11 * old.max_priority_fee_per_gas_wei
        for old, new in pairwise(attempts)
    )


@pytest.mark.case("S52")
def test_head_keeps_up_with_a_base_fee_that_grows_tenfold_in_thirty_blocks(manual: Stage) -> None:
    """The blocks are full while the fee rises, and each look comes when the last offer is below the base fee again."""
    base_fee = 10 * GWEI
    set_base_fee(manual, base_fee)
    manual.mine()
    row = manual.submit(gas_limit=21_000)
    manual.drain()
    for block in range(1, 31):
        set_base_fee(manual, int(base_fee * 10 ** (block / 30)))
        mine_full_block(manual)
        if block % 10 == 0:
            [out] = manual.attempts(row.pk)[-1:]
            assert out.max_fee_per_gas_wei < base_fee * 10 ** (block / 30), "it needs no raise"
            look_much_later(manual)
            assert manual.pool()["0"]["hash"] == manual.attempts(row.pk)[-1].hash
    attempts = manual.attempts(row.pk)
    assert len(attempts) == 4
    assert each_was_raised_enough(attempts)
    manual.mine()
    manual.watch()
    assert state(row)[0] == "COMPLETED"
    assert row.winner == attempts[-1]


@pytest.mark.case("PC6")
def test_stuck_where_blocks_have_no_room_is_raised_up_to_the_ceiling_and_mined_once(manual: Stage) -> None:
    row, behind = manual.submit(gas_limit=21_000), manual.submit(gas_limit=21_000)
    manual.drain()
    [first] = manual.attempts(row.pk)
    ceiling = first.max_fee_per_gas_wei * 2
    Chain.objects.update(max_fee_per_gas_wei=ceiling)
    for _ in range(8):
        mine_full_block(manual)
        look_much_later(manual)
    attempts = manual.attempts(row.pk)
    assert state(row) == ("BROADCASTING", "FEE_CAPPED")
    assert len(attempts) > 3
    assert each_was_raised_enough(attempts)
    assert attempts[-1].max_fee_per_gas_wei <= ceiling
    assert attempts[-1].max_fee_per_gas_wei * 9 // 8 > ceiling, "nothing more could be offered"
    assert [len(manual.attempts(behind.pk)), manual.pool()["0"]["hash"]] == [1, attempts[-1].hash]
    manual.mine()
    manual.watch()
    assert {state(each)[0] for each in (row, behind)} == {"COMPLETED"}
    assert int(manual.rpc("eth_getBalance", "0x" + "11" * 20, "latest"), 16) == 2, "each of them once"


@pytest.mark.case("PC7", "S53")
def test_base_fee_that_jumps_fiftyfold_is_waited_for_and_told_of_until_it_falls(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, fee_capped_alert_seconds=0)
    out = manual.submit(gas_limit=21_000)
    manual.drain()
    [first] = manual.attempts(out.pk)
    ceiling = first.max_fee_per_gas_wei * 10
    Chain.objects.update(max_fee_per_gas_wei=ceiling)
    set_base_fee(manual, 50 * GWEI)
    manual.mine()
    set_base_fee(manual, 50 * GWEI)
    waiting = manual.submit(gas_limit=21_000)
    for _ in range(10):
        look_much_later(manual)
    assert (state(out)[0], state(waiting)) == ("BROADCASTING", ("QUEUED", "FEE_CAPPED"))
    assert waiting.nonce is None
    assert max(attempt.max_fee_per_gas_wei for attempt in manual.attempts(out.pk)) <= ceiling
    assert each_was_raised_enough(manual.attempts(out.pk))
    incident = Incident.objects.get()
    assert (incident.kind, incident.closed_at) == (IncidentKind.FEE_CAPPED, None)
    set_base_fee(manual, GWEI)
    manual.mine()
    look_much_later(manual)
    manual.mine()
    manual.watch()
    manual.drain()
    assert [state(row)[0] for row in (out, waiting)] == ["COMPLETED", "COMPLETED"]
    assert Incident.objects.get().closed_at is not None, "told once, and over"
