"""The workflows on a real chain, driven inside the test process: no broker, no worker, the real database and contracts.

The chain is bootstrapped once, by the workflows themselves, in the first test that needs it. Each later test finds it
so, and gets the rows back that belong to it, since every test starts from an empty database.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from eth_utils import keccak, to_checksum_address

from dalp.local import servers

if TYPE_CHECKING:
    from workflows.models import Run

CHAIN_ID = 31337
KEYS = ("deployer", "claim-issuer", "claim-signer")
FRANCE, GERMANY, USA = 250, 276, 840


@dataclass
class Stage:
    """A bootstrapped chain with registered investors, and what drives runs on it."""

    chain: servers.AnvilServer
    wallets: list[str] = field(default_factory=list)
    contracts: dict[str, str] | None = None

    def drive(self, run: "Run", until: "Callable[[Run], Any] | None" = None, seconds: float = 30) -> "Run":
        """Carry the run, its lanes and its chain forward until the run rests or `until` holds."""
        # Django is not set up yet when pytest reads this file.
        from signer import lanes, watching
        from signer.models import Lane
        from workflows.engine.drive import advance
        from workflows.states import RunState

        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            advance(run.pk)
            for lane in Lane.objects.all():
                lanes.drain(lane.pk)
            watching.watch(CHAIN_ID)
            run.refresh_from_db()
            if run.finished_at or run.state == RunState.DEAD_LETTER or (until and until(run)):
                return run
        raise AssertionError(
            f"{run} is {run.state} at {[(s.name, s.state) for s in run.steps.all()]}: {run.error}"
        )

    def start(self, workflow: str, /, **data: Any) -> "Run":
        from workflows import start_workflow

        return start_workflow(workflow, {"chain_id": CHAIN_ID, **data})[0]

    def register(self, wallet: str, country: int) -> "Run":
        kyc = {"provider": "Test KYC", "reference": wallet, "checked_on": "2026-01-15"}
        return self.drive(self.start("investor.register", wallet=wallet, country=country, kyc=kyc))

    def issue(self, symbol: str, amounts: dict[str, int], **changes: Any) -> "Run":
        """Start an issuance of these amounts by wallet; it still has to be driven."""
        return self.start("asset.issue", **self.issuance(symbol, amounts, **changes))

    def issuance(self, symbol: str, amounts: dict[str, int], **changes: Any) -> dict[str, Any]:
        """Return the input of an issuance."""
        investors = [
            {"wallet": wallet, "amount": str(amount), "email": f"{wallet.lower()}@example.com"}
            for wallet, amount in amounts.items()
        ]
        data = {
            "chain_id": CHAIN_ID,
            "name": f"Bond {symbol}",
            "symbol": symbol,
            "investors": investors,
            "countries": [FRANCE, GERMANY],
        }
        return {**data, "max_balance": "1000", **changes}

    def address(self, alias: str) -> str:
        from keyguard import find_key

        return str(find_key(alias).address)

    def read(self, name: str, address: str, function: str, *arguments: Any) -> Any:
        """Ask a contract by bare JSON-RPC, without the platform's reader."""
        from dalp.assets.calls import contract

        target = contract(name, address)
        answer = self.chain.rpc(
            "eth_call", {"to": address, "data": target.encode(function, *arguments)}, "latest"
        )
        return target.decode(function, bytes.fromhex(answer[2:]))

    def act_as(self, sender: str, target: str, data: str, tip_gwei: int = 2) -> str:
        """Send a transaction in somebody's name, past the platform."""
        self.chain.rpc("anvil_impersonateAccount", sender)
        tip = hex(tip_gwei * 10**9)
        call = {
            "from": sender,
            "to": target,
            "data": data,
            "gas": hex(2_000_000),
            "maxPriorityFeePerGas": tip,
        }
        hash_ = str(self.chain.rpc("eth_sendTransaction", {**call, "maxFeePerGas": hex(200 * 10**9)}))
        self.chain.rpc("anvil_stopImpersonatingAccount", sender)
        return hash_

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Take back on the chain what happens inside, for the tests that come after."""
        snapshot = self.chain.rpc("evm_snapshot")
        try:
            yield
        finally:
            self.chain.rpc("evm_revert", snapshot)


@pytest.fixture(scope="session")
def assets_chain() -> Iterator[Stage]:
    chain = servers.start_anvil(chain_id=CHAIN_ID)
    yield Stage(chain)
    chain.stop()


@pytest.fixture
def empty_stage(
    assets_chain: Stage, db: None, redis_server: servers.RedisServer, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    """Keys and the chain's entry; what this chain was bootstrapped with is not in the database."""
    from django.conf import settings

    from keyguard import import_key
    from signer import register_chain

    # Messages would go to workers that don't exist.
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    monkeypatch.setattr("signer.ringing._ring", lambda *arguments: None)
    # One look at the chain per round, instead of a slice of three seconds.
    monkeypatch.setitem(settings.SIGNER, "watch_slice_seconds", 0)
    redis_server.client().flushall()
    register_chain(CHAIN_ID, "anvil", [assets_chain.chain.url], confirmations=1, block_time=0.2)
    for alias in KEYS:
        import_key(alias, bytearray(keccak(text=f"asset tests: {alias}")))
    for alias in KEYS[:2]:
        assets_chain.chain.fund(assets_chain.address(alias))
    return assets_chain


@pytest.fixture
def stage(empty_stage: Stage) -> Stage:
    """A platform with three registered investors: French, German, American; a fourth account is nobody."""
    from dalp.assets.models import Platform
    from workflows.states import RunState

    keys = {"deployer": KEYS[0], "claim_issuer": KEYS[1], "claim_signer": KEYS[2]}
    if empty_stage.contracts is None:
        run = empty_stage.drive(empty_stage.start("platform.bootstrap", **keys))
        assert run.state == RunState.SUCCEEDED, run.error
        empty_stage.contracts = run.output["contracts"]
        empty_stage.wallets = [to_checksum_address(account) for account in empty_stage.chain.accounts[1:5]]
        for wallet, country in zip(empty_stage.wallets, (FRANCE, GERMANY, USA), strict=False):
            run = empty_stage.register(wallet, country)
            assert run.state == RunState.SUCCEEDED, run.error
    else:
        names = {f"{name}_key": alias for name, alias in keys.items()}
        Platform.objects.create(chain_id=CHAIN_ID, run_id="0" * 32, contracts=empty_stage.contracts, **names)
    return empty_stage
