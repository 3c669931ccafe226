"""Words that no rule knows, and the rules that operators make of them while everything runs."""

from collections.abc import Iterator
from typing import Any

import pytest

from signer import error_rules, unknown_texts
from signer.errors import RpcNodeError
from signer.models import ErrorRule, Incident, UnknownText
from signer.rpc_errors import ErrorClass, classify
from signer.states import IncidentKind
from tests.integration.signer.lying_node import Call, LyingNode, says
from tests.integration.signer.stage import Stage, wait
from tests.threads import at_once

SEND = "eth_sendRawTransaction"
ODD = "the moon is in house 7 for 0x" + "ab" * 20


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What the cache of the rules takes for the time; put forward by hand."""
    now = [0.0]
    monkeypatch.setattr(error_rules, "monotonic", lambda: now[0])
    error_rules.forget()
    yield now
    error_rules.forget()


def rule(pattern: str, error_class: str, **fields: Any) -> ErrorRule:
    return ErrorRule.objects.create(
        pattern=pattern, error_class=error_class, note="as tested", created_by="ada", **fields
    )


def state(row: Any) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


@pytest.mark.case("S43")
def test_unknown_text_is_possibly_sent_and_counted_and_told_once(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, resend_seconds=0)
    row = manual.submit()
    liar.lie = says(SEND, ODD)
    for _ in range(3):
        manual.drain()
    assert state(row) == ("BROADCASTING", "POSSIBLY_SENT")
    [attempt] = manual.attempts(row.pk)  # the same bytes again
    text = UnknownText.objects.get()
    assert (text.text, text.host) == ("the moon is in house <n> for <address>", "127.0.0.1")
    assert text.count == attempt.send_count >= 3
    assert text.sample == ODD
    incident = Incident.objects.get(kind=IncidentKind.UNKNOWN_ERROR)
    assert (incident.chain_id, incident.closed_at) == (31337, None)
    assert "the moon is in house" in incident.text


@pytest.mark.case("S43")
def test_rule_of_an_operator_is_live_without_a_restart(
    manual: Stage, liar: LyingNode, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, resend_seconds=0)
    row = manual.submit()
    liar.lie = says(SEND, ODD)
    manual.drain()
    rule(r"moon is in house \d+", "KNOWN", chain=manual.chain)
    manual.drain()
    assert manual.attempts(row.pk)[0].state == "SIGNED", "this process has not read the rules again yet"
    clock[0] += error_rules.CACHE_SECONDS
    manual.drain()
    assert (manual.attempts(row.pk)[0].state, state(row)) == ("SENT", ("BROADCASTING", ""))
    assert unknown_texts.close_known("a rule", "ada") == 1
    incident = Incident.objects.get()
    assert (incident.closed_because, incident.closed_by) == ("a rule", "ada")


@pytest.mark.case("S44")
def test_another_wording_for_a_duplicate_clogs_nothing(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node has the bytes and says so in new words: their hash, and not the words, decides."""
    wait(monkeypatch, resend_seconds=0)

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] != SEND:
            return None
        if call["params"][0] not in liar.raw:
            liar.raw.append(call["params"][0])
            manual.rpc(SEND, call["params"][0])
        return {"error": {"code": -32000, "message": "we have met this one before"}}

    liar.lie = lie
    rows = [manual.submit() for _ in range(3)]
    for _ in range(2):
        manual.drain()
    assert len(liar.raw) == 3
    manual.mine()
    manual.settle()
    assert [state(row) for row in rows] == [("COMPLETED", "")] * 3
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 3
    liar.lie = None
    later = manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(later) == ("COMPLETED", "")


@pytest.mark.case("S43")
def test_unknown_words_of_an_estimate_are_counted_too(manual: Stage, liar: LyingNode) -> None:
    row = manual.submit()
    liar.lie = says("eth_estimateGas", ODD)
    manual.drain()
    assert state(row) == ("QUEUED", "ESTIMATE_UNCLEAR")
    assert UnknownText.objects.get().count == 1
    rule("moon is in house", "PERMANENT")
    error_rules.forget()
    manual.drain()
    row.refresh_from_db()
    assert (row.state, row.nonce) == ("FAILED", None)


def test_rule_for_what_is_never_accepted_has_a_no_op_take_the_nonce(manual: Stage, liar: LyingNode) -> None:
    rule("moon is in house", "PERMANENT")
    row = manual.submit()
    liar.lie = says(SEND, ODD, times=1)
    manual.drain()
    assert [attempt.purpose for attempt in manual.attempts(row.pk)] == ["PAYLOAD", "NOOP"]
    manual.mine()
    manual.watch()
    assert state(row)[0] == "FAILED"
    assert not UnknownText.objects.exists()


def test_rules_come_in_their_order_before_the_table_and_for_their_chain(manual: Stage) -> None:
    said = RpcNodeError("nonce too low, said the moon")
    rule("moon", "LIMIT", position=20)
    rule("moon", "RATE", position=10, active=False)
    assert classify(said, error_rules.of_chain(31337)) is ErrorClass.LIMIT
    rule("moon", "FUNDS", position=10, chain=manual.chain)
    error_rules.forget()
    assert classify(said, error_rules.of_chain(31337)) is ErrorClass.FUNDS
    assert classify(said, error_rules.of_chain(1)) is ErrorClass.LIMIT
    assert classify(said) is ErrorClass.NONCE_LOW


def test_broken_rules_are_passed_over_and_sending_goes_on(stage: Stage) -> None:
    """Written past the form: one is no expression, one takes for ever on what the node says."""
    rule("[", "PERMANENT", position=1)
    rule("(a|aa)+$", "PERMANENT", position=2)
    rule("b!$", "KNOWN", position=3)
    rules = error_rules.of_chain(31337)
    assert classify(RpcNodeError("a" * 900 + "b!"), rules) is ErrorClass.KNOWN
    row = stage.submit()
    stage.settle()
    assert state(row)[0] == "COMPLETED"


def test_without_the_database_the_last_rules_go_on(
    stage: Stage, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import OperationalError

    rule("moon", "KNOWN")
    assert len(error_rules.of_chain(31337)) == 1

    def away() -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(error_rules, "read_rules", away)
    clock[0] += error_rules.CACHE_SECONDS
    assert len(error_rules.of_chain(31337)) == 1


def test_failure_to_count_fails_nothing(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no counting today")

    monkeypatch.setattr(unknown_texts, "_count", fail)
    row = manual.submit()
    liar.lie = says(SEND, ODD)
    manual.drain()
    assert state(row) == ("BROADCASTING", "POSSIBLY_SENT")
    assert manual.attempts(row.pk)[0].last_error_message == ODD


@pytest.mark.sqlite_too
def test_texts_are_counted_exactly_by_any_number_at_once(stage: Stage) -> None:
    at_once(6, lambda number: unknown_texts.note(stage.chain, [RpcNodeError(f"odd {number}")] * 3))
    assert list(UnknownText.objects.values_list("text", "count")) == [("odd <n>", 18)]
    assert Incident.objects.filter(closed_at__isnull=True).count() == 1


@pytest.mark.sqlite_too
def test_a_node_that_always_says_something_else_fills_no_database(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unknown_texts, "UPSERT", unknown_texts.UPSERT.replace("< 500", "< 3"))
    words = ["one", "two", "three", "four", "five", "one"]
    unknown_texts.note(stage.chain, [RpcNodeError(word) for word in words])
    assert sorted(UnknownText.objects.values_list("text", "count")) == [("one", 2), ("three", 1), ("two", 1)]
    unknown_texts.note(stage.chain, [RpcNodeError("two")])
    assert UnknownText.objects.get(text="two").count == 2


def test_text_that_comes_back_after_its_rule_is_gone_is_told_again(stage: Stage) -> None:
    unknown_texts.note(stage.chain, [RpcNodeError(ODD)])
    row = rule("moon", "KNOWN")
    unknown_texts.close_known("a rule")
    row.delete()
    unknown_texts.note(stage.chain, [RpcNodeError(ODD)])
    assert Incident.objects.filter(closed_at__isnull=True).count() == 1
    assert Incident.objects.count() == 2


@pytest.mark.parametrize(
    ("pasted", "shown"),
    [
        ("nonce too low", "NONCE_LOW"),
        ('{"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "already known"}}', "KNOWN"),
        ('{"code": -32603, "message": "x", "data": {"message": "txpool is full"}}', "LIMIT"),
        ('[{"id": 1, "result": "0x1"}, {"id": 2, "error": {"code": 1, "message": "the moon"}}]', "RATE"),
        ("execution reverted: the moon", "PERMANENT: a revert"),
        ("never heard", "AMBIGUOUS: no rule knows it"),
        ("[]", "AMBIGUOUS"),
        ("{", "AMBIGUOUS"),
        ('{"error": null}', "AMBIGUOUS"),
    ],
)
def test_what_a_person_pastes_is_read_as_an_answer_would_be(pasted: str, shown: str) -> None:
    moon = error_rules.OperatorRule.of(ErrorRule(pattern="the moon", error_class="RATE"))
    assert str(error_rules.read_pasted(pasted, [moon])).startswith(shown)
