"""Why the chain's machine refused a call, as those read it who asked for the call, and those who look after it."""

from html import unescape
from typing import Any

import pytest
from django.test import Client

from tests.api.callers import Caller
from tests.integration.signer.stage import Stage

pytestmark = pytest.mark.filterwarnings("ignore:No directory at:UserWarning")

# CALLDATASIZE, CALLDATACOPY, REVERT with all of it.
REVERTS_WITH_ITS_DATA = "0x366000600037366000fd"
# JUMPDEST, PUSH 0, JUMP: for ever.
NEVER_ENDS = "0x5b600056"
ECHO, LOOP = "0x" + "77" * 20, "0x" + "78" * 20
OWNER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
# As OpenZeppelin's ERC20 (5.0) refuses a transfer: its interface IERC20Errors.
TOO_LITTLE: dict[str, Any] = {
    "type": "error",
    "name": "ERC20InsufficientBalance",
    "inputs": [
        {"name": "sender", "type": "address"},
        {"name": "balance", "type": "uint256"},
        {"name": "needed", "type": "uint256"},
    ],
}
TEXT = b"Pausable: paused"
REASON = f"0x08c379a0{32:064x}{len(TEXT):064x}{TEXT.hex():0<64}"
PANIC = f"0x4e487b71{0x11:064x}"
CUSTOM = f"0xe450d38c{OWNER[2:].lower():0>64}{3:064x}{10:064x}"


@pytest.fixture
def admin(manual: Stage, django_user_model: Any) -> Client:
    client = Client()
    client.force_login(django_user_model.objects.create_superuser("op", "op@example.com", "a long password"))
    return client


@pytest.mark.case("PC14")
@pytest.mark.parametrize("gas_limit", [None, 100_000], ids=["tried first", "on the chain"])
@pytest.mark.parametrize(
    ("to", "data", "message"),
    [
        (ECHO, REASON, "Pausable: paused"),
        (ECHO, CUSTOM, f"ERC20InsufficientBalance({OWNER}, 3, 10)"),
        (ECHO, PANIC, "panic 0x11: arithmetic overflow or underflow"),
        (LOOP, "0x", "out of gas"),
    ],
    ids=["reason", "custom error", "panic", "out of gas"],
)
def test_why_a_call_failed_is_said_in_the_answer_and_in_the_console(
    manual: Stage, admin: Client, to: str, data: str, message: str, gas_limit: int | None
) -> None:
    manual.rpc("anvil_setCode", ECHO, REVERTS_WITH_ITS_DATA)
    manual.rpc("anvil_setCode", LOOP, NEVER_ENDS)
    row = manual.submit(to=to, data=data, value=0, gas_limit=gas_limit, error_abi=(TOO_LITTLE,))
    manual.drain()
    manual.mine()
    manual.watch()
    answer = Caller("operator").get(f"/transactions/{row.pk}").json()
    assert (answer["state"], answer["nonce"]) == ("FAILED", None if gas_limit is None else 0)
    assert message.casefold() in answer["error"]["message"].casefold()
    page = admin.get(f"/admin/signer/transaction/{row.pk}/change/").content.decode()
    assert answer["error"]["message"] in unescape(page)
