"""Each custody is asked how it stands, once and only to read, by processes that have its secrets."""

from typing import Any

import pytest

from dalp.chain_diagnosis import check_keys
from dalp.diagnosis import readiness
from keyguard import health
from keyguard.backends import custodies
from keyguard.health import CUSTODY_AWAY, Health, HealthState
from keyguard.models import Key
from keyguard.states import KeyState
from tests.fakes.credentials import pem
from tests.integration.custody.test_remote_signing import Desk

SECRET = {"fireblocks": "FIREBLOCKS_SECRET_KEY", "dfns": "DFNS_AUTH_TOKEN"}
READ = {"fireblocks": "/addresses_paginated", "dfns": "/keys/"}


@pytest.fixture(params=["fireblocks", "dfns"])
def desk(request: pytest.FixtureRequest, fresh_db: str, settings: Any) -> Desk:
    made = Desk(request.param, request.getfixturevalue(request.param), settings)
    custodies.forget()
    made.fake.requests.clear()
    return made


def health_of(desk: Desk) -> Health:
    (found,) = health.check_all()
    assert found.name == desk.name
    return found


def test_healthy_custody_costs_one_read_each_time(desk: Desk) -> None:
    for count in (1, 2):
        found = health_of(desk)
        assert (found.state, found.remedy) == (HealthState.OK, "")
        assert f"shows {desk.key.uri} as it was bound" in found.words
        assert desk.fake.count("GET", READ[desk.name]) == len(desk.fake.requests) == count
    assert health.check(desk.name).state == HealthState.OK


def test_wrong_credentials_are_named_and_not_shown(desk: Desk, credentials: Any) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    wrong = pem(rsa.generate_private_key(65537, 2048)) if desk.name == "fireblocks" else "another-token"
    setattr(desk.settings, SECRET[desk.name], wrong)
    custodies.forget()
    found = health_of(desk)
    assert found.state == HealthState.DOWN
    assert found.words.startswith("KEYGUARD_CUSTODY_DENIES: ")
    assert "answered 401" in found.words
    assert "Check the key, its role" in found.remedy
    assert wrong not in repr(found)


@pytest.mark.parametrize(("offset", "words"), [(90.0, "behind"), (-90.0, "ahead of")])
def test_clock_that_is_off_is_told_from_wrong_credentials(
    fresh_db: str, fireblocks: Any, settings: Any, offset: float, words: str
) -> None:
    desk = Desk("fireblocks", fireblocks, settings)
    custodies.forget()
    fireblocks.clock_offset_seconds = offset
    found = health_of(desk)
    assert (found.state, found.words.split(":")[0]) == (HealthState.DOWN, "KEYGUARD_CUSTODY_CLOCK")
    assert f"s {words} Fireblocks's" in found.words
    assert "NTP" in found.remedy


def test_custody_that_is_away_is_told_by_the_doctor_and_leaves_the_process_ready(desk: Desk) -> None:
    desk.fake.lose_request(times=100)
    found = health_of(desk)
    assert (found.state, found.remedy) == (HealthState.DOWN, CUSTODY_AWAY)
    assert "KEYGUARD_CUSTODY_UNREACHABLE" in found.words
    (line,) = [one for one in check_keys() if one.name == f"keys: {desk.name}"]
    assert (line.ok, line.detail, line.remedy) == (False, found.words, CUSTODY_AWAY)
    before = len(desk.fake.requests)
    assert not [one for one in readiness() if desk.name in one.name]
    assert len(desk.fake.requests) == before


def test_custody_that_hangs_is_waited_for_briefly(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"keyguard.backends.{desk.name}.custodian.PROBING_SECONDS", 0.3)
    desk.fake.delay(3.0)
    assert "gave no answer" in health_of(desk).words


def test_account_that_shows_another_key_is_not_well(desk: Desk) -> None:
    Key.objects.filter(pk=desk.key.pk).update(address="0x" + "11" * 20)
    found = health_of(desk)
    assert (found.state, found.words.split(":")[0]) == (HealthState.DOWN, "KEYGUARD_CUSTODY_MISCONFIGURED")
    assert desk.key.backend_ref in found.words


def test_key_that_the_custody_has_no_more_is_not_well(desk: Desk) -> None:
    missing = "7/GONE" if desk.name == "fireblocks" else "key-1abcd-2efgh-gone"
    Key.objects.filter(pk=desk.key.pk).update(backend_ref=missing)
    assert "answered 404" in health_of(desk).words


def test_process_without_all_secrets_asks_nobody(desk: Desk) -> None:
    setattr(desk.settings, SECRET[desk.name], "")
    custodies.forget()
    assert health.check_all() == []
    assert desk.fake.requests == []


def test_custody_without_a_key_of_ours_is_not_asked(desk: Desk) -> None:
    Key.objects.filter(pk=desk.key.pk).update(state=KeyState.DESTROYED)
    assert health.check_all() == []
    assert "is not asked" in health.check(desk.name).words
    assert desk.fake.requests == []
