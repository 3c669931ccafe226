"""Rules as data, and their verdicts."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_hash.auto import keccak

from keyguard.authorizations import Authorization
from keyguard.calls import Call
from keyguard.errors import FloorError, PolicyInvalidError
from keyguard.ethereum import DYNAMIC_FEE, UnsignedTransaction
from keyguard.policies.facts import Facts, What, facts_of_content
from keyguard.policies.judging import NOT_ALLOWED, UNREADABLE, Verdict, judge
from keyguard.policies.rules import parse
from keyguard.typed_data import decode_typed_data

ADDRESS = "0x" + "aa" * 20
TOKEN, OTHER = "0x" + "11" * 20, "0x" + "22" * 20
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday
TRANSFER = "transfer(address to, uint256 amount)"


def call(signature: str, *values: Any, to: str = TOKEN, value: int = 0, chain: int = 1) -> Facts:
    types = signature[signature.index("(") + 1 : -1].split(",")
    kinds = [one.strip().split(" ")[0] for one in types if one]
    name = signature[: signature.index("(")]
    data = keccak(f"{name}({','.join(kinds)})".encode())[:4] + encode(kinds, values)
    return facts(to=to, value=value, data=data, chain=chain)


def facts(
    to: str = TOKEN, value: int = 0, data: bytes = b"", chain: int = 1, caller: str = "", at: datetime = NOON
) -> Facts:
    content = UnsignedTransaction(
        DYNAMIC_FEE, chain, 0, 100_000, bytes.fromhex(to[2:]), value, data, 0, 10**9, 10**9
    )
    return facts_of_content(content, "payments/euro", ADDRESS, caller, at)


def typed(primary: str = "Order", **message: Any) -> Facts:
    fields = [
        {"name": name, "type": "uint256" if isinstance(one, int) else "address"}
        for name, one in message.items()
    ]
    document = {
        "types": {primary: fields},
        "primaryType": primary,
        "domain": {"name": "Exchange", "chainId": 1, "verifyingContract": TOKEN},
        "message": message,
    }
    return facts_of_content(decode_typed_data(document), "payments/euro", ADDRESS, "", NOON)


def verdict(asked: Facts, *rules: dict[str, Any]) -> Verdict:
    return judge(parse({"rules": list(rules)}), asked)


def allow(**when: Any) -> dict[str, Any]:
    return {"name": "allow " + str(sorted(when)), "effect": "allow", "when": when}


def deny(**when: Any) -> dict[str, Any]:
    return {"name": "deny", "effect": "deny", "when": when}


CALLS = allow(what=["call"], function="any")
EVERYTHING: Sequence[dict[str, Any]] = (
    allow(what=["payment", "creation", "delegation", "message"]),
    allow(what=["call", "allowance"], function="any"),
    allow(what=["typed_data", "allowance"], primary_type="any"),
)


@pytest.mark.case("K40")
def test_nothing_is_allowed_that_no_rule_allows() -> None:
    assert verdict(facts(value=1)) == Verdict(False, "", NOT_ALLOWED)
    assert not verdict(facts(value=1), CALLS).allowed
    assert verdict(facts(value=1), allow(what=["payment"])).allowed


def test_a_no_op_that_frees_a_nonce_needs_no_rule_and_can_be_denied() -> None:
    nothing = facts(to=ADDRESS)
    assert nothing.what == What.NOOP
    assert verdict(nothing).allowed
    assert not verdict(nothing, deny(what=["noop"])).allowed
    assert facts(to=ADDRESS, value=1).what == What.PAYMENT
    assert facts(to=ADDRESS, data=b"\x01\x02\x03\x04").what == What.CALL


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (call("approve(address,uint256)", OTHER, 1), What.ALLOWANCE),
        (call("setApprovalForAll(address,bool)", OTHER, True), What.ALLOWANCE),
        (call("increaseAllowance(address,uint256)", OTHER, 1), What.ALLOWANCE),
        (call("transfer(address,uint256)", OTHER, 1), What.CALL),
        (facts(to="0x", data=b"\x60\x00"), What.CREATION),
        (typed("PermitSingle", spender=OTHER), What.ALLOWANCE),
        (typed("Order", amount=1), What.TYPED_DATA),
        (facts_of_content(Authorization(1, bytes(20), 0), "k", ADDRESS, "", NOON), What.DELEGATION),
        (facts_of_content(b"hello", "k", ADDRESS, "", NOON), What.MESSAGE),
    ],
)
def test_what_hands_out_a_right_is_not_taken_for_an_ordinary_call(asked: Facts, what: What) -> None:
    assert asked.what == what
    assert verdict(asked, *EVERYTHING).allowed
    others = [
        kind.value
        for kind in What
        if kind not in (what, What.NOOP, What.CALL, What.ALLOWANCE, What.TYPED_DATA)
    ]
    rules = [allow(what=others), *([CALLS] if what != What.CALL else [])]
    assert not verdict(asked, *rules).allowed


@pytest.mark.case("K40")
def test_one_rule_that_denies_is_enough_wherever_it_stands() -> None:
    asked = facts(value=5)
    for order in itertools.permutations([allow(what=["payment"]), deny(value={"at_least": 5})]):
        assert verdict(asked, *order).rule == "deny"
    assert verdict(facts(value=4), allow(what=["payment"]), deny(value={"at_least": 5})).allowed


@pytest.mark.parametrize(
    ("when", "fits", "differs"),
    [
        ({"chain": [1, 5]}, facts(value=1), facts(value=1, chain=2)),
        ({"key": ["payments/*"]}, facts(value=1), None),
        ({"key": [ADDRESS.upper().replace("X", "x")]}, facts(value=1), None),
        ({"key": ["treasury/*"]}, None, facts(value=1)),
        ({"to": [TOKEN.upper().replace("X", "x")]}, facts(value=1), facts(to=OTHER, value=1)),
        ({"caller": ["team-a/*"]}, facts(value=1, caller="team-a/x"), facts(value=1, caller="team-b")),
        ({"value": {"at_most": "1000000000000000000"}}, facts(value=10**18), facts(value=10**18 + 1)),
        ({"gas_cost": {"at_most": 10**14}}, facts(value=1), None),
        ({"gas_cost": {"at_most": 10**14 - 1}}, None, facts(value=1)),
        (
            {"hours": {"zone": "UTC", "from": "08:00", "to": "18:00"}},
            facts(value=1),
            facts(value=1, at=NOON.replace(hour=18)),
        ),
        (
            {"hours": {"zone": "UTC", "from": "22:00", "to": "06:00"}},
            facts(value=1, at=NOON.replace(hour=23)),
            facts(value=1),
        ),
        (
            {"hours": {"zone": "UTC", "days": ["mon"]}},
            facts(value=1),
            facts(value=1, at=NOON.replace(day=24)),
        ),
        ({"hours": {"zone": "Asia/Tokyo", "from": "20:00", "to": "22:00"}}, facts(value=1), None),
    ],
)
def test_conditions_of_a_payment(when: dict[str, Any], fits: Facts | None, differs: Facts | None) -> None:
    rule = allow(what=["payment"], **when)
    assert fits is None or verdict(fits, rule).allowed
    assert differs is None or not verdict(differs, rule).allowed


def test_arguments_are_read_from_the_data_itself() -> None:
    rule = allow(
        what=["call"], function=[TRANSFER], arguments={"to": {"in": [OTHER]}, "amount": {"at_most": 100}}
    )
    assert verdict(call("transfer(address,uint256)", OTHER, 100), rule).allowed
    assert not verdict(call("transfer(address,uint256)", OTHER, 101), rule).allowed
    assert not verdict(call("transfer(address,uint256)", ADDRESS, 1), rule).allowed
    assert not verdict(call("burn(address,uint256)", OTHER, 1), rule).allowed


@pytest.mark.case("K42")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            keccak(b"multicall(bytes[])")[:4] + encode(["bytes[]"], [[b"\xa9\x05\x9c\xbb"]]), id="multicall"
        ),
        pytest.param(keccak(b"execute(address,uint256,bytes)")[:4] + bytes(96), id="proxy"),
        pytest.param(keccak(b"transfer(address,uint256)")[:3], id="three bytes"),
        pytest.param(
            keccak(b"approve(address,uint256)")[:4] + encode(["address", "uint256"], [OTHER, 1]), id="approve"
        ),
    ],
)
def test_what_wraps_or_resembles_an_allowed_call_is_not_that_call(data: bytes) -> None:
    rules = (allow(what=["call"], function=[TRANSFER], to=[TOKEN]), allow(what=["payment"]))
    assert not verdict(facts(data=data), *rules).allowed
    assert not verdict(facts(to="0x", data=data), *rules).allowed
    assert not verdict(call("transfer(address,uint256)", OTHER, 1, to=OTHER), *rules).allowed
    assert verdict(call("transfer(address,uint256)", OTHER, 1), *rules).allowed


MIXED = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"


@pytest.mark.case("K42")
def test_address_in_capitals_in_a_rule_is_refused_where_it_has_a_checksum_and_means_the_same_elsewhere() -> (
    None
):
    capitals = f"0x{MIXED[2:].upper()}"
    for rule in (allow(what=["payment"], to=[capitals]), deny(to=[MIXED, capitals])):
        with pytest.raises(PolicyInvalidError, match="is no address"):
            parse({"rules": [rule]})
    asked = call("transfer(address,uint256)", MIXED, 1)
    for written in (MIXED, MIXED.lower(), capitals):
        about = {"function": [TRANSFER], "arguments": {"to": {"in": [written]}}}
        assert verdict(asked, allow(what=["call"], **about)).allowed
        assert verdict(asked, CALLS, deny(**about)).rule == "deny"
        others = {"function": [TRANSFER], "arguments": {"to": {"not_in": [written]}}}
        assert not verdict(asked, allow(what=["call"], **others)).allowed


@pytest.mark.case("K42")
def test_address_in_capitals_in_typed_data_is_refused_before_any_rule_reads_it() -> None:
    rule = allow(what=["typed_data"], primary_type=["Order"], fields={"spender": {"in": [MIXED.lower()]}})
    assert verdict(typed(spender=MIXED), rule).allowed
    with pytest.raises(FloorError):
        typed(spender=f"0x{MIXED[2:].upper()}")


@pytest.mark.case("K43")
def test_largest_amount_is_an_amount() -> None:
    rule = allow(what=["call"], function=[TRANSFER], arguments={"amount": {"at_most": 2**256 - 2}})
    assert verdict(call("transfer(address,uint256)", OTHER, 2**256 - 2), rule).allowed
    assert not verdict(call("transfer(address,uint256)", OTHER, 2**256 - 1), rule).allowed


@pytest.mark.case("K43")
def test_texts_whose_place_in_the_data_is_not_the_usual_one_are_not_read() -> None:
    note = "note(string text)"
    usual = encode(["string"], ["hello"])
    moved = (64).to_bytes(32) + bytes(32) + usual[32:]
    selector = keccak(b"note(string)")[:4]
    rule = allow(what=["call"], function=[note], arguments={"text": {"is": "hello"}})
    assert verdict(facts(data=selector + usual), rule).allowed
    assert not verdict(facts(data=selector + moved), rule).allowed
    assert not verdict(
        facts(data=selector + moved), CALLS, deny(function=[note], arguments={"text": {"is": "x"}})
    ).allowed


@pytest.mark.case("K42", "K43")
def test_data_that_cannot_be_read_is_never_allowed_by_a_rule_about_it_and_always_meant_by_one_that_denies() -> (
    None
):
    selector = keccak(b"transfer(address,uint256)")[:4]
    about = {"function": [TRANSFER], "arguments": {"amount": {"at_least": 100}}}
    whole = encode(["address", "uint256"], [OTHER, 1])
    for body in (b"", b"\x01" * 31, whole + b"\x00", b"\xff" * 64, b"\x01" + whole[1:]):
        asked = facts(data=selector + body)
        assert not verdict(asked, allow(what=["call"], **about)).allowed
        assert verdict(asked, CALLS).allowed
        denied = verdict(asked, CALLS, deny(**about))
        assert (denied.allowed, denied.why) == (False, UNREADABLE)


def test_a_call_that_is_carried_beside_delegations_is_still_that_call_to_a_rule_that_denies() -> None:
    inner = call("transfer(address,uint256)", OTHER, 1)
    carried = Facts(What.DELEGATION, "k", ADDRESS, "", NOON, 1, TOKEN, data=inner.data)
    assert not verdict(carried, *EVERYTHING, deny(function=[TRANSFER])).allowed


def test_fields_and_domain_of_typed_data() -> None:
    rule = allow(
        what=["typed_data"],
        primary_type=["Order"],
        domain={"name": {"is": "Exchange"}},
        fields={"amount": {"at_most": 10}},
    )
    assert verdict(typed(amount=10), rule).allowed
    assert not verdict(typed(amount=11), rule).allowed
    assert not verdict(typed("Cancel", amount=1), rule).allowed
    assert not verdict(typed(price=1), rule).allowed, "it has no such field"
    assert not verdict(typed(price=1), *EVERYTHING, deny(fields={"amount": {"at_least": 5}})).allowed


def test_what_a_custody_is_to_execute_has_no_known_cost_without_its_hints() -> None:
    content = Call(1, bytes.fromhex(TOKEN[2:]), 1, b"")
    asked = facts_of_content(content, "k", ADDRESS, "", NOON)
    assert not verdict(asked, allow(what=["payment"], gas_cost={"at_most": 10**18})).allowed
    assert verdict(asked, allow(what=["payment"])).allowed


def test_approvals_are_asked_for_on_top_of_what_is_allowed_and_allow_nothing_by_themselves() -> None:
    ask = {
        "name": "ask",
        "effect": "require_approval",
        "approvals": 2,
        "group": "treasury",
        "when": {"value": {"at_least": 5}},
    }
    assert not verdict(facts(value=9), ask).allowed
    [need] = verdict(facts(value=9), ask, allow(what=["payment"])).needs
    assert (need.rule, need.approvals, need.group) == ("ask", 2, "treasury")
    assert verdict(facts(value=4), ask, allow(what=["payment"])).needs == ()


def test_limits_say_what_is_to_be_counted_and_deny_what_they_cannot_read() -> None:
    limit = {"of": "arguments.amount", "at_most": 100, "seconds": 60, "each": ["key", "to"]}
    rule = {"name": "day", "effect": "limit", "limit": limit, "when": {"function": [TRANSFER]}}
    [charge] = verdict(call("transfer(address,uint256)", OTHER, 70), rule, CALLS).charges
    assert (charge.amount, charge.at_most, charge.seconds) == (70, 100, 60)
    assert charge.bucket == f"key={ADDRESS}|to={TOKEN}"
    assert not verdict(facts(data=keccak(b"transfer(address,uint256)")[:4]), rule, CALLS).allowed
    assert verdict(call("burn(uint256)", 1), rule, CALLS).charges == ()


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ({"effect": "allow"}, "needs 'name'"),
        ({"name": "x", "effect": "permit"}, "rules[0] (x).effect"),
        ({"name": "x", "effect": "allow", "when": {}}, "when.what: is required"),
        ({"name": "x", "effect": "allow", "whom": {}}, "knows no 'whom'"),
        (allow(what=["call"]), "when.function: is required"),
        (allow(what=["typed_data"]), "when.primary_type: is required"),
        (allow(what=["allowance"]), "needs function or primary_type"),
        (allow(what=["payment", "call"], function="any"), "write two rules"),
        (allow(what=["everything"]), "must be some of"),
        (allow(what=["payment"], to=["0x12"]), "is no address"),
        (allow(what=["payment"], value={"below": 1}), "knows no 'below'"),
        (allow(what=["payment"], value={"at_most": "1e18"}), "decimal digits"),
        (allow(what=["payment"], value={"at_most": 1.5}), "decimal digits"),
        (allow(what=["payment"], value={}), "one or more of"),
        (allow(what=["payment"], chain=["1"]), "chain ids"),
        (allow(what=["payment"], hours={"zone": "Mars"}), "time zone"),
        (allow(what=["call"], function=["transfer(adress)"]), "is no signature"),
        (allow(what=["call"], function=[TRANSFER], arguments={"sum": {"is": 1}}), "has no such argument"),
        (allow(what=["call"], function="any", arguments={"sum": {"is": 1}}), "needs the functions"),
        ({"name": "x", "effect": "require_approval", "group": "a"}, "approvals"),
        ({"name": "x", "effect": "limit"}, "limit: belongs"),
        (
            {"name": "x", "effect": "limit", "limit": {"of": "all", "at_most": 1, "seconds": 1}},
            "must be count",
        ),
        ({"name": "x", "effect": "deny", "approvals": 1}, "belongs to require_approval"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(rule: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyInvalidError) as caught:
        parse({"rules": [rule]})
    assert path in str(caught.value)


def test_two_rules_of_one_name_and_what_is_no_policy_are_refused() -> None:
    for body in ({"rules": [CALLS, CALLS]}, {}, [], {"rules": {}}, {"rules": [], "x": 1}, {"rules": [1]}):
        with pytest.raises(PolicyInvalidError):
            parse(body)
