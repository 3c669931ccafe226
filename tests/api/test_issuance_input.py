"""Bad input of an issuance over REST: refused with the field named, and nothing is stored."""

import copy
from typing import Any

import pytest

from dalp.models import IdempotencyRecord
from signer import Transaction
from tests.api.callers import Caller
from workflows.models import Run

pytestmark = pytest.mark.django_db

WALLET = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
GOOD: dict[str, Any] = {
    "chain_id": 31337,
    "name": "Harbour Bond",
    "symbol": "HARB",
    "investors": [{"wallet": WALLET, "amount": "5", "email": "ada@example.org"}],
    "countries": [250],
    "max_balance": "1000",
}


def start(operator: Caller, data: dict[str, Any]) -> Any:
    return operator.post("/workflows/asset.issue/runs", {"input": data})


def changed(path: str, value: object) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = data
    for part in parents:
        place = place[part]
    place[last] = value
    return data


def test_a_good_issuance_is_taken() -> None:
    assert start(Caller("operator"), GOOD).status_code == 202


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("investors.0.wallet", "0x7099"),
        ("investors.0.wallet", WALLET.replace("C51", "c51")),
        ("investors.0.amount", "-5"),
        ("investors.0.amount", 0.5),
        ("investors.0.amount", "1.5"),
        ("investors.0.amount", str(2**256)),
        ("investors", []),
        ("countries.0", 999),
        ("countries.0", "FR"),
        ("max_balance", True),
        ("unheard_of", 1),
        ("name", "x" * 900_000),
    ],
)
def test_bad_input_is_refused_with_its_field_and_nothing_is_stored(path: str, value: object) -> None:
    response = start(Caller("operator"), changed(path, value))
    assert response.status_code == 422, response.content
    assert any(path in field for field in response.json()["errors"]), response.json()
    assert not Run.objects.exists()
    assert not Transaction.objects.exists()
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.parametrize(
    ("body", "status"), [(b"\x00\xff" * 600_000, 413), (b"[" * 900_000, 400), (b"\xff" * 900_000, 400)]
)
def test_a_megabyte_of_junk_is_refused_and_nothing_is_stored(body: bytes, status: int) -> None:
    response = Caller("operator").post("/workflows/asset.issue/runs", body)
    assert response.status_code == status, response.content
    assert not Run.objects.exists()
