"""An asset from its check to its holders, on the published contracts, and the ways in which that is stopped."""

import json
from typing import Any

import pytest
from django.core import mail
from pytest_django.fixtures import Settings

from dalp.assets.calls import contract
from dalp.assets.models import Asset, AssetState
from signer import Holding, Transaction, TransactionState, WatchedContract, admission, compare_index
from signer.events import indexing
from tests.integration.assets.conftest import CHAIN_ID, GERMANY, Stage
from workflows.models import Run
from workflows.states import RunState


def transactions() -> list[Transaction]:
    return list(Transaction.objects.select_related("winner").order_by("created_at"))


def step_states(run: Run) -> dict[str, str]:
    return {row.operation_id: row.state for row in run.steps.all()}


def story(run: Run) -> str:
    """Return all that the run's history says, as text."""
    return json.dumps([[event.kind, event.data] for event in run.events.order_by("seq")])


def salted_token(stage: Stage, run: Run) -> str:
    assert stage.contracts
    salt = f"{run.input['symbol']}-{run.pk}"
    return str(stage.read("TREXFactory", stage.contracts["token_factory"], "getToken", salt))


def test_an_asset_is_issued_and_the_chain_shows_exactly_what_was_asked(stage: Stage) -> None:
    amounts = dict(zip(stage.wallets[:2], (1000, 1), strict=True))
    before = len(transactions())
    run = stage.drive(stage.issue("GOOD", amounts, decimals=2, stakeholders=["board@example.com"]))
    assert run.state == RunState.SUCCEEDED, run.error
    assert run.output["supply"] == "1001"

    token = run.output["token"]
    facts = {
        name: stage.read("Token", token, name)
        for name in ("name", "symbol", "decimals", "totalSupply", "paused")
    }
    assert facts == {
        "name": "Bond GOOD",
        "symbol": "GOOD",
        "decimals": 2,
        "totalSupply": 1001,
        "paused": False,
    }
    assert {wallet: stage.read("Token", token, "balanceOf", wallet) for wallet in amounts} == amounts
    assert token == salted_token(stage, run)

    sent = transactions()[before:]
    assert [row.label for row in sent] == [
        "deploy the suite of GOOD",
        "setAllowedCountries",
        "setMaxBalance",
        "mint the supply of GOOD",
        "unpause GOOD",
    ]
    assert {row.state for row in sent} == {TransactionState.COMPLETED}
    asset = Asset.objects.get(symbol="GOOD")
    assert (asset.token, asset.state, asset.supply, asset.run_id) == (
        token,
        AssetState.ISSUED,
        "1001",
        run.pk,
    )
    told = {message.to[0]: message.body for message in mail.outbox}
    assert set(told) == {f"{wallet.lower()}@example.com" for wallet in amounts} | {"board@example.com"}
    assert "holds 1000 base units" in told[f"{stage.wallets[0].lower()}@example.com"]


def test_the_holders_of_an_asset_are_indexed_from_its_first_mint_on(stage: Stage) -> None:
    first, second = stage.wallets[:2]
    run = stage.drive(stage.issue("HELD", {first: 1000, second: 1}))
    assert run.state == RunState.SUCCEEDED, run.error
    token = run.output["token"]
    [watched] = WatchedContract.objects.all()
    assert (watched.address, watched.label) == (token, "asset HELD")
    with stage.undone():
        for _ in range(2):
            indexing.index(CHAIN_ID)
        held = Holding.objects.filter(token=token, balance_wei__gt=0)
        assert dict(held.values_list("holder", "balance_wei")) == {first: 1000, second: 1}
        stage.act_as(first, token, contract("Token").encode("transfer", second, 400))
        indexing.index(CHAIN_ID)
        assert dict(held.values_list("holder", "balance_wei")) == {first: 600, second: 401}
        assert compare_index(CHAIN_ID) == []


def test_investors_registered_once_count_for_the_next_token(stage: Stage) -> None:
    """The registry's storage is shared: no token needs its investors registered again."""
    for symbol in ("ONE", "TWO"):
        run = stage.drive(stage.issue(symbol, {stage.wallets[0]: 5}))
        assert run.state == RunState.SUCCEEDED, run.error
        registry = run.output["identity_registry"]
        assert stage.read("IdentityRegistry", registry, "isVerified", stage.wallets[0])
        assert stage.contracts
        assert registry != stage.contracts["identity_registry"]


def test_investors_who_are_not_eligible_stop_it_before_any_transaction(stage: Stage) -> None:
    french, _, american, nobody = stage.wallets
    sent = len(transactions())
    run = stage.drive(stage.issue("NOPE", {french: 1, american: 1, nobody: 1}))
    assert run.state == RunState.FAILED
    assert run.error["code"] == "ASSET_INVESTOR_NOT_ELIGIBLE"
    assert run.error["message"] == (
        f"investor {american}: country 840 is not in the allow-list [250, 276]; "
        f"investor {nobody}: not registered, has no identity"
    )
    assert len(transactions()) == sent
    assert mail.outbox == []
    assert not Asset.objects.exists()


def test_an_investor_whose_claim_was_revoked_is_not_eligible(stage: Stage) -> None:
    wallet = stage.wallets[0]
    with stage.undone():
        stage.act_as(stage.address("claim-issuer"), *revocation(stage, wallet))
        run = stage.drive(stage.issue("REVOKED", {wallet: 1}))
    assert run.state == RunState.FAILED
    assert run.error["message"] == f"investor {wallet}: no KYC claim of a trusted issuer (topic 1)"


def test_a_symbol_is_issued_once(stage: Stage) -> None:
    assert stage.drive(stage.issue("TWICE", {stage.wallets[0]: 1})).state == RunState.SUCCEEDED
    run = stage.drive(stage.issue("TWICE", {stage.wallets[0]: 1}))
    assert (run.state, run.error["code"]) == (RunState.FAILED, "ASSET_SYMBOL_TAKEN")


def revocation(stage: Stage, wallet: str) -> tuple[str, str]:
    """Return target and data of the call by which the claim issuer revokes the wallet's KYC claim."""
    assert stage.contracts
    issuer = stage.contracts["claim_issuer"]
    identity = stage.read("IdentityRegistry", stage.contracts["identity_registry"], "identity", wallet)
    (claim,) = stage.read("Identity", identity, "getClaimIdsByTopic", 1)
    signature = stage.read("Identity", identity, "getClaim", claim)[3]
    return issuer, contract("ClaimIssuer").encode("revokeClaimBySignature", signature)


def settings_are_mined(_: Run) -> bool:
    settled = Transaction.objects.filter(label__startswith="set", state=TransactionState.COMPLETED)
    return settled.count() == 2


def mint_is_sent(_: Run) -> Any:
    mint = Transaction.objects.filter(label__startswith="mint", state=TransactionState.BROADCASTING)
    return mint.filter(attempts__state="SENT")


def assert_stopped(stage: Stage, run: Run, reason: str) -> None:
    """The run was taken back: a paused token without supply, everybody told, and a history that says why."""
    assert run.state == RunState.COMPENSATED
    assert reason in run.error["message"]
    assert run.error["step"] == "mint_and_unpause"
    token = salted_token(stage, run)
    assert stage.read("Token", token, "paused")
    assert stage.read("Token", token, "totalSupply") == 0
    states = step_states(run)
    assert run.steps.get(name="mint_and_unpause").error["message"] == reason
    assert states["mint_and_unpause#0"] == "UNDONE", "the half of it that happened: the token was open"
    assert states["deploy_token#0"] == states["verify_eligibility#0"] == states["record_asset#0"] == "UNDONE"
    assert reason in story(run)

    by_label = {row.label.partition(" ")[0]: row for row in transactions()}
    assert by_label["mint"].state == TransactionState.FAILED
    assert reason in by_label["mint"].error["message"]
    assert by_label["unpause"].state == by_label["pause"].state == TransactionState.COMPLETED
    receipt = stage.chain.rpc("eth_getTransactionReceipt", by_label["mint"].winner.hash)
    assert receipt["status"] == "0x0", "the mint reverted on the chain, not in an estimate"
    assert by_label["pause"].nonce > by_label["unpause"].nonce > by_label["mint"].nonce

    assert Asset.objects.get(run_id=run.pk).state == AssetState.STOPPED
    assert [message.to for message in mail.outbox] == [[each["email"]] for each in run.input["investors"]]
    assert all("was stopped" in message.body and reason in message.body for message in mail.outbox)


def test_a_claim_revoked_between_check_and_mint_ends_compensated(stage: Stage) -> None:
    """The revocation reaches the block before the mint does, after the platform found the investor eligible."""
    first, second, *_ = stage.wallets
    run = stage.issue("RACE", {first: 10, second: 10})
    stage.drive(run, until=settings_are_mined)
    with stage.undone():
        stage.chain.rpc("evm_setAutomine", False)
        try:
            stage.drive(run, until=mint_is_sent)
            stage.act_as(stage.address("claim-issuer"), *revocation(stage, second), tip_gwei=100)
        finally:
            stage.chain.rpc("evm_setAutomine", True)
        stage.chain.mine()
        stage.drive(run)
        assert_stopped(stage, run, "Identity is not verified.")


def test_an_amount_over_the_maximum_balance_ends_compensated(stage: Stage) -> None:
    run = stage.drive(stage.issue("OVER", {stage.wallets[0]: 1000, stage.wallets[1]: 1001}))
    assert_stopped(stage, run, "Compliance not followed")


def test_a_stopped_symbol_can_be_issued_anew_as_another_token(stage: Stage) -> None:
    stopped = stage.drive(stage.issue("AGAIN", {stage.wallets[0]: 1001}))
    assert stopped.state == RunState.COMPENSATED
    issued = stage.drive(stage.issue("AGAIN", {stage.wallets[0]: 1000}))
    assert issued.state == RunState.SUCCEEDED
    assert issued.output["token"] != salted_token(stage, stopped)


def test_a_refusal_by_the_identity_provider_burns_the_supply_and_pauses(
    stage: Stage, settings: Settings
) -> None:
    from dalp.assets.identity_provider import IdentityProvider
    from tests.integration.assets.test_identity_provider import serving

    provider = IdentityProvider()
    provider.registry.register = lambda key, body: (403, {"detail": "holder is not known here"})  # type: ignore[method-assign]
    with serving(provider):
        settings.IDENTITY_PROVIDER_URL = provider.url
        run = stage.drive(stage.issue("BURNT", {stage.wallets[0]: 7, stage.wallets[1]: 8}))
    assert run.state == RunState.COMPENSATED
    assert "holder is not known here" in run.error["message"]
    token = salted_token(stage, run)
    assert stage.read("Token", token, "paused")
    assert stage.read("Token", token, "totalSupply") == 0


def test_the_identity_provider_hears_of_the_holders_once(stage: Stage, settings: Settings) -> None:
    from dalp.assets.identity_provider import IdentityProvider
    from tests.integration.assets.test_identity_provider import serving

    provider = IdentityProvider()
    with serving(provider):
        settings.IDENTITY_PROVIDER_URL = provider.url
        run = stage.drive(stage.issue("KNOWN", {stage.wallets[1]: 9}))
    (registered,) = provider.registry.all()
    assert registered["key"] == f"{run.pk}:register_with_identity_provider#0"
    assert registered["body"]["holders"] == [{"wallet": stage.wallets[1], "amount": "9"}]
    assert run.output["registration"] == registered["id"]


def test_a_registration_with_another_country_moves_the_investor(stage: Stage) -> None:
    wallet = stage.wallets[2]
    with stage.undone():
        run = stage.register(wallet, GERMANY)
        assert run.state == RunState.SUCCEEDED, run.error
        assert stage.drive(stage.issue("MOVED", {wallet: 1})).state == RunState.SUCCEEDED


def test_a_supply_that_was_minted_while_the_opening_failed_is_burned(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = admission._simulation

    def simulated(row: Transaction, sender: str) -> tuple[str, list[Any]]:
        method, (call, block) = simulation(row, sender)
        if row.label.startswith("unpause"):
            call = {**call, "data": "0xdeadbeef"}  # the node says that it would revert
        return method, [call, block]

    monkeypatch.setattr(admission, "_simulation", simulated)
    run = stage.drive(stage.issue("HALF", {stage.wallets[0]: 7}))
    assert (run.state, run.error["code"]) == (RunState.COMPENSATED, "TRANSACTION_WOULD_REVERT")
    token = salted_token(stage, run)
    assert stage.read("Token", token, "totalSupply") == 0
    assert stage.read("Token", token, "paused")
    labels = [
        row.label.partition(" ")[0] for row in transactions() if row.state == TransactionState.COMPLETED
    ]
    assert labels[-2:] == ["mint", "burn"]
