"""Webhooks of custodies make somebody look, and do nothing else, whoever sends them and however often."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from keyguard.backends import hints
from keyguard.backends.fireblocks import hints as fireblocks_hints
from signer import ringing
from signer.custody import hinting
from signer.models import Transaction
from tests.fakes.serving import HttpFake, Reply, Request
from tests.integration.signer.custody_server import CustodyServer
from tests.integration.signer.stage import Stage

SECRET = "a-secret-that-dfns-showed-once"
FIREBLOCKS, DFNS = "/hooks/fireblocks", "/hooks/dfns"
JSON = "application/json"


class KeyServer(HttpFake):
    """Where a custody publishes the public keys that it signs its webhooks with."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        super().__init__()

    def respond(self, request: Request) -> Reply:
        listed = []
        for kid, key in self.keys.items():
            fields = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
            listed.append({**fields, "kid": kid, "alg": "RS512", "use": "sig"})
        return Reply(200, {"keys": listed})


@pytest.fixture(scope="module")
def key() -> Any:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def server(key: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyServer]:
    server = KeyServer()
    server.keys["k1"] = key
    settings.FIREBLOCKS_WEBHOOK_JWKS_URL = f"{server.url}/.well-known/jwks.json"
    settings.DFNS_WEBHOOK_SECRET = SECRET
    monkeypatch.setattr(fireblocks_hints, "KEYS", fireblocks_hints.KeySet())
    hints._seen.clear()
    yield server
    server.stop()


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    rung: list[object] = []
    monkeypatch.setattr(hinting, "ring_lane", rung.append)
    return rung


def fireblocks_event(external_id: Any, **changes: Any) -> bytes:
    event = {
        "id": str(uuid4()),
        "eventType": "transaction.status.updated",
        "resourceId": str(uuid4()),
        "createdAt": int(time.time() * 1000),
        "data": {"id": str(uuid4()), "externalTxId": str(external_id), "status": "COMPLETED"},
        **changes,
    }
    return json.dumps(event).encode()


def dfns_event(external_id: Any, **changes: Any) -> bytes:
    entity = {"id": "tx-1", "status": "Confirmed", "externalId": str(external_id)}
    event = {
        "id": f"whe-{uuid4()}",
        "kind": "wallet.transaction.confirmed",
        "timestampSent": int(time.time()),
        "data": {"transactionRequest": entity},
        **changes,
    }
    return json.dumps(event).encode()


def jws(body: bytes, key: Any, kid: str = "k1", algorithm: str = "RS512", **headers: Any) -> str:
    whole = jwt.PyJWS().encode(body, key, algorithm=algorithm, headers={"kid": kid, **headers})
    header, _, signature = whole.split(".")
    return f"{header}..{signature}"


def tag(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post(path: str, body: bytes, signature: str) -> int:
    name = "Fireblocks-Webhook-Signature" if path == FIREBLOCKS else "X-DFNS-WEBHOOK-SIGNATURE"
    client = Client(enforce_csrf_checks=True)
    return client.post(path, body, content_type=JSON, headers={name: signature}).status_code


def signed(path: str, body: bytes, key: Any) -> str:
    return jws(body, key) if path == FIREBLOCKS else tag(body)


def event(path: str, external_id: Any, **changes: Any) -> bytes:
    return (
        fireblocks_event(external_id, **changes) if path == FIREBLOCKS else dfns_event(external_id, **changes)
    )


@pytest.fixture
def row(stage: Stage, custody: CustodyServer) -> Transaction:
    """A transaction that its custody has, and that would be looked at in an hour."""
    from tests.integration.signer.test_custody import drain

    custody.keep = True
    row = stage.submit(sender="vault")
    drain()
    Transaction.objects.update(look_at=timezone.now() + timezone.timedelta(hours=1))  # type: ignore[attr-defined]
    row.refresh_from_db()
    return row


def is_due(row: Transaction) -> bool:
    return Transaction.objects.filter(pk=row.pk, look_at__lte=Now()).exists()


@pytest.mark.case("K29", "PD10")
@pytest.mark.parametrize("path", [FIREBLOCKS, DFNS])
def test_valid_webhook_makes_somebody_look_and_changes_nothing_else(
    row: Transaction, server: KeyServer, key: Any, rung: list[object], path: str
) -> None:
    body = event(path, row.pk)
    before = Transaction.objects.values().get(pk=row.pk)
    assert post(path, body, signed(path, body, key)) == 200
    assert rung == [row.lane_id]
    assert is_due(row)
    after = Transaction.objects.values().get(pk=row.pk)
    assert {name for name in after if after[name] != before[name]} <= {"look_at"}
    assert after["state"] == "SIGNING", "whatever the webhook says"


@pytest.mark.case("K29", "PD10")
@pytest.mark.parametrize("path", [FIREBLOCKS, DFNS])
def test_replayed_late_or_about_something_else_it_does_nothing(
    row: Transaction, server: KeyServer, key: Any, rung: list[object], path: str
) -> None:
    body = event(path, row.pk)
    post(path, body, signed(path, body, key))
    rung.clear()
    when = "createdAt" if path == FIREBLOCKS else "timestampSent"
    unit = 1000 if path == FIREBLOCKS else 1
    harmless = [
        body,
        event(path, row.pk, **{when: int((time.time() - 301) * unit)}),
        event(path, row.pk, **{when: int((time.time() + 400) * unit)}),
        event(path, uuid4()),
        event(path, "not an id"),
        event(path, row.pk, data={}),
        event(path, row.pk, data=None),
        event(path, row.pk, data={"a": [1], "b": {"externalId": {"c": 1}}, "externalTxId": ["x"]}),
    ]
    for each in harmless:
        assert post(path, each, signed(path, each, key)) == 200
    assert rung == []


@pytest.mark.case("K29", "PD10")
def test_forged_webhooks_are_refused(
    row: Transaction, server: KeyServer, key: Any, rung: list[object]
) -> None:
    body = fireblocks_event(row.pk)
    header, _, signature = jws(body, key).partition("..")
    other = rsa.generate_private_key(65537, 2048)
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "k1"}).encode()).decode().rstrip("=")
    public = key.public_key()
    as_secret = f"{public.public_numbers().n}".encode()
    forged = [
        jws(body, other),
        jws(body, key, kid="k2"),
        jws(body, key, algorithm="RS256"),
        jws(body, key, algorithm="PS512"),
        jws(body, as_secret, algorithm="HS512"),
        jws(body, key, crit=["exp"], exp=1),
        jws(body + b" ", key),
        f"{none}..{signature}",
        f"{none}..",
        f"{header}.{signature}",
        f"{header}.e30.{signature}",
        f"{header}..{signature[:-4]}AAAA",
        f"{header}..{signature}.x",
        "..",
        "",
        "x" * 10_000,
        base64.urlsafe_b64encode(b"[" * 1500).decode() + "..AAAA",
        "é..AAAA",
    ]
    assert [post(FIREBLOCKS, body, each) for each in forged] == [401] * len(forged)
    body = dfns_event(row.pk)
    forged = [tag(body, "another"), tag(body + b" "), tag(body).upper(), tag(body)[7:], "sha256=", "", "é"]
    assert [post(DFNS, body, each) for each in forged] == [401] * len(forged)
    assert post(DFNS, body, signed(FIREBLOCKS, body, key)) == 401
    assert rung == []
    assert not is_due(row)


@pytest.mark.case("K29")
def test_huge_or_malformed_bodies_are_refused(
    db: None, server: KeyServer, key: Any, rung: list[object]
) -> None:
    huge = b" " * (256 * 1024 + 1)
    for path in (FIREBLOCKS, DFNS):
        assert post(path, huge, signed(path, huge, key)) == 413
        for body in (
            b"",
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b"{}",
            b"[" * 200_000,
            b'{"id":1,"timestampSent":NaN}',
            b"\xff",
        ):
            assert post(path, body, signed(path, body, key)) == 401, body[:20]
        assert Client().get(path).status_code == 405
    assert rung == []


def test_custody_that_is_not_configured_is_not_listened_to(
    db: None, server: KeyServer, key: Any, settings: Any
) -> None:
    settings.FIREBLOCKS_WEBHOOK_JWKS_URL = settings.DFNS_WEBHOOK_SECRET = ""
    for path in (FIREBLOCKS, DFNS):
        body = event(path, uuid4())
        assert post(path, body, jws(body, key) if path == FIREBLOCKS else tag(body, "")) == 401
    assert server.requests == [], "nothing is fetched for a custody that nobody has"


@pytest.mark.case("K29")
def test_new_key_is_fetched_and_unknown_ones_do_not_make_us_fetch_without_end(
    db: None, server: KeyServer, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = fireblocks_event(uuid4())
    assert post(FIREBLOCKS, body, jws(body, key)) == 200
    second = rsa.generate_private_key(65537, 2048)
    server.keys["k2"] = second
    for _ in range(20):
        body = fireblocks_event(uuid4())
        assert post(FIREBLOCKS, body, jws(body, second, kid="k2")) == 401, "at most once a minute"
    assert len(server.requests) == 1
    now = time.monotonic()
    monkeypatch.setattr(fireblocks_hints.time, "monotonic", lambda: now + 61)
    server.answer(Reply(500, b"no"))
    assert post(FIREBLOCKS, body, jws(body, second, kid="k2")) == 401
    old = fireblocks_event(uuid4())
    assert post(FIREBLOCKS, old, jws(old, key)) == 200, "what was known stays when the list cannot be read"
    monkeypatch.setattr(fireblocks_hints.time, "monotonic", lambda: now + 130)
    assert post(FIREBLOCKS, body, jws(body, second, kid="k2")) == 200
    small = rsa.generate_private_key(65537, 1024)
    server.keys["k3"] = small
    monkeypatch.setattr(fireblocks_hints.time, "monotonic", lambda: now + 200)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        by_small = jws(body, small, kid="k3")
    assert post(FIREBLOCKS, body, by_small) == 401, "too short a key"


def test_hint_leaves_alone_what_waits_for_a_person(row: Transaction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hinting, "ring_lane", ringing.ring_lane)
    Transaction.objects.filter(pk=row.pk).update(look_at=None)
    assert not hinting.look_at(str(row.pk))
    row.refresh_from_db()
    assert row.look_at is None
    assert not hinting.look_at("x")
