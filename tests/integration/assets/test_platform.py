"""Bootstrapping a chain and registering investors, on the published contracts."""

from decimal import Decimal
from typing import Any

import pytest

from dalp.assets.calls import contract
from dalp.assets.issuance import IssueAsset, IssueAssetInput
from dalp.assets.models import Investor, Platform
from dalp.assets.suites import MINT_GAS, MINT_GAS_PER_INVESTOR
from signer import Transaction
from tests.integration.assets.conftest import CHAIN_ID, FRANCE, GERMANY, KEYS, USA, Stage
from workflows import Operation, PermanentError, uuid7
from workflows.models import Run
from workflows.states import RunState


def kyc(reference: str) -> dict[str, str]:
    return {"provider": "Test KYC", "reference": reference, "checked_on": "2026-01-15"}


def bootstrap(stage: Stage, **changes: str) -> Run:
    keys = {"deployer": KEYS[0], "claim_issuer": KEYS[1], "claim_signer": KEYS[2]}
    return stage.drive(stage.start("platform.bootstrap", **{**keys, **changes}))


def test_a_bootstrapped_platform_is_connected_as_the_workflows_need_it(stage: Stage) -> None:
    row = Platform.objects.get(chain_id=CHAIN_ID)
    at, deployer = row.contracts, stage.address("deployer")
    assert stage.read("TREXFactory", at["token_factory"], "owner") == deployer
    assert stage.read("IdFactory", at["identity_factory"], "isTokenFactory", at["token_factory"])
    assert stage.read("IdentityRegistry", at["identity_registry"], "isAgent", deployer)
    # Only a storage that belongs to the factory can be shared by later tokens.
    assert stage.read("IdentityRegistryStorage", at["identity_storage"], "owner") == at["token_factory"]
    assert (
        stage.read("IdentityRegistry", at["identity_registry"], "identityStorage") == at["identity_storage"]
    )
    authority = contract("TREXImplementationAuthority", at["implementation_authority"])
    assert (
        stage.read("TREXImplementationAuthority", str(authority.address), "getTREXFactory")
        == at["token_factory"]
    )
    assert stage.read("CountryAllow", at["country_allow"], "name") == "CountryAllow"
    assert stage.read("MaxBalance", at["max_balance"], "name") == "MaxBalance"


def test_a_chain_is_bootstrapped_once(stage: Stage) -> None:
    run = bootstrap(stage)
    assert (run.state, run.error["code"]) == (RunState.FAILED, "PLATFORM_EXISTS")
    assert not Transaction.objects.filter(correlation_id=run.correlation_id).exists()


def test_a_key_that_does_not_exist_costs_nothing(empty_stage: Stage) -> None:
    run = bootstrap(empty_stage, claim_signer="nobody")
    assert (run.state, run.error["code"]) == (RunState.FAILED, "KEY_NOT_FOUND")
    assert "nobody" in run.error["message"]
    assert not Transaction.objects.exists()


@pytest.mark.parametrize("workflow", ["investor.register", "asset.issue"])
def test_a_chain_without_platform_is_named(empty_stage: Stage, workflow: str) -> None:
    wallet = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    if workflow == "asset.issue":
        run = empty_stage.drive(empty_stage.issue("NONE", {wallet: 1}))
    else:
        run = empty_stage.register(wallet, FRANCE)
    assert (run.state, run.error["code"]) == (RunState.FAILED, "PLATFORM_NOT_BOOTSTRAPPED")
    assert "platform.bootstrap" in run.error["message"]


def test_an_investor_is_registered_and_pays_nothing(stage: Stage) -> None:
    wallet = "0x00000000000000000000000000000000000A11cE"
    wallet = wallet.lower()
    with stage.undone():
        run = stage.register(wallet, FRANCE)
        assert run.state == RunState.SUCCEEDED, run.error
        registry = Platform.objects.get(chain_id=CHAIN_ID).contracts["identity_registry"]
        assert stage.read("IdentityRegistry", registry, "isVerified", wallet)
        assert stage.read("IdentityRegistry", registry, "investorCountry", wallet) == FRANCE
        assert stage.chain.rpc("eth_getBalance", wallet, "latest") == "0x0"
        row = Investor.objects.get(wallet=run.output["wallet"])
        assert (row.identity, row.country) == (run.output["identity"], FRANCE)
        labels = Transaction.objects.filter(correlation_id=run.correlation_id).values_list("label", flat=True)
        assert len(labels) == 3


def test_a_revoked_investor_can_be_registered_again(stage: Stage) -> None:
    """A revoked signature stays revoked, so the new claim must have another one."""
    from tests.integration.assets.test_issuance import revocation

    wallet = stage.wallets[0]
    registry = Platform.objects.get(chain_id=CHAIN_ID).contracts["identity_registry"]
    with stage.undone():
        stage.act_as(stage.address("claim-issuer"), *revocation(stage, wallet))
        assert not stage.read("IdentityRegistry", registry, "isVerified", wallet)
        run = stage.register(wallet, FRANCE)
        assert run.state == RunState.SUCCEEDED, run.error
        assert stage.read("IdentityRegistry", registry, "isVerified", wallet)
        # Identity and registry entry were there: only the claim was sent.
        assert Transaction.objects.filter(correlation_id=run.correlation_id).count() == 1


def test_the_platforms_own_key_is_no_investor(stage: Stage) -> None:
    run = stage.register(stage.address("deployer"), FRANCE)
    assert (run.state, run.error["code"]) == (RunState.FAILED, "WALLET_IS_PLATFORM_KEY")


def operation_of(run: Run, step: str) -> Operation:
    return Operation(run_id=run.pk, id=f"{step}#0", attempt=2, correlation_id="")


def test_what_an_interrupted_attempt_did_is_found_and_not_done_twice(stage: Stage) -> None:
    """The verifiers, asked before and after: a second attempt of a step that was carried out sends nothing."""
    run = stage.issue("FOUND", {stage.wallets[0]: 5})
    issue, asked = IssueAsset(), IssueAssetInput.model_validate(run.input)
    assert issue.find_token(asked, operation_of(run, "deploy_token")) is None
    stage.drive(run)
    assert issue.find_token(asked, operation_of(run, "deploy_token")) == []
    suite = issue.confirm_deployment(asked, operation_of(run, "confirm_deployment"), [])
    assert issue.find_supply(asked, suite) == []
    assert issue.configure_compliance(asked, suite) == []
    assert issue.mint_and_unpause(asked, suite, issue.confirm_compliance(asked, suite, [])) == []


def test_rules_that_are_not_as_asked_stop_the_mint(stage: Stage) -> None:
    run = stage.drive(stage.issue("RULES", {stage.wallets[0]: 5}))
    asked = IssueAssetInput.model_validate(run.input)
    suite = IssueAsset().confirm_deployment(asked, operation_of(run, "confirm_deployment"), [])
    for other in (
        asked.model_copy(update={"max_balance": 999}),
        asked.model_copy(update={"countries": [USA]}),
    ):
        with pytest.raises(PermanentError) as refused:
            IssueAsset().confirm_compliance(other, suite, [])
        assert refused.value.code == "COMPLIANCE_NOT_AS_ASKED"


def test_another_runs_token_is_not_taken_for_ones_own(stage: Stage) -> None:
    run = stage.drive(stage.issue("MINE", {stage.wallets[0]: 5}))
    asked = IssueAssetInput.model_validate(run.input)
    other = Operation(run_id=uuid7(), id="deploy_token#0", attempt=2, correlation_id="")
    assert IssueAsset().find_token(asked, other) is None


def test_the_mints_gas_limit_holds_what_it_uses_and_fits_a_transaction(stage: Stage) -> None:
    """Out of gas would look like a refusal by the rules; above 2^24 no node takes the transaction (EIP-7825)."""
    amounts = {stage.wallets[0]: 1, stage.wallets[1]: 1}
    stage.drive(stage.issue("GAS", amounts, countries=[FRANCE, GERMANY]))
    mint = Transaction.objects.select_related("winner").get(label="mint the supply of GAS")
    assert mint.winner is not None
    used = int(mint.winner.receipt["gasUsed"], 16)
    assert used < Decimal("0.9") * mint.gas_limit
    assert MINT_GAS + 50 * MINT_GAS_PER_INVESTOR < 2**24


def test_a_platform_without_room_is_refused_before_any_transaction(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dalp.assets.eligibility.TOKENS_PER_STORAGE_MAX", 1)
    run: Any = stage.drive(stage.issue("FULL", {stage.wallets[0]: 5}))
    assert (run.state, run.error["code"]) == (RunState.FAILED, "PLATFORM_FULL")
