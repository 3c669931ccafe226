"""The demo's verdict must notice each way in which a chain can differ from what was asked."""

from collections import Counter
from dataclasses import replace

import pytest

from dalp.local.chain_report import ChainReport, Holding
from dalp.local.demo import units

ASKED = {"name": "Bond", "symbol": "B", "decimals": 2, "amounts": {"0xA": 5, "0xB": 7}}
RIGHT = ChainReport(
    token="0xT",
    name="Bond",
    symbol="B",
    decimals=2,
    supply=12,
    paused=False,
    holdings=[Holding("0xA", 5, 1), Holding("0xB", 7, 1)],
    nonces={"0xS": Counter({0: 1, 1: 1}), "0xQ": Counter()},
)


def test_a_chain_that_shows_what_was_asked_has_no_fault() -> None:
    assert RIGHT.faults(**ASKED) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (replace(RIGHT, paused=True), "paused"),
        (replace(RIGHT, supply=24), "supply"),
        (replace(RIGHT, symbol="C"), "symbol"),
        (replace(RIGHT, holdings=[Holding("0xA", 5, 1), Holding("0xB", 8, 1)]), "holdings"),
        (replace(RIGHT, holdings=[Holding("0xA", 5, 2), Holding("0xB", 7, 1)]), "mints per holder"),
        (replace(RIGHT, nonces={"0xS": Counter({0: 1, 2: 1})}), "transactions per nonce of 0xS"),
    ],
)
def test_each_difference_is_named(wrong: ChainReport, said: str) -> None:
    (fault,) = wrong.faults(**ASKED)
    assert fault.startswith(said)


@pytest.mark.parametrize(
    ("amount", "decimals", "text"),
    [(750025, 2, "7 500.25"), (5, 2, "0.05"), (12, 0, "12"), (10**18, 18, "1." + "0" * 18)],
)
def test_amounts_are_written_without_a_float(amount: int, decimals: int, text: str) -> None:
    assert units(amount, decimals) == text
