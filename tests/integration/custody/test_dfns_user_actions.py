"""Whatever changes something at DFNS is signed by our credential: once, for one request, over its very bytes."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.db.models.functions import Now
from django.utils import timezone

import keyguard
from keyguard import CustodyState
from keyguard.backends.dfns.client import path
from keyguard.custodians import Ticket, custodian_of
from keyguard.errors import (
    CustodyDeniesError,
    CustodyMisconfiguredError,
    CustodyUnreachableError,
)
from keyguard.handing_over import ASKING
from keyguard.models import HandOver, Key
from tests.fakes.credentials import pem
from tests.fakes.dfns import ACTION_SECONDS, CHALLENGE_SECONDS, FakeDfns
from tests.fakes.serving import Reply
from tests.integration.custody.asking import forget, hand_over

KEY = "key-1abcd-2efgh-0123456789abcdef"
WALLET = "wa-1abcd-2efgh-0123456789abcdef"


@pytest.fixture
def bound(fresh_db: str, dfns: FakeDfns) -> Key:
    return keyguard.bind_key("treasury", "dfns", KEY)


@pytest.mark.case("K30")
@pytest.mark.parametrize(
    "part", ["../../wallets", "..", "a/b", "key-1?x=1", "key%2f1", "key-1\n", "", "schlüssel", "a" * 100]
)
def test_what_is_no_id_goes_into_no_path(bound: Key, dfns: FakeDfns, part: str) -> None:
    with pytest.raises(CustodyMisconfiguredError, match="no id"):
        path("keys", part)
    seen = len(dfns.requests)
    ticket = Ticket(part, "first", 31337, timezone.now())
    with pytest.raises(CustodyUnreachableError):
        custodian_of("dfns").find(ticket, timeout_seconds=2)
    assert len(dfns.requests) == seen


@pytest.mark.case("K30")
def test_each_request_has_a_user_action_of_its_own_over_its_very_bytes(bound: Key, dfns: FakeDfns) -> None:
    dfns.keep = True
    hand_over(bound, "one")
    hand_over(bound, "two")
    assert len(set(dfns.used_actions)) == 2
    starts = [each.json() for each in dfns.requests if each.path == "/auth/action/init"]
    made = [each for each in dfns.requests if each.method == "POST" and each.path.endswith("/transactions")]
    for start, request in zip(starts, made, strict=True):
        assert start["userActionPayload"].encode() == request.body
        assert (start["userActionHttpMethod"], start["userActionHttpPath"]) == ("POST", request.path)
    # The service refuses one that was used, and one for another body.
    again = _post(dfns, made[0].path, made[0].body, dfns.used_actions[0])
    assert again == 401
    dfns.actions["stolen"] = (starts[0], dfns.now())
    assert _post(dfns, made[0].path, made[0].body + b" ", "stolen") == 403
    assert len(dfns.entities) == 2


def _post(dfns: FakeDfns, where: str, body: bytes, action: str) -> int:
    import httpx

    headers = {"Authorization": f"Bearer {dfns.token}", "X-DFNS-USERACTION": action}
    return httpx.post(dfns.url + where, content=body, headers=headers).status_code


@pytest.mark.case("K30")
@pytest.mark.parametrize("expired", ["challenge", "action"])
def test_expired_challenge_or_action_leads_to_a_new_one_once(
    bound: Key, dfns: FakeDfns, monkeypatch: pytest.MonkeyPatch, expired: str
) -> None:
    dfns.keep = True
    made: Any = dfns.challenges if expired == "challenge" else dfns.actions
    seconds = CHALLENGE_SECONDS if expired == "challenge" else ACTION_SECONDS
    late = {"left": 1}
    respond = dfns.respond

    def slow(request: Any) -> Reply:
        target = "/auth/action" if expired == "challenge" else f"/wallets/{WALLET}/transactions"
        if request.path == target and request.method == "POST" and late["left"]:
            late["left"] -= 1
            for name, (*rest, at) in list(made.items()):
                made[name] = (*rest, at - seconds - 1)
        return respond(request)

    monkeypatch.setattr(dfns, "respond", slow)
    assert hand_over(bound).state == CustodyState.WORKING
    assert dfns.count("POST", "/auth/action/init") == 2
    assert len(dfns.entities) == 1
    late["left"] = 99
    with pytest.raises(CustodyDeniesError):
        hand_over(bound, "second")
    assert dfns.count("POST", "/auth/action/init") == 4, "once more, and no further"


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_credential_may_be_of_each_kind_that_dfns_takes(
    bound: Key, dfns: FakeDfns, settings: Any, kind: str
) -> None:
    key: Any = (
        ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    )
    settings.DFNS_CREDENTIAL_KEY = pem(key)
    forget()
    with pytest.raises(CustodyDeniesError):
        hand_over(bound)
    dfns.credential = key.public_key()
    dfns.keep = True
    forget()
    HandOver.objects.update(asked_at=Now() - ASKING)
    assert hand_over(bound).state == CustodyState.WORKING


def test_credential_that_the_account_does_not_have_signs_nothing(
    bound: Key, dfns: FakeDfns, settings: Any
) -> None:
    settings.DFNS_CREDENTIAL_ID = "cr-2"
    forget()
    with pytest.raises(CustodyDeniesError, match="DFNS_CREDENTIAL_ID"):
        hand_over(bound)
    assert dfns.count("POST", "/auth/action") == dfns.count("POST", "/auth/action/init") == 1
