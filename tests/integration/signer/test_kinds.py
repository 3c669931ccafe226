"""A kind of transaction that the chain does not have yet fails before it gets a nonce, and says what is lacking."""

from collections.abc import Callable
from typing import Any

import pytest

from dalp.local.servers import AnvilServer
from keyguard import allow_delegate
from signer.kinds import PRAGUE
from signer.models import Chain, Transaction
from tests.integration.signer.lying_node import Call, LyingNode, says
from tests.integration.signer.stage import Stage

BLOB = "0x" + "00" * 131_072
DELEGATE = "0x" + "33" * 20
BLOBS: dict[str, Any] = {"blobs": [BLOB]}
HANDS_OVER: dict[str, Any] = {
    "authorizations": [{"authority": "sender", "delegate": DELEGATE}],
    "value": 0,
    "gas_limit": 200_000,
}


def refusal(row: Transaction) -> str:
    """Return what was said of a transaction that was refused before it had a nonce."""
    row.refresh_from_db()
    assert (row.state, row.nonce) == ("FAILED", None), row.sub_state
    assert row.error is not None
    assert row.error["code"] == "ENVELOPE_UNSUPPORTED"
    return str(row.error["message"])


def without(liar: LyingNode, *fields: str) -> Callable[[Call], dict[str, Any] | None]:
    """Return a lie: headers and fee histories have no such fields."""

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] not in ("eth_getBlockByNumber", "eth_feeHistory"):
            return None
        found = liar.forward(call)["result"]
        return {"result": {name: value for name, value in found.items() if name not in fields}}

    return lie


@pytest.mark.parametrize(
    ("fork", "has_blobs", "has_authorizations"),
    [("shanghai", False, False), ("cancun", True, False), ("prague", True, True)],
)
def test_chain_is_asked_for_what_its_fork_has(
    fresh_db: str,
    start_anvil: Callable[..., AnvilServer],
    fork: str,
    has_blobs: bool,
    has_authorizations: bool,
) -> None:
    stage = Stage(start_anvil(extra=["--no-mining", "--hardfork", fork]))
    allow_delegate(31337, DELEGATE, "nobody is there")
    stage.mine(3)
    rows = [stage.submit(**BLOBS), stage.submit(**HANDS_OVER), stage.submit()]
    stage.drain()
    stage.mine()
    stage.watch()
    stage.drain()
    stage.mine()
    stage.settle()
    if not has_blobs:
        assert refusal(rows[0]).startswith(
            "chain 31337 takes no blobs (EIP-4844): block 3 has no excessBlobGas, as before Cancun. Submitting it again "
            "helps once the chain is upgraded; until then send the bytes as `data`"
        )
    if not has_authorizations:
        message = refusal(rows[1])
        assert message.startswith("chain 31337 takes no authorizations (EIP-7702): block ")
        assert "before Prague. Submitting it again helps once the chain is upgraded" in message
    taken = [row for row, has in zip(rows, (has_blobs, has_authorizations, True), strict=True) if has]
    for nonce, row in enumerate(taken):
        row.refresh_from_db()
        assert (row.state, row.error) == ("COMPLETED", None)
        # The account that hands itself over uses the nonce behind its own.
        assert row.nonce == nonce + (has_authorizations and row is rows[2])
        assert len(stage.attempts(row.pk)) == 1


def test_refusal_is_forgotten_as_soon_as_a_block_shows_otherwise(manual: Stage, liar: LyingNode) -> None:
    allow_delegate(31337, DELEGATE, "nobody is there")
    old = without(liar, "excessBlobGas", "requestsHash")
    liar.lie = lambda call: {"result": "0x"} if call["params"] == PRAGUE[1] else old(call)
    blobs, hands_over = manual.submit(**BLOBS), manual.submit(**HANDS_OVER)
    manual.drain()
    assert "before Cancun" in refusal(blobs)
    assert "before Prague" in refusal(hands_over)
    liar.lie = None  # the chain was upgraded
    again = [manual.submit(**BLOBS), manual.submit(**HANDS_OVER)]
    for row in again:
        manual.drain()
        row.refresh_from_db()
        assert row.nonce == again.index(row)


@pytest.mark.parametrize("answer", ["precompiles", "error"])
def test_header_alone_does_not_say_that_there_are_no_authorizations(
    manual: Stage, liar: LyingNode, answer: str
) -> None:
    """Rollups have no requests of validators, and EIP-7702 all the same; what a node does not say is not a no."""
    allow_delegate(31337, DELEGATE, "nobody is there")
    bare = without(liar, "requestsHash")
    fails = says("eth_call", "method not supported")
    liar.lie = lambda call: bare(call) or (fails(call) if answer == "error" else None)
    row = manual.submit(**HANDS_OVER)
    manual.drain()
    row.refresh_from_db()
    assert (row.state, row.nonce, row.error) == ("BROADCASTING", 0, None)


def test_rollup_has_the_fields_of_blobs_and_takes_none(manual: Stage) -> None:
    Chain.objects.update(l1_fee_oracle="0x420000000000000000000000000000000000000F")
    row = manual.submit(**BLOBS)
    manual.drain()
    message = refusal(row)
    assert "such rollups take none. Submitting it again does not help" in message


def test_blobs_without_a_price_ask_for_another_node(manual: Stage, liar: LyingNode) -> None:
    liar.lie = without(liar, "baseFeePerBlobGas")
    row, behind = manual.submit(**BLOBS), manual.submit()
    manual.drain()
    message = refusal(row)
    assert "its node names no price for it" in message
    assert "helps with another node (add_chain)" in message
    behind.refresh_from_db()
    assert behind.nonce == 0
