"""Our own workflows with a crash at every point that they pass: what stands on the chain afterwards is counted there."""

from collections.abc import Callable
from typing import Any

import pytest
from eth_utils import to_checksum_address

from dalp.assets.investors import RegisterInvestor, RegisterInvestorInput
from dalp.assets.issuance import IssueAsset, IssueAssetInput
from dalp.assets.models import Asset, AssetState, Investor, Platform
from signer import lanes, watching
from signer.models import Lane
from tests.integration.assets.conftest import CHAIN_ID, FRANCE, KEYS, Stage
from workflows.models import Run
from workflows.states import RunState
from workflows.testing import Engine, crash_everywhere

WALLET = to_checksum_address("0x00000000000000000000000000000000000a11ce")


def serve_lanes(t: Engine, run: Run) -> bool:
    """Be the signer's workers while the run waits for transactions; otherwise it is for the clock to move."""
    if not any(wait.kind == "transaction" for wait in t.waits(run)):
        return False
    for lane in Lane.objects.all():
        lanes.drain(lane.pk)
    watching.watch(CHAIN_ID)
    return True


def sent(stage: Stage) -> int:
    """How many transactions of the platform's keys the chain has."""
    addresses = [stage.address(alias) for alias in KEYS]
    return sum(int(stage.chain.rpc("eth_getTransactionCount", each, "latest"), 16) for each in addresses)


def anew(stage: Stage, data: Any) -> Callable[[int], Any]:
    """Return what gives each run the same input, and the chain as it was for the first one."""
    kept = [stage.chain.rpc("evm_snapshot")]

    def input(number: int) -> Any:
        stage.chain.rpc("evm_revert", kept.pop())
        kept.append(stage.chain.rpc("evm_snapshot"))
        return data

    return input


@pytest.mark.timeout(600)
def test_an_investor_is_registered_once_wherever_a_worker_dies(stage: Stage) -> None:
    kyc = {"provider": "Test KYC", "reference": "7", "checked_on": "2026-01-15"}
    asked = RegisterInvestorInput.model_validate(
        {"chain_id": CHAIN_ID, "wallet": WALLET, "country": FRANCE, "kyc": kyc}
    )
    registry = Platform.objects.get(chain_id=CHAIN_ID).contracts["identity_registry"]
    before = sent(stage)

    def registered_once(run: Run) -> None:
        assert run.state == RunState.SUCCEEDED, run.error
        assert stage.read("IdentityRegistry", registry, "isVerified", WALLET)
        assert sent(stage) - before == 3, "the identity, its claim, its place in the registry"
        assert Investor.objects.filter(wallet=WALLET, run_id=run.pk).count() == 1

    with stage.undone():
        crashes = crash_everywhere(
            RegisterInvestor, anew(stage, asked), invariant=registered_once, answers=serve_lanes
        )
    assert crashes > 40


@pytest.mark.timeout(600)
def test_an_asset_is_issued_once_wherever_a_worker_dies_with_a_step_in_hand(stage: Stage) -> None:
    wallet = stage.wallets[0]
    asked = IssueAssetInput.model_validate(stage.issuance("ONCE", {wallet: 1000}))
    before = sent(stage)

    def issued_once(run: Run) -> None:
        assert run.state == RunState.SUCCEEDED, run.error
        asset = Asset.objects.get(symbol="ONCE")
        assert (asset.state, asset.supply) == (AssetState.ISSUED, "1000")
        assert stage.read("Token", asset.token, "balanceOf", wallet) == 1000
        assert stage.read("Token", asset.token, "totalSupply") == 1000
        assert sent(stage) - before == 5, "the suite, two rules, the mint, the opening"

    with stage.undone():
        crashes = crash_everywhere(
            IssueAsset,
            anew(stage, asked),
            invariant=issued_once,
            answers=serve_lanes,
            points=["engine.before_record"],
        )
    assert crashes > 10
