import pytest

from dalp.assets.eligibility import Standing, broken_rules

WALLET = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
GOOD = Standing(wallet=WALLET, registered=True, identity=WALLET, country=250, verified=True)


def test_an_eligible_investor_breaks_no_rule() -> None:
    assert broken_rules(GOOD, [276, 250], 1) == []


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"registered": False, "verified": False, "country": 0}, ["not registered, has no identity"]),
        ({"verified": False}, ["no KYC claim of a trusted issuer (topic 1)"]),
        ({"country": 840}, ["country 840 is not in the allow-list [250, 276]"]),
        (
            {"verified": False, "country": 840},
            ["no KYC claim of a trusted issuer (topic 1)", "country 840 is not in the allow-list [250, 276]"],
        ),
    ],
)
def test_each_broken_rule_is_said_with_the_investor(changes: dict[str, object], rules: list[str]) -> None:
    expected = [f"investor {WALLET}: {rule}" for rule in rules]
    assert broken_rules(GOOD.model_copy(update=changes), [276, 250], 1) == expected
