"""Keys over REST: listed, made, taken out of service, handed over; what signs is never shown."""

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.callers import Caller

if TYPE_CHECKING:
    from keyguard.models import Key


def make(alias: str) -> "Key":
    from keyguard import create_key

    return create_key(alias)


def test_keys_are_listed_newest_first_in_pages_and_by_what_they_are(viewer: Caller) -> None:
    keys = [make(f"key-{number}") for number in range(5)]
    first = viewer.get("/keys", limit=2).json()
    rest = viewer.get("/keys", limit=3, cursor=first["next_cursor"]).json()
    assert [key["alias"] for key in first["items"] + rest["items"]] == [f"key-{n}" for n in (4, 3, 2, 1, 0)]
    assert rest["next_cursor"] is None
    assert [key["id"] for key in viewer.get("/keys", address=keys[2].address.lower()).json()["items"]] == [
        str(keys[2].pk)
    ]
    assert viewer.get("/keys", alias="key-1").json()["items"][0]["address"] == keys[1].address
    assert viewer.get("/keys", state="SUSPENDED").json()["items"] == []
    assert viewer.get("/keys", sate="ACTIVE").status_code == 422
    assert viewer.get("/keys", cursor="!").status_code == 422


def test_key_is_shown_without_what_it_signs_with(viewer: Caller) -> None:
    from keyguard.models import KeyMaterial

    key = make("treasury")
    shown = viewer.get(f"/keys/{key.pk}").json()
    assert (shown["alias"], shown["state"], shown["replaces"]) == ("treasury", "ACTIVE", None)
    assert shown["public_key"] == f"0x{bytes(key.public_key).hex()}"
    material = KeyMaterial.objects.get(key=key)
    for secret in (material.ciphertext, material.wrapped_dek):
        assert bytes(secret).hex() not in json.dumps(shown)
    assert viewer.get("/keys/00000000-0000-4000-8000-000000000000").status_code == 404


def test_key_is_made_once_per_idempotency_key(operator: Caller) -> None:
    from keyguard.models import Key

    body = {"alias": "treasury"}
    first = operator.post("/keys", body, key="k1")
    assert (first.status_code, first.json()["backend"]) == (202, "database")
    again = operator.post("/keys", body, key="k1")
    assert again.json() == first.json()
    assert again["Idempotent-Replayed"] == "true"
    assert Key.objects.count() == 1
    assert operator.post("/keys", body, key=None).status_code == 400
    taken = operator.post("/keys", body, key="k2")
    assert (taken.status_code, taken.json()["code"]) == (409, "KEYGUARD_ALIAS_TAKEN")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"alias": "0xabc"}, 422, "KEYGUARD_ALIAS_INVALID"),
        ({"alias": "a", "backend": "nowhere"}, 422, "KEYGUARD_BACKEND_UNKNOWN"),
        ({"alias": "a", "backend": "vault"}, 503, "KEYGUARD_BACKEND_SETTINGS"),
        ({"alias": ""}, 422, "API_INVALID_INPUT"),
        ({"alias": "a", "secret": "07"}, 422, "API_INVALID_INPUT"),
    ],
)
def test_key_that_cannot_be_made_is_a_problem(
    operator: Caller, body: dict[str, Any], status: int, code: str
) -> None:
    answer = operator.post("/keys", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("verb", "state"), [("suspend", "SUSPENDED"), ("revoke", "RETIRED")])
def test_key_is_taken_out_of_service_with_a_reason(operator: Caller, verb: str, state: str) -> None:
    from keyguard.models import KeyAct

    key = make("treasury")
    assert operator.post(f"/keys/{key.pk}/{verb}", {}, key=None).status_code == 422
    for _ in range(2):
        answer = operator.post(f"/keys/{key.pk}/{verb}", {"reason": "odd"}, key=None)
        assert (answer.status_code, answer.json()["state"]) == (202, state)
    assert KeyAct.objects.get().reason == "odd"


def test_key_that_was_compromised_is_not_suspended(operator: Caller) -> None:
    from keyguard import lifecycle
    from keyguard.states import KeyVerb

    key = make("treasury")
    lifecycle.act(key, KeyVerb.COMPROMISED, "ann", "mailed")
    answer = operator.post(f"/keys/{key.pk}/suspend", {"reason": "odd"}, key=None)
    assert (answer.status_code, answer.json()["code"]) == (409, "KEYGUARD_KEY_ACT_INVALID")


def test_whoever_may_only_look_changes_nothing(viewer: Caller) -> None:
    key = make("treasury")
    assert viewer.post("/keys", {"alias": "b"}).status_code == 403
    for verb in ("rotate", "suspend", "revoke"):
        assert viewer.post(f"/keys/{key.pk}/{verb}", {"reason": "odd"}).status_code == 403


def test_rotation_is_started_once_per_idempotency_key(operator: Caller) -> None:
    from keyguard.models import KeyAct
    from workflows.models import Run

    key = make("treasury")
    body = {"reason": "once a year", "fund_wei": "1000000000000000000"}
    first = operator.post(f"/keys/{key.pk}/rotate", body, key="k1")
    assert first.status_code == 202
    run = first.json()["run"]
    assert (run["workflow"], run["input"]["key_id"]) == ("key.rotate", str(key.pk))
    assert first.json()["question_id"] is None
    assert operator.post(f"/keys/{key.pk}/rotate", body, key="k1").json() == first.json()
    assert Run.objects.get().input["fund_wei"] == "1000000000000000000"
    assert KeyAct.objects.get().details == {"run": run["id"]}
    assert operator.post(f"/keys/{key.pk}/rotate", body, key=None).status_code == 400
    assert operator.post(f"/keys/{key.pk}/rotate", {**body, "backend": "moon"}).status_code == 422


def test_rotation_waits_for_others_where_a_group_is_named(operator: Caller, settings: Any) -> None:
    from keyguard.policies import publishing
    from keyguard.policies.models import Question
    from tests.integration.keyguard.policies import person
    from workflows.models import Run

    settings.KEYGUARD_OPERATIONS_GROUP = "officers"
    key = make("treasury")
    answer = operator.post(f"/keys/{key.pk}/rotate", {"reason": "once a year"})
    assert answer.status_code == 202
    question = Question.objects.get()
    assert answer.json() == {"run": None, "question_id": str(question.pk)}
    assert not Run.objects.exists()
    publishing.vote(question, person("bob", "officers"), True, question.content_hash)
    run = Run.objects.get()
    assert (run.workflow, run.input["key_id"]) == ("key.rotate", str(key.pk))
    assert run.input["actor"].endswith(", bob")


def test_document_describes_the_keys(viewer: Caller) -> None:
    document = viewer.get("/openapi.json").json()
    assert {"/api/v1/keys", "/api/v1/keys/{key_id}", "/api/v1/keys/{key_id}/rotate"} <= set(document["paths"])
    parameters = document["paths"]["/api/v1/keys"]["post"]["parameters"]
    assert any(one["name"] == "Idempotency-Key" and one["required"] for one in parameters)
