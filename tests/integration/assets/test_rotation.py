"""A key of the platform hands everything over to a new one, on the published contracts: wherever a worker dies meanwhile."""

from typing import Any

import pytest
from eth_utils import to_checksum_address

from dalp.assets.calls import contract
from dalp.assets.rotation import RotateKey, RotateKeyInput
from keyguard import KeyguardError, find_key, lifecycle, sign_message
from keyguard.models import Key, KeyAct
from keyguard.states import KeyState, KeyVerb
from signer import Lane, LaneState, Transaction, TransactionRequest, TransactionState, submit_transaction
from tests.integration.assets.conftest import CHAIN_ID, FRANCE, Stage
from tests.integration.assets.test_crashes import anew, serve_lanes
from tests.integration.keyguard.policies import ALLOW_ALL, put_in_force
from workflows.models import Run
from workflows.states import RunState
from workflows.testing import crash_everywhere

WALLET = to_checksum_address("0x00000000000000000000000000000000000b0b0b")
FUND = str(5 * 10**18)


def asked(alias: str, **changes: Any) -> dict[str, Any]:
    key = find_key(alias)
    return {"key_id": str(key.pk), "reason": "once a year", "actor": "ann", "fund_wei": FUND, **changes}


def rotate(stage: Stage, alias: str, **changes: Any) -> Run:
    from workflows import start_workflow

    return stage.drive(start_workflow("key.rotate", asked(alias, **changes))[0], seconds=120)


def asset(stage: Stage, symbol: str) -> str:
    """Register an investor and issue an asset to them; return the token."""
    stage.register(WALLET, FRANCE)
    run = stage.drive(stage.issue(symbol, {WALLET: 10}))
    assert run.state == RunState.SUCCEEDED, run.error
    return str(run.output["token"])


def may_mint(stage: Stage, token: str, address: str) -> str:
    """Return nothing when the contract would let this address mint, or why not."""
    data = contract("Token").encode("mint", WALLET, 1)
    try:
        stage.chain.rpc("eth_call", {"from": address, "to": token, "data": data}, "latest")
    except Exception as error:  # noqa: BLE001 - whatever the node says
        return str(error)
    return ""


def mint(stage: Stage, token: str, sender: str) -> Transaction:
    from signer import lanes, watching

    request = TransactionRequest(
        chain_id=CHAIN_ID, sender=sender, to=token, data=contract("Token").encode("mint", WALLET, 1)
    )
    row, _ = submit_transaction(request, idempotency_key=f"mint-{sender}", scope="test")
    for _ in range(20):
        lanes.drain(row.lane_id)
        watching.watch(CHAIN_ID)
        row.refresh_from_db()
        if row.state in (TransactionState.COMPLETED, TransactionState.FAILED):
            break
    return row


@pytest.mark.timeout(300)
def test_the_platforms_key_hands_over_all_it_may_do_and_the_contracts_refuse_it_afterwards(
    stage: Stage,
) -> None:
    with stage.undone():
        token = asset(stage, "OLD")
        old = find_key("deployer")
        run = rotate(stage, "deployer")
        assert run.state == RunState.SUCCEEDED, run.error
        new = find_key("deployer")
        assert (run.output["old"], run.output["new"]) == (old.address, new.address)
        assert new.replaces == old
        assert new.address != old.address
        old.refresh_from_db()
        assert (old.alias, old.state) == ("deployer.retired-1", KeyState.RETIRED)
        assert list(KeyAct.objects.filter(key=old).order_by("at").values_list("verb", flat=True)) == [
            "HAND_OVER",
            "RETIRE",
        ]
        with pytest.raises(KeyguardError, match="is retired"):
            sign_message(old.address, b"once more", "after-the-end")
        assert stage.read("Token", token, "owner") == new.address
        assert stage.contracts
        assert stage.read("TREXFactory", stage.contracts["token_factory"], "owner") == new.address
        # The chain itself, asked in each one's name.
        assert may_mint(stage, token, new.address) == ""
        assert "Agent" in may_mint(stage, token, old.address)
        assert mint(stage, token, "deployer").state == TransactionState.COMPLETED
        assert stage.read("Token", token, "balanceOf", WALLET) == 11
        # The platform goes on with the new key: a token is made, its investor found, the supply minted.
        run = stage.drive(stage.issue("NEW", {WALLET: 7}), seconds=60)
        assert run.state == RunState.SUCCEEDED, run.error
        assert stage.read("Token", run.output["token"], "owner") == new.address
        assert stage.register(to_checksum_address("0x" + "c0" * 20), FRANCE).state == RunState.SUCCEEDED


@pytest.mark.timeout(300)
@pytest.mark.parametrize("alias", ["claim-signer", "claim-issuer"])
def test_claims_stay_valid_when_the_keys_behind_them_change(stage: Stage, alias: str) -> None:
    with stage.undone():
        asset(stage, "HELD")
        assert stage.contracts
        registry, issuer = stage.contracts["identity_registry"], stage.contracts["claim_issuer"]
        old = find_key(alias)
        run = rotate(stage, alias, fund_wei=FUND if alias == "claim-issuer" else None)
        assert run.state == RunState.SUCCEEDED, run.error
        from dalp.assets.bootstrap import key_hash

        assert stage.read("ClaimIssuer", issuer, "getKeyPurposes", key_hash(old.address)) == []
        purposes = stage.read("ClaimIssuer", issuer, "getKeyPurposes", key_hash(find_key(alias).address))
        assert purposes == ([3] if alias == "claim-signer" else [1])
        assert stage.read("IdentityRegistry", registry, "isVerified", WALLET)
        renewed = Transaction.objects.filter(label__startswith="renew the claim")
        assert renewed.exists() == (alias == "claim-signer")
        assert stage.register(to_checksum_address("0x" + "c1" * 20), FRANCE).state == RunState.SUCCEEDED


@pytest.mark.timeout(900)
def test_a_key_is_handed_over_once_wherever_a_worker_dies(stage: Stage) -> None:
    with stage.undone():
        token = asset(stage, "ONCE")
        old = find_key("deployer")
        data = RotateKeyInput.model_validate(asked("deployer"))
        nonces: list[int] = []

        def handed_over_once(run: Run) -> None:
            assert run.state == RunState.SUCCEEDED, run.error
            new = find_key("deployer")
            assert Key.objects.filter(replaces=old).get() == new
            assert Key.objects.get(pk=old.pk).state == KeyState.RETIRED
            assert stage.read("Token", token, "owner") == new.address
            assert may_mint(stage, token, new.address) == ""
            assert "Agent" in may_mint(stage, token, old.address)
            count = sum(
                int(stage.chain.rpc("eth_getTransactionCount", each, "latest"), 16)
                for each in (old.address, new.address)
            )
            nonces.append(count)
            assert count == nonces[0], "each transaction is sent once"
            assert set(KeyAct.objects.filter(key=old).values_list("verb", flat=True)) == {
                "HAND_OVER",
                "RETIRE",
            }
            assert not Lane.objects.exclude(state=LaneState.ACTIVE).exists()

        crashes = crash_everywhere(
            RotateKey,
            anew(stage, data),
            invariant=handed_over_once,
            answers=serve_lanes,
            points=[
                "engine.before_record",
                "keyguard.successor_making",
                "keyguard.successor_made",
                "keyguard.alias_moving",
                "keyguard.key_retiring",
            ],
        )
    assert crashes >= 14


@pytest.mark.timeout(300)
def test_a_hand_over_that_fails_leaves_the_old_key_at_work_and_says_so(stage: Stage) -> None:
    with stage.undone():
        token = asset(stage, "KEPT")
        old = find_key("deployer")
        put_in_force(
            *ALLOW_ALL,
            {
                "name": "owners stay",
                "effect": "deny",
                "when": {"what": ["call"], "function": ["transferOwnership(address)"]},
            },
        )
        run = rotate(stage, "deployer")
        assert run.state == RunState.COMPENSATED, run.error
        assert "owners stay" in run.error["message"]
        old.refresh_from_db()
        assert (old.alias, old.state) == ("deployer", KeyState.ACTIVE)
        new = Key.objects.get(replaces=old)
        assert (new.alias, new.state) == ("deployer.next", KeyState.ACTIVE)
        assert stage.read("Token", token, "owner") == old.address
        assert mint(stage, token, "deployer").state == TransactionState.COMPLETED
        assert mint(stage, token, new.alias).state == TransactionState.COMPLETED
        assert KeyAct.objects.filter(key=old, verb=KeyVerb.GIVE_BACK).exists()
        # Once the rule is gone the next run goes on with the same successor.
        put_in_force(*ALLOW_ALL)
        assert rotate(stage, "deployer", fund_wei=None).state == RunState.SUCCEEDED
        assert find_key("deployer") == new


def test_a_key_that_signs_nothing_hands_nothing_over(stage: Stage) -> None:
    lifecycle.act(find_key("deployer"), KeyVerb.COMPROMISED, "ann", "it was in a mail")
    run = rotate(stage, "deployer")
    assert (run.state, run.error["code"]) == (RunState.FAILED, "KEYGUARD_KEY_ACT_INVALID")
    assert Key.objects.filter(replaces__isnull=False).count() == 0
