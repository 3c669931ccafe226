"""Fireblocks' limits, clock and credentials: what is waited for, what is named, and what is never shown."""

import logging
import os
import time
from typing import Any

import jwt
import pytest

from keyguard import CustodyState
from keyguard.custodians import custodian_of
from keyguard.errors import (
    CustodyBusyError,
    CustodyClockError,
    CustodyDeniesError,
    CustodyUnreachableError,
)
from keyguard.models import Key
from tests.fakes.fireblocks import FakeFireblocks
from tests.fakes.serving import Reply
from tests.integration.custody.asking import hand_over, status, ticket

CREATE = ("POST", "/transactions")


@pytest.mark.case("K27")
def test_too_many_requests_are_waited_out_with_a_fresh_token_each_time(
    bound: Key, fireblocks: FakeFireblocks
) -> None:
    fireblocks.keep = True
    seen = len(fireblocks.requests)
    fireblocks.storm(2, retry_after="0")
    fireblocks.answer(Reply(429, b"", {"Retry-After": "1"}))
    began = time.monotonic()
    assert hand_over(bound).state == CustodyState.WORKING
    assert time.monotonic() - began >= 1.0
    attempts = fireblocks.requests[seen:]
    assert [each.path for each in attempts] == ["/v1/transactions"] * 4
    assert attempts[1].at - attempts[0].at >= 0.2, "a service that says 0 is not hammered"
    tokens = [each.headers["authorization"].removeprefix("Bearer ") for each in attempts]
    claims = [jwt.decode(each, options={"verify_signature": False}) for each in tokens]
    assert len({each["nonce"] for each in claims}) == 4
    assert len({each.headers["idempotency-key"] for each in attempts}) == 1
    seen = len(fireblocks.requests)
    fireblocks.storm(2, retry_after="0", status=503)
    assert status().state == CustodyState.WORKING, "a look does no harm twice"
    assert len({each.headers["authorization"] for each in fireblocks.requests[seen:]}) == 3
    fireblocks.lose_answer("GET")
    with pytest.raises(
        CustodyUnreachableError, match="no answer"
    ):  # not 401: no attempt is repeated as it is
        status()
    assert len(fireblocks.requests) == seen + 4


@pytest.mark.case("K27")
def test_longer_than_the_caller_has_is_not_waited_and_holds_for_all(
    bound: Key, fireblocks: FakeFireblocks
) -> None:
    fireblocks.storm(1, retry_after="30")
    began = time.monotonic()
    with pytest.raises(CustodyBusyError):
        hand_over(bound, seconds=2)
    seen = len(fireblocks.requests)
    for _ in range(3):
        with pytest.raises(CustodyBusyError):
            status(seconds=2)
    assert len(fireblocks.requests) == seen, "nothing leaves before the time that it named"
    assert time.monotonic() - began < 1.5


def test_pace_is_kept(bound: Key, fireblocks: FakeFireblocks, settings: Any) -> None:
    from keyguard.backends import custodies

    settings.FIREBLOCKS_REQUESTS_PER_SECOND = 10.0
    custodies.forget()
    custodian = custodian_of("fireblocks")
    began = time.monotonic()
    for _ in range(4):
        custodian.find(ticket(), timeout_seconds=5)
    assert time.monotonic() - began >= 0.3


@pytest.mark.case("K28")
@pytest.mark.parametrize("offset", [120, -120])
def test_clock_that_is_off_is_named_and_not_asked_about_again_at_once(
    bound: Key, fireblocks: FakeFireblocks, offset: float, caplog: pytest.LogCaptureFixture
) -> None:
    fireblocks.clock_offset_seconds = offset
    direction = "behind" if offset > 0 else "ahead of"
    with pytest.raises(CustodyClockError, match=rf"clock is (119|120|121) s {direction} Fireblocks"):
        hand_over(bound)
    seen = len(fireblocks.requests)
    for _ in range(3):
        with pytest.raises(CustodyClockError):
            status()
    assert len(fireblocks.requests) == seen
    assert [record.levelname for record in caplog.records if "clock_skew" in record.getMessage()] == ["ERROR"]
    assert not fireblocks.transactions


def test_credentials_that_are_not_accepted_are_named_and_not_shown(
    bound: Key, fireblocks: FakeFireblocks
) -> None:
    fireblocks.api_key = "another"
    with pytest.raises(CustodyDeniesError) as caught:
        hand_over(bound)
    assert "401" in str(caught.value)
    assert "api-key-1" not in str(caught.value)
    seen = len(fireblocks.requests)
    with pytest.raises(CustodyDeniesError):
        status()
    assert len(fireblocks.requests) == seen


def test_key_is_parsed_once_and_shown_by_nothing(
    bound: Key, fireblocks: FakeFireblocks, settings: Any
) -> None:
    from keyguard.backends import custodies
    from keyguard.backends.fireblocks import configured

    config = configured.read()
    custodian: Any = custodies.client_of("fireblocks")
    for shown in (repr(config), repr(custodian.__dict__), repr(custodian._client._api.__dict__)):
        assert "BEGIN" not in shown
        assert settings.FIREBLOCKS_SECRET_KEY[64:128] not in shown
    began = time.monotonic()
    for _ in range(20):
        custodian.find(ticket(), timeout_seconds=5)
    assert time.monotonic() - began < 20 * 0.04, "50 ms each when the key is parsed at every call"


@pytest.mark.case("K55")
def test_no_log_at_any_level_shows_what_proves_who_we_are(
    bound: Key, fireblocks: FakeFireblocks, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fireblocks.keep = True
    hand_over(bound)
    fireblocks.lose_answer()
    with pytest.raises(CustodyUnreachableError):
        status()
    fireblocks.api_key = "another"
    with pytest.raises(CustodyDeniesError):
        status()
    assert len(caplog.records) > 3
    tokens = [each.headers["authorization"].removeprefix("Bearer ") for each in fireblocks.requests]
    for secret in (*tokens, settings.FIREBLOCKS_SECRET_KEY[64:128], "api-key-1", "BEGIN PRIVATE"):
        assert secret not in caplog.text


def test_client_of_a_parent_process_is_not_used_by_its_child(
    fireblocks: FakeFireblocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard.backends import custodies

    parents = custodies.client_of("fireblocks")
    assert custodies.client_of("fireblocks") is parents
    parent = os.getpid()
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: parent + 1)
        childs = custodies.client_of("fireblocks")
        assert childs is not parents
        custodies.forget()
    custodies.forget()
