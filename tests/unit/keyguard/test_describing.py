"""Rules, requests and verdicts as sentences."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode

from keyguard.policies import describing
from keyguard.policies.conditions import READERS
from keyguard.policies.facts import shown
from keyguard.policies.judging import Need, Verdict
from keyguard.policies.rules import parse
from tests.unit.keyguard.test_policies import ADDRESS, OTHER, TOKEN, TRANSFER, call, facts, typed

KNOWN = describing.known_functions(
    {
        "rules": [
            {"name": "a", "effect": "deny", "when": {"function": ["transfer(address,uint256)", "burn(uint256 amount)"]}},
            {"name": "b", "effect": "deny", "when": {"function": [TRANSFER]}},
            {"name": "c", "effect": "deny", "when": {"function": "any"}},
            {"name": "d", "effect": "deny"},
        ]
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            {"effect": "allow", "when": {"what": ["call"], "to": [TOKEN], "chain": [1], "function": [TRANSFER],
                                         "arguments": {"amount": {"at_most": "1000000"}}}},
            f"allow calls of {TRANSFER} at {TOKEN} on chain 1 while amount is at most 1000000",
        ),
        (
            {"effect": "allow", "when": {"what": ["payment", "creation", "delegation", "message"]}},
            "allow payments, creations of contracts, delegations (EIP-7702) and messages",
        ),
        (
            {"effect": "allow", "when": {"what": ["call", "allowance"], "function": "any"}},
            "allow calls and allowances of any function",
        ),
        (
            {"effect": "allow", "when": {"what": ["typed_data"], "primary_type": ["Order"], "domain": {"name": {"is": "Exchange"}},
                                         "fields": {"value": {"in": [1, 2]}}}},
            "allow typed data of type Order while the domain's name is Exchange and the field value is one of 1 or 2",
        ),
        (
            {"effect": "allow", "when": {"what": ["payment"], "to": [OTHER], "key": ["hot/*"], "caller": ["team-a"],
                                         "value": {"at_most": "1500000000000000000"}}},
            f"allow payments to {OTHER} by the key hot/* asked for by team-a while the value is at most 1.5 ether (1500000000000000000 wei)",
        ),
        ({"effect": "deny"}, "deny everything"),
        (
            {"effect": "deny", "when": {"function": [TRANSFER], "arguments": {"to": {"not_in": [OTHER]}}}},
            f"deny everything that calls {TRANSFER} while to is none of {OTHER}",
        ),
        (
            {"effect": "deny", "when": {"hours": {"zone": "Europe/Berlin", "from": "22:00", "to": "06:00", "days": ["sat", "sun"]}}},
            "deny everything from 22:00 to 06:00 on sat and sun in Europe/Berlin",
        ),
        (
            {"effect": "require_approval", "approvals": 2, "group": "treasury", "when": {"gas_cost": {"at_least": 1}}},
            "have 2 members of treasury approve everything while the gas cost is at least 0.000000000000000001 ether (1 wei)",
        ),
        (
            {"effect": "limit", "limit": {"of": "arguments.amount", "at_most": "20", "seconds": 86400, "each": ["key", "to"]},
             "when": {"function": [TRANSFER]}},
            f"limit the sum of amount over everything that calls {TRANSFER} to 20 within 24 hours, for each key and target apart",
        ),
        (
            {"effect": "limit", "limit": {"of": "count", "at_most": 3, "seconds": 90, "each": []}, "when": {"what": ["payment"]}},
            "limit the number of payments to 3 within 90 seconds, for all together",
        ),
    ],
)  # fmt: skip
def test_a_rule_reads_as_one_sentence(rule: dict[str, Any], words: str) -> None:
    assert parse({"rules": [{"name": "rule", **rule}]}), "only what may be put in force is described"
    assert describing.sentence({"name": "rule", **rule}) == words


def test_the_policy_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "policies.md").read_text()
    example = "".join(line for line in page.split("\n\n")[2].splitlines(keepends=True))
    body = json.loads(example)
    assert [rule.effect for rule in parse(body)] == ["allow", "allow", "require_approval", "limit", "deny"]
    rows = re.findall(r"^\| `(\w+)` \| (?:`([{\[].*?[}\]])`(?:, `\"any\"`)? )?\|", page, re.MULTILINE)
    examples = {name: json.loads(text.replace("0x…", TOKEN)) for name, text in rows if text}
    assert set(READERS) == set(examples), "every condition has an example"
    for name, example in examples.items():
        when = {name: example, **({"function": [TRANSFER]} if name == "arguments" else {})}
        assert parse({"rules": [{"name": name, "effect": "deny", "when": when}]})


def test_a_long_list_is_cut_and_says_by_how_much() -> None:
    targets = [f"0x{number:040x}" for number in range(12)]
    rule = {"name": "x", "effect": "deny", "when": {"to": targets}}
    words = describing.sentence(rule)
    assert words.endswith("or 7 more")
    assert targets[4] in words
    assert targets[5] not in words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (90, "90 seconds"),
        (3600, "1 hour"),
        (86_400, "24 hours"),
        (604_800, "7 days"),
        (86_460, "1441 minutes"),
    ],
)
def test_times_are_told_in_whole_units(seconds: int, words: str) -> None:
    assert describing.span(seconds) == words


def test_no_wei_is_lost() -> None:
    assert describing.wei(0) == "0 ether (0 wei)"
    assert describing.wei(10**18 * 3) == "3 ether (3000000000000000000 wei)"
    most = 2**256 - 1
    assert str(most) in describing.wei(most)
    assert describing.wei(most).replace(".", "").startswith(str(most))


def test_a_request_is_told_with_the_names_that_rules_give() -> None:
    asked = shown(call("transfer(address,uint256)", OTHER, 7))
    assert (
        describing.request(asked, KNOWN)
        == f"a call of transfer(to {OTHER}, amount 7) at {TOKEN} on chain 1 by the key payments/euro"
    )
    assert "of selector 0xa9059cbb at" in describing.request(asked, {})
    payment = describing.request(shown(facts(value=10**18)), KNOWN)
    assert (
        payment
        == f"a payment of 1 ether (1000000000000000000 wei) to {TOKEN} on chain 1 by the key payments/euro"
    )
    assert describing.request(shown(typed(amount=1)), KNOWN).startswith(
        "a signature on typed data of type Order"
    )


def test_data_that_is_not_exactly_the_arguments_is_not_told_as_if_it_were() -> None:
    data = bytes.fromhex("a9059cbb") + encode(["address", "uint256"], [OTHER, 1]) + b"\x00"
    asked = shown(facts(data=data))
    read = describing.call_of(asked, KNOWN)
    assert read is not None
    assert read.arguments is None
    assert "whose data cannot be read" in describing.request(asked, KNOWN)
    long = shown(facts(data=data[:-1]))
    assert describing.call_of({**long, "what": "message"}, KNOWN) is None


def test_a_message_with_what_cannot_be_seen_is_shown_as_hex() -> None:
    def said(text: bytes) -> str:
        return describing.message({"data": f"0x{text.hex()}"})

    assert said(b"Sign in\n\tas me") == "Sign in\n\tas me"
    for hidden in ("a\u202eb".encode(), "a\u200bb".encode(), b"a\x00b", b"\xff"):
        assert said(hidden) == f"0x{hidden.hex()}"
    assert describing.one_line("a\u202eb") == '"a\\u202eb"'


def test_verdicts() -> None:
    assert describing.verdict(Verdict(False, "", "no rule allows it")) == "denied: no rule allows it"
    assert (
        describing.verdict(Verdict(False, "night", "the rule denies it"))
        == "denied by night: the rule denies it"
    )
    needs = (Need("big", 2, "treasury"), Need("odd", 1, "risk"))
    assert (
        describing.verdict(Verdict(True, "pay", "", needs))
        == "allowed (pay), after a yes by 2 of treasury (big) and 1 of risk (odd)"
    )


def test_what_becomes_of_each_rule() -> None:
    one, two, three = ({"name": name, "effect": "deny"} for name in ("one", "two", "three"))
    changed = {**two, "when": {"chain": [1]}}
    assert describing.changes([one, two], [three, changed]) == {
        "three": "new",
        "two": "changed",
        "one": "gone",
    }
    assert describing.changes([one, two], [two, one]) == {}


def test_addresses_in_arguments_are_told_whole() -> None:
    assert describing.arguments({"to": ADDRESS, "list": (1, True), "data": b"\x01"}) == [
        ("to", ADDRESS),
        ("list", "[1, true]"),
        ("data", "0x01"),
    ]
