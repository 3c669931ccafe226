"""What the demo shows of a run."""

from typing import Any

from dalp.local.progress import lines_of


def step(name: str, state: str, **other: Any) -> dict[str, Any]:
    found = {"name": name, "operation_id": f"{name}#0", "state": state, "attempt": 1, "started_at": None}
    return {**found, "finished_at": None, **other}


def sent(hash: str, block: str | None = None, attempts: int = 1) -> dict[str, Any]:
    receipt = {"blockNumber": block, "gasUsed": "0x5208"} if block else None
    return {"hash": hash, "state": "CONFIRMING", "receipt": receipt, "attempts": [{}] * attempts}


def test_steps_to_come_are_shown_as_pending() -> None:
    lines = lines_of({"steps": [step("check", "SUCCEEDED")]}, ["check", "deploy"], {})
    assert [(line.step, line.state) for line in lines] == [("check", "SUCCEEDED"), ("deploy", "PENDING")]


def test_each_of_a_few_transactions_has_a_row_and_a_second_signature_is_told() -> None:
    hashes = ["0x" + "a" * 64, "0x" + "b" * 64]
    transactions = {"mint#0": [sent(hashes[0], "0x10", attempts=2), sent(hashes[1])]}
    first, second = lines_of({"steps": [step("mint", "WAITING")]}, ["mint"], transactions)
    assert (first.block, first.gas, first.attempts) == ("16", "21 000", "1 (+1 signed again)")
    assert (second.step, second.transaction, second.block) == ("", "0x" + "b" * 10 + "…bbbbbb", "")


def test_many_transactions_are_summed_up() -> None:
    transactions = {"deploy#0": [sent("0x1", "0x3"), sent("0x2", "0x5"), sent("0x3", "0x4"), sent("0x4")]}
    (line,) = lines_of({"steps": [step("deploy", "WAITING")]}, ["deploy"], transactions)
    assert (line.transaction, line.block, line.gas) == ("3 of 4 transactions", "3-5", "63 000")


def test_times_are_told_in_seconds() -> None:
    times = {"started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T00:00:02.5+00:00"}
    (line,) = lines_of({"steps": [step("check", "SUCCEEDED", **times)]}, ["check"], {})
    assert line.seconds == "2.5"
