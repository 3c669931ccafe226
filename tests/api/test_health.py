"""Whether the process lives and whether it can work; and the doctor, who says more."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db.migrations.executor import MigrationExecutor
from django.test import Client

from dalp import diagnosis, heartbeat
from dalp.api.problems import from_keyguard
from dalp.local.servers import RedisServer
from keyguard import (
    create_key,
    sealing,
    sign_authorization,
    sign_message,
    sign_transactions,
    sign_typed_data,
)
from keyguard.errors import KeyguardSealedError
from keyguard.models import Sealing, SigningRecord
from tests.integration.keyguard.requests import request


@pytest.fixture
def redis_at_hand(redis_server: RedisServer) -> Iterator[None]:
    heartbeat.client().flushall()
    yield
    heartbeat.client().flushall()


class Sweep:
    name = "workflows.sweep"


NOBODY = "0x" + "00" * 20
LETTER: dict[str, Any] = {
    "types": {
        "EIP712Domain": [
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Letter": [{"name": "text", "type": "string"}],
    },
    "domain": {"chainId": 31337, "verifyingContract": "0x" + "11" * 20},
    "primaryType": "Letter",
    "message": {"text": "hello"},
}


def test_healthz_needs_nothing(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_readyz_is_ready_when_all_is_there(db: None, client: Client, redis_at_hand: None) -> None:
    heartbeat.record(sender=Sweep())
    response = client.get("/readyz")
    assert response.status_code == 200, response.content
    assert response.json()["missing"] == []


def test_readyz_says_that_no_sweep_has_run(db: None, client: Client, redis_at_hand: None) -> None:
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["missing"] == ["beat: no sweep has run yet"]


def test_readyz_says_that_the_last_sweep_is_long_ago(
    db: None, client: Client, redis_at_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat.record(sender=Sweep())
    monkeypatch.setattr(heartbeat, "LATE_SECONDS", -1)
    assert "last sweep 0 s ago" in client.get("/readyz").json()["missing"][0]


def test_readyz_says_that_redis_is_gone_and_answers_soon(
    db: None, client: Client, redis_at_hand: None, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    heartbeat.client.cache_clear()
    try:
        body = client.get("/readyz").json()
    finally:
        heartbeat.client.cache_clear()
    assert [line.split(":")[0] for line in body["missing"]] == ["broker", "beat"]


@pytest.mark.case("K11")
def test_readyz_answers_503_while_keyguard_is_sealed_and_nothing_is_signed(
    db: None, client: Client, redis_at_hand: None
) -> None:
    heartbeat.record(sender=Sweep())
    key = create_key("treasury")
    sealing.seal("a drill", actor="ann")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["checks"]["keys"] == "missing"
    assert response.json()["missing"] == ["keys: all keys are sealed by ann (a drill)"]
    assert client.get("/healthz").status_code == 200, "it lives"
    for sign in (
        lambda: sign_transactions([request(key.address)]),
        lambda: sign_message(key.address, b"hello", "message"),
        lambda: sign_typed_data(key.address, LETTER, "typed"),
        lambda: sign_authorization(key.address, 31337, NOBODY, 0, "authorisation"),
    ):
        with pytest.raises(KeyguardSealedError) as caught:
            sign()
        assert from_keyguard(caught.value).status == 503
    assert not SigningRecord.objects.exists()
    sealing.unseal(Sealing.objects.get(), "ann", "it is over")
    assert client.get("/readyz").status_code == 200
    assert sign_message(key.address, b"hello", "message")
    assert sign_typed_data(key.address, LETTER, "typed")
    assert sign_authorization(key.address, 31337, NOBODY, 0, "authorisation")


def test_readyz_says_which_migrations_are_missing(
    db: None, client: Client, redis_at_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = MigrationExecutor(diagnosis.connection)
    [leaf] = executor.loader.graph.leaf_nodes("dalp")
    monkeypatch.setattr(
        MigrationExecutor, "migration_plan", lambda *_: [(executor.loader.get_migration(*leaf), False)]
    )
    missing = client.get("/readyz").json()["missing"]
    assert f"migrations: 1 not applied: dalp.{leaf[1]}" in missing


def test_only_the_sweep_is_a_sign_of_life(redis_at_hand: None) -> None:
    class Other:
        name = "signer.drain"

    heartbeat.record(sender=Other())
    assert heartbeat.age_seconds() is None
    heartbeat.record(sender=Sweep())
    assert heartbeat.age_seconds() == pytest.approx(0, abs=5)


def doctor(*arguments: str) -> tuple[str, int]:
    """Run the doctor; return what it says and its exit code."""
    out = io.StringIO()
    try:
        call_command("doctor", *arguments, stdout=out, no_color=True)
    except SystemExit as ended:
        return out.getvalue(), int(str(ended.code))
    return out.getvalue(), 0


def test_the_doctor_says_what_is_broken_and_what_to_do(
    db: None, redis_at_hand: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "WORKER_PING_SECONDS", 0.2)
    text, code = doctor()
    assert code == 1
    assert "BROKEN workers: no worker answers" in text
    assert "-> Start `celery -A dalp worker`" in text
    assert "ok     database" in text
    assert "BROKEN beat" in text


def test_the_doctor_speaks_json(db: None, redis_at_hand: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "WORKER_PING_SECONDS", 0.2)
    text, code = doctor("--json")
    body = json.loads(text)
    assert (code, body["ok"]) == (1, False)
    names = [finding["name"] for finding in body["findings"]]
    assert {"database", "migrations", "broker", "workers", "beat", "keys", "dead letters"} <= set(names)


def test_the_doctor_finds_a_key_encryption_key_that_does_not_fit(db: None, settings: Any) -> None:
    from dalp.chain_diagnosis import check_keys
    from keyguard import create_key

    create_key("treasury")
    settings.DEBUG = True  # in production it would want a backup on paper, too
    assert [finding.ok for finding in check_keys()] == [True, True, True]
    settings.KEYGUARD_KEK = "A" * 43 + "="
    [broken] = [finding for finding in check_keys() if not finding.ok]
    assert broken.name.startswith("keys: kek env")
    assert "KEYGUARD_KEK_MISMATCH" in broken.detail
    assert "A" * 43 not in broken.detail


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_something() -> list[diagnosis.Finding]:
        raise RuntimeError("boom")

    [finding] = diagnosis.guarded(check_something)
    assert (finding.name, finding.ok, finding.detail) == (
        "something",
        False,
        "could not look: RuntimeError: boom",
    )


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_create_api_token_prints_a_token_that_works(db: None, role: str, client: Client) -> None:
    out = io.StringIO()
    call_command("create_api_token", "--name", "ci", "--role", role, stdout=out)
    response = client.get("/api/v1/runs", headers={"Authorization": f"Bearer {out.getvalue().strip()}"})
    assert response.status_code == 200
