"""What a chain below (OP Stack) charges for the data is reserved with the rest, whatever becomes of the transaction."""

import pytest

from signer import control, lanes
from signer.models import Attempt, Chain, Lane, Transaction
from signer.states import TransactionKind
from tests.integration.signer.custody_server import CustodyServer
from tests.integration.signer.lying_node import Call, LyingNode
from tests.integration.signer.stage import Stage

# Answers every call with 5 * 10^12: PUSH6, MSTORE, RETURN.
ANSWERS_FIVE_TERA = "0x65048c2739500060005260206000f3"
# Answers with the length of the bytes that it is called with: CALLDATALOAD of the second word, MSTORE, RETURN.
ANSWERS_THE_LENGTH = "0x60243560005260206000f3"
ORACLE = "0x420000000000000000000000000000000000000F"
L1_FEE = 5 * 10**12 * 125 // 100
WHO = {"actor": "ada", "reason": "because"}
SLOT = "0x" + "00" * 32


@pytest.fixture
def rollup(manual: Stage) -> Stage:
    """A stage whose chain has an oracle that says what data costs."""
    return with_oracle(manual)


def with_oracle(stage: Stage, code: str = ANSWERS_FIVE_TERA) -> Stage:
    stage.rpc("anvil_setCode", ORACLE, code)
    Chain.objects.update(l1_fee_oracle=ORACLE)
    return stage


def transfer(stage: Stage) -> Transaction:
    return stage.submit(gas_limit=21_000, value=0)


def give(stage: Stage, wei: int) -> None:
    stage.rpc("anvil_setBalance", stage.key.address, hex(wei))


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def test_fee_of_the_chain_below_must_be_paid_too(rollup: Stage) -> None:
    row = transfer(rollup)
    rollup.drain()
    [attempt] = rollup.attempts(row.pk)
    row.refresh_from_db()
    assert (row.reserved_wei, row.l1_fee_wei) == (attempt.max_cost_wei + L1_FEE, L1_FEE)
    give(rollup, row.reserved_wei + attempt.max_cost_wei)
    short = transfer(rollup)
    rollup.drain()
    assert state(short) == ("QUEUED", "INSUFFICIENT_FUNDS")


def test_oracle_that_does_not_answer_lets_nothing_out(rollup: Stage, liar: LyingNode) -> None:
    liar.lie = no_oracle
    row = transfer(rollup)
    rollup.drain()
    assert state(row) == ("QUEUED", "NODE_UNAVAILABLE")


def no_oracle(call: Call) -> dict[str, object] | None:
    return (
        {"error": {"code": -32000, "message": "header not found"}} if call["method"] == "eth_call" else None
    )


def test_access_list_is_data_too(manual: Stage) -> None:
    with_oracle(manual, ANSWERS_THE_LENGTH)
    plain = manual.submit(gas_limit=60_000)
    listed = manual.submit(gas_limit=60_000, access_list=[{"address": ORACLE, "storageKeys": [SLOT] * 4}])
    manual.drain()
    lengths = dict(Transaction.objects.values_list("pk", "l1_fee_wei"))
    # An address and four slots take 20 and 4 * 32 bytes, and each a little around them.
    assert (lengths[plain.pk], lengths[listed.pk]) == (130 * 125 // 100, (130 + 24 + 4 * 33) * 125 // 100)


@pytest.mark.case("S35", "S57", "S58")
@pytest.mark.sqlite_too
@pytest.mark.parametrize("by", ["bump", "speed-up", "cancel"])
def test_fee_of_the_chain_below_stays_reserved_under_whatever_replaces_it(rollup: Stage, by: str) -> None:
    row = transfer(rollup)
    rollup.drain()
    if by == "bump":
        rollup.later(31)
    elif by == "speed-up":
        control.speed_up_transaction(row, **WHO)
    else:
        control.cancel_transaction(row, **WHO)
    behind = transfer(rollup)
    [first] = rollup.attempts(row.pk)
    raised = first.gas_limit * -(-first.max_fee_per_gas_wei * 9 // 8)
    # Enough for the gas of both, and for one and a half of the two fees of the chain below.
    give(rollup, raised + first.max_cost_wei + L1_FEE + L1_FEE // 2)
    rollup.drain()
    _, second = rollup.attempts(row.pk)
    row.refresh_from_db()
    assert (second.max_cost_wei, row.reserved_wei) == (raised, raised + L1_FEE)
    assert state(behind) == ("QUEUED", "INSUFFICIENT_FUNDS")
    give(rollup, raised + first.max_cost_wei + 2 * L1_FEE)
    rollup.drain()
    assert state(behind) == ("BROADCASTING", "")


@pytest.mark.case("S31", "S35")
def test_filler_reserves_the_fee_of_the_chain_below_and_waits_for_the_oracle(
    rollup: Stage, liar: LyingNode
) -> None:
    first = transfer(rollup)
    rollup.drain()
    # As after a signer that died for good with a nonce that it had been given.
    Lane.objects.update(next_nonce=2)
    first.refresh_from_db()
    behind = transfer(rollup)
    liar.lie = no_oracle
    rollup.drain()
    fillers = Transaction.objects.filter(kind=TransactionKind.FILLER)
    assert (fillers.count(), state(behind)[1]) == (0, "NODE_UNAVAILABLE")
    liar.lie = None
    # Enough for three, but not for what the chain below takes of the third.
    give(rollup, 3 * first.reserved_wei - 1)
    rollup.drain()
    filler = fillers.get()
    [attempt] = rollup.attempts(filler.pk)
    assert (filler.nonce, filler.reserved_wei, filler.l1_fee_wei) == (
        1,
        attempt.max_cost_wei + L1_FEE,
        L1_FEE,
    )
    assert state(behind) == ("QUEUED", "INSUFFICIENT_FUNDS")
    give(rollup, 3 * first.reserved_wei)
    rollup.drain()
    assert (*state(behind), behind.nonce) == ("BROADCASTING", "", 2)


@pytest.mark.case("S31", "S57")
def test_no_op_and_filler_have_the_gas_that_a_chain_asks_which_charges_in_gas(
    manual: Stage, liar: LyingNode
) -> None:
    """Arbitrum counts in what it writes to the chain below; a node refuses for ever what has less."""
    row = transfer(manual)
    manual.drain()
    Lane.objects.update(next_nonce=2)

    def lie(call: Call) -> dict[str, object] | None:
        return {"result": hex(60_000)} if call["method"] == "eth_estimateGas" else None

    liar.lie = lie
    control.cancel_transaction(row, **WHO)
    manual.drain()
    filler = Transaction.objects.get(kind=TransactionKind.FILLER)
    for each, seq in ((row, 1), (filler, 0)):
        each.refresh_from_db()
        attempt = manual.attempts(each.pk)[seq]
        assert (attempt.purpose, attempt.gas_limit, attempt.state) == ("NOOP", 72_000, "SENT")
        assert (each.reserved_gas, each.reserved_wei) == (72_000, attempt.max_cost_wei)


def test_what_a_custody_offers_is_reserved_with_the_fee_of_the_chain_below(
    stage: Stage, custody: CustodyServer
) -> None:
    with_oracle(stage)
    row = stage.submit(sender="vault", gas_limit=21_000, value=0)
    stage_lane = Lane.objects.get(in_custody=True)
    lanes.drain(stage_lane.pk)
    Transaction.objects.update(look_at=row.created_at)
    lanes.drain(stage_lane.pk)
    row.refresh_from_db()
    attempt = Attempt.objects.get(transaction=row)
    assert attempt.max_fee_per_gas_wei == 4 * 10**9, "more than was reserved when it was handed over"
    assert (row.reserved_wei, row.l1_fee_wei) == (attempt.max_cost_wei + L1_FEE, L1_FEE)
