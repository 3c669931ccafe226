"""Who may call the API, and with what."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from dalp.models import ApiToken
from tests.api.callers import API, Caller

READS = ["/workflows", "/runs", "/dead-letters", "/transactions"]


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize(
    "header", ["", "Bearer ", "Bearer wrong", "Basic dXNlcjpwdw==", "Bearer dalp_\x00\x00"]
)
def test_a_request_without_a_valid_token_is_refused(db: None, path: str, header: str) -> None:
    response = Client(headers={"Authorization": header} if header else {}).get(API + path)
    assert response.status_code == 401
    assert response.json()["code"] == "API_UNAUTHENTICATED"
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", READS)
def test_a_viewer_may_read(viewer: Caller, path: str) -> None:
    assert viewer.get(path).status_code == 200


def test_a_viewer_may_start_nothing(viewer: Caller) -> None:
    response = viewer.start()
    assert (response.status_code, response.json()["code"]) == (403, "API_FORBIDDEN")
    assert viewer.get("/runs").json()["items"] == []


def test_a_revoked_token_is_refused_at_once(operator: Caller) -> None:
    assert operator.get("/runs").status_code == 200
    ApiToken.objects.filter(pk=operator.token.pk).update(revoked_at=timezone.now())
    assert operator.get("/runs").status_code == 401


def test_a_session_of_the_console_does_not_open_the_api(db: None) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(API + "/runs").status_code == 401


def test_the_token_is_stored_only_as_a_hash(operator: Caller) -> None:
    row = ApiToken.objects.values().get(pk=operator.token.pk)
    assert operator.text not in str(row)
    assert ApiToken.find(operator.text) == operator.token


def test_use_of_a_token_is_noted(operator: Caller) -> None:
    operator.get("/runs")
    operator.token.refresh_from_db()
    assert operator.token.last_used_at is not None
