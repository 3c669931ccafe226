"""Workers of Celery's prefork pool send with keys in an HSM and in Vault, which go away and come back."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dalp.local.processes import Process
from keyguard import create_key
from keyguard.models import Key
from signer import Transaction
from tests import softhsm
from tests.fakes.vault import FakeVault
from tests.faults.test_signer import QUICK, settle
from tests.integration.keyguard.conftest import VAULT_POLICY, VAULT_ROLE, VAULT_SECRET, vault_environment
from tests.integration.signer.stage import Stage, wait
from tests.services import Live

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    server = FakeVault()
    server.allow(VAULT_ROLE, VAULT_SECRET, VAULT_POLICY)
    yield server
    server.stop()


@pytest.fixture
def token(tmp_path: Path) -> Iterator[softhsm.SoftToken]:
    if softhsm.missing():
        pytest.skip(softhsm.MISSING)
    token = softhsm.make_token(tmp_path / "token")
    with softhsm.in_use(token):
        yield token


@pytest.fixture
def keepers(token: softhsm.SoftToken, vault: FakeVault, settings: Any) -> dict[str, str]:
    """The settings of workers, and of this process, that reach both."""
    place = {**token.environment, **vault_environment(vault), "KEYGUARD_DEK_CACHE_SECONDS": "0"}
    for name, value in place.items():
        if name.startswith("KEYGUARD_") and name != "KEYGUARD_DEK_CACHE_SECONDS":
            setattr(settings, name, value)
    return place


@pytest.fixture
def stage(live: Live, keepers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Stage:
    wait(monkeypatch, resend_seconds=2, bump_after_seconds=1)
    stage = Stage(live.anvil(block_time=0.2), max_in_flight=64)
    stage.deploy_counter()
    for backend in ("pkcs11", "vault"):
        stage.fund(create_key(f"in-{backend}", backend).address)
    return stage


def recorded(stage: Stage, numbers: range, backend: str) -> list[Transaction]:
    return [stage.record(number, sender=f"in-{backend}") for number in numbers]


def counted_once(stage: Stage, numbers: range) -> None:
    assert {number: stage.counted(number) for number in numbers} == dict.fromkeys(numbers, 1)


def workers(live: Live, keepers: dict[str, str]) -> Process:
    return live.start_worker(env={**QUICK, **keepers}, pool="prefork", concurrency=2)


@pytest.mark.case("K35", "K31")
def test_prefork_workers_send_with_keys_in_an_hsm_and_in_vault(
    live: Live, stage: Stage, keepers: dict[str, str], vault: FakeVault
) -> None:
    workers(live, keepers)
    rows = recorded(stage, range(1, 11), "pkcs11") + recorded(stage, range(11, 21), "vault")
    settle(live, rows)
    counted_once(stage, range(1, 21))
    # This process, and at most one for each child of the pool.
    assert 2 <= vault.roles[VAULT_ROLE].logins <= 3


@pytest.mark.case("K31", "K36")
@pytest.mark.parametrize("backend", ["pkcs11", "vault"])
def test_transactions_wait_while_their_keys_are_away_and_are_sent_once_when_they_are_back(
    live: Live,
    stage: Stage,
    keepers: dict[str, str],
    token: softhsm.SoftToken,
    vault: FakeVault,
    backend: str,
) -> None:
    away = token.directory / "away"

    def take_away() -> None:
        if backend == "vault":
            vault.sealed = True
            return
        shutil.move(token.tokens, away)
        token.tokens.mkdir()

    def bring_back() -> None:
        if backend == "vault":
            vault.sealed = False
            return
        token.tokens.rmdir()
        shutil.move(away, token.tokens)

    worker = workers(live, keepers)
    settle(live, recorded(stage, range(1, 4), backend))
    take_away()
    rows = recorded(stage, range(4, 10), backend)
    live.wait_until(
        lambda: "batch_not_signed" in worker.output(), 30, what="the worker finds that it cannot sign"
    )
    assert not [row for row in rows if stage.counted(rows.index(row) + 4)]
    # Others are not held up.
    settle(live, [stage.record(20, sender="sender")])
    bring_back()
    settle(live, rows)
    counted_once(stage, range(1, 10))
    assert set(Key.objects.values_list("state", flat=True)) == {"ACTIVE"}
