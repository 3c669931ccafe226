"""An issuance whose workers die at one turn after the other; what came of it is read from the chain."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from eth_utils import to_checksum_address

from dalp.assets.calls import contract
from dalp.assets.identity_provider import IdentityProvider
from keyguard import create_key
from signer import Transaction, register_chain
from tests.services import Live
from workflows import start_workflow, verify_history
from workflows.models import Run
from workflows.states import RunState

CHAIN_ID = 31337
QUICK = {
    "DALP_WORKFLOWS_LEASE_SECONDS": "2",
    "DALP_WORKFLOWS_SWEEP_GRACE_SECONDS": "1",
    "DALP_SIGNER_LEASE_SECONDS": "2",
}
# In the order in which an issuance comes by: its first outcome, its first transaction on the way there and back, more.
TURNS = (
    "engine.before_record=exit",
    "signer.signed=exit",
    "signer.attempts_committed=exit",
    "signer.sent=exit",
    "signer.settling=exit",
    "engine.in_record=exit@2",
    "signer.settled=exit",
    "engine.recorded=exit",
)


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    server = IdentityProvider()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def finish(live: Live, *runs: Run) -> None:
    def ended() -> bool:
        for run in runs:
            run.refresh_from_db()
        return all(run.finished_at or run.state == RunState.DEAD_LETTER for run in runs)

    live.wait_until(
        ended, 60, what=lambda: f"the runs end: {[(str(run), run.state, run.error) for run in runs]}"
    )
    assert [run.state for run in runs] == [RunState.SUCCEEDED] * len(runs), [run.error for run in runs]


def bootstrapped(live: Live, ask: Callable[..., Any]) -> list[str]:
    """Bootstrap the chain and register two investors under a healthy worker; return their wallets."""
    for alias in ("deployer", "claim-issuer", "claim-signer"):
        ask("anvil_setBalance", create_key(alias).address, hex(10**21))
    worker = live.start_worker(env=QUICK)
    keys = {"deployer": "deployer", "claim_issuer": "claim-issuer", "claim_signer": "claim-signer"}
    finish(live, start_workflow("platform.bootstrap", {"chain_id": CHAIN_ID, **keys})[0])
    wallets = [to_checksum_address(account) for account in ask("eth_accounts")[:2]]
    kyc = {"provider": "Test KYC", "reference": "case", "checked_on": "2026-01-15"}
    data = {"chain_id": CHAIN_ID, "country": 250, "kyc": kyc}
    finish(live, *(start_workflow("investor.register", {**data, "wallet": wallet})[0] for wallet in wallets))
    worker.kill()
    return wallets


@pytest.mark.timeout(240)
def test_an_issuance_happens_once_though_its_workers_die_at_every_turn(live: Live) -> None:
    chain = live.anvil(chain_id=CHAIN_ID)
    register_chain(CHAIN_ID, "anvil", [chain.url], confirmations=1, block_time=0.2)
    live.start_beat(env=QUICK)
    wallets = bootstrapped(live, chain.rpc)
    investors = [
        {"wallet": wallet, "amount": "100", "email": f"i{n}@example.com"} for n, wallet in enumerate(wallets)
    ]
    bond = {
        "name": "Bond",
        "symbol": "BOND",
        "countries": [250],
        "max_balance": "100",
        "investors": investors,
    }
    with identity_provider() as provider:
        env = {**QUICK, "IDENTITY_PROVIDER_URL": provider.url}
        run = start_workflow("asset.issue", {"chain_id": CHAIN_ID, **bond})[0]
        for turn in TURNS:
            worker = live.start_worker(fault=turn, env=env, ready=False)
            live.wait_until(lambda worker=worker: not worker.alive, 30, what=f"the worker dies at {turn}")
            assert worker.returncode == 137, worker.tail()
        run.refresh_from_db()
        assert run.finished_at is None, "it was over before the last worker died"
        live.start_worker(env=env)
        finish(live, run)
        registrations = provider.registry.all()

    assert run.epoch > len(TURNS) / 2, "the deaths struck the run itself too"
    token = contract("Token", run.output["token"])

    def ask(function: str, *arguments: Any) -> Any:
        call = {"to": token.address, "data": token.encode(function, *arguments)}
        return token.decode(function, bytes.fromhex(chain.rpc("eth_call", call, "latest")[2:]))

    assert (ask("totalSupply"), ask("paused")) == (200, False)
    assert [ask("balanceOf", wallet) for wallet in wallets] == [100, 100]
    assert len(registrations) == 1
    sent = list(Transaction.objects.select_related("lane", "winner"))
    assert len({(row.lane_id, row.nonce) for row in sent}) == len(sent)
    for lane in {row.lane for row in sent}:
        used = int(chain.rpc("eth_getTransactionCount", lane.address, "latest"), 16)
        assert used == sum(row.lane_id == lane.pk for row in sent), "as many nonces as transactions"
    labels = [row.label for row in sent if row.correlation_id == run.correlation_id]
    assert len(labels) == len(set(labels)) == 5
    assert list(verify_history()) == []
