"""The inputs of the three workflows as the API gets them: errors carry the path of the field."""

from typing import Any

import pytest
from pydantic import ValidationError

from dalp.assets.bootstrap import BootstrapInput
from dalp.assets.investors import KycRecord, RegisterInvestorInput, claim_data
from dalp.assets.issuance import IssueAssetInput
from dalp.assets.values import AMOUNT_MAX

WALLETS = ["0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"]


def investor(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"wallet": WALLETS[number], "amount": "500", "email": "a@example.com"} | changes


def bond(**changes: Any) -> dict[str, Any]:
    return {
        "chain_id": 31337,
        "name": "Lab Bond 2030",
        "symbol": "LB30",
        "investors": [investor(0), investor(1)],
        "countries": [250, 276],
        "max_balance": "1000",
    } | changes


def errors_of(data: dict[str, Any]) -> set[str]:
    with pytest.raises(ValidationError) as refused:
        IssueAssetInput.model_validate(data)
    return {".".join(map(str, error["loc"])) for error in refused.value.errors()}


def test_a_good_input_survives_being_stored() -> None:
    issue = IssueAssetInput.model_validate(
        bond(investors=[investor(0, amount=AMOUNT_MAX - 1), investor(1, amount=1)])
    )
    stored = issue.model_dump(mode="json")
    assert stored["investors"][0]["amount"] == str(AMOUNT_MAX - 1)
    assert IssueAssetInput.model_validate(stored) == issue
    assert issue.supply == AMOUNT_MAX


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"investors": []}, "investors"),
        ({"investors": None}, "investors"),
        ({"investors": [investor(0), investor(0)]}, "investors"),
        ({"investors": [investor(0), investor(0, wallet=WALLETS[0].lower())]}, "investors"),
        ({"investors": [investor(0, amount=AMOUNT_MAX), investor(1, amount=1)]}, "investors"),
        ({"investors": [investor(0), investor(1, amount=-5)]}, "investors.1.amount"),
        ({"investors": [investor(0, amount=0.5)]}, "investors.0.amount"),
        ({"investors": [investor(0, amount=True)]}, "investors.0.amount"),
        ({"investors": [investor(0, wallet="0x12")]}, "investors.0.wallet"),
        ({"investors": [investor(0, email="nobody")]}, "investors.0.email"),
        ({"investors": [investor(0, note="x")]}, "investors.0.note"),
        ({"countries": []}, "countries"),
        ({"countries": [250, 250]}, "countries"),
        ({"countries": [250, 999]}, "countries.1"),
        ({"max_balance": 0}, "max_balance"),
        ({"decimals": 19}, "decimals"),
        ({"decimals": True}, "decimals"),
        ({"symbol": "lower"}, "symbol"),
        ({"name": "x" * 1_000_000}, "name"),
        ({"surprise": 1}, "surprise"),
        ({"chain_id": "31337"}, "chain_id"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, Any], field: str) -> None:
    assert errors_of(bond(**changes)) == {field}


def test_at_most_fifty_investors_receive_the_first_supply() -> None:
    many = [investor(0, wallet=f"0x{number:040x}") for number in range(1, 52)]
    assert IssueAssetInput.model_validate(bond(investors=many[:50])).supply == 25_000
    assert errors_of(bond(investors=many)) == {"investors"}


def test_every_missing_field_is_named() -> None:
    assert errors_of({}) == {"chain_id", "name", "symbol", "investors", "countries", "max_balance"}


def test_the_other_inputs_refuse_unknown_fields_too() -> None:
    with pytest.raises(ValidationError, match="extra"):
        BootstrapInput.model_validate(
            {"chain_id": 1, "deployer": "a", "claim_issuer": "b", "claim_signer": "c", "extra": 1}
        )
    kyc = {"provider": "P", "reference": "r", "checked_on": "2026-01-02"}
    good = {"chain_id": 1, "wallet": WALLETS[0], "country": 250, "kyc": kyc}
    stored = RegisterInvestorInput.model_validate(good).model_dump(mode="json")
    assert RegisterInvestorInput.model_validate(stored).wallet == WALLETS[0]
    with pytest.raises(ValidationError, match="kyc"):
        RegisterInvestorInput.model_validate(good | {"kyc": kyc | {"passport": "X"}})


def test_a_claim_made_anew_is_another_claim() -> None:
    """A revoked signature is revoked for ever, so the next registration must not produce the same one."""
    kyc = KycRecord.model_validate({"provider": "P", "reference": "r", "checked_on": "2026-01-02"})
    assert claim_data(kyc, "run 1") != claim_data(kyc, "run 2")
    assert claim_data(kyc, "run 1") == claim_data(kyc, "run 1")
    assert len(claim_data(kyc, "run 1")) == 32
