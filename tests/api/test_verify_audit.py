"""verify_audit finds what was altered."""

import io
import json
from typing import Any

import pytest
from django.core.management import call_command

from tests.api.callers import Caller
from workflows.history.seals import seal_events
from workflows.models import Run, Seal, Step


@pytest.fixture(autouse=True)
def no_pause(settings: Any) -> None:
    """Let seals follow one another without a pause."""
    settings.WORKFLOWS = {**settings.WORKFLOWS, "seal_seconds": 0}


def verify(*options: str) -> tuple[dict[str, Any], int]:
    out = io.StringIO()
    try:
        call_command("verify_audit", "--json", *options, stdout=out)
    except SystemExit as ended:
        return json.loads(out.getvalue()), int(str(ended.code))
    return json.loads(out.getvalue()), 0


def test_whole_histories_are_said_to_be_whole(operator: Caller) -> None:
    operator.start()
    report, code = verify()
    assert code == 0
    assert (report["ok"], report["runs"], report["first_fault"]) == (True, 1, None)
    assert (report["events"], report["seals"], report["last_seal"]) == (1, 0, None)
    out = io.StringIO()
    call_command("verify_audit", stdout=out)
    assert out.getvalue().splitlines() == [
        "The histories of 1 runs are whole.",
        "The 0 entries of keyguard's trail are whole.",
    ]


def test_the_last_seal_is_said_and_asked_for_again(operator: Caller) -> None:
    operator.start()
    assert seal_events() == 1
    out = io.StringIO()
    call_command("verify_audit", stdout=out)
    line = out.getvalue().splitlines()[0].partition("--seal ")[2]
    assert line == f"1:{Seal.objects.get().hash}"
    assert verify("--seal", line)[1] == 0
    report, code = verify("--seal", "2:" + "0" * 64)
    assert (code, report["first_fault"]["kind"], report["first_fault"]["number"]) == (1, "seal", 2)


def test_the_first_bad_entry_is_named_when_the_end_was_cut_off(operator: Caller) -> None:
    run_id = operator.start().json()["id"]
    Run.objects.filter(pk=run_id).update(history_seq=5)
    report, code = verify()
    assert (code, report["ok"]) == (1, False)
    assert (report["first_fault"]["kind"], report["first_fault"]["run_id"]) == ("run", run_id)


def test_a_head_that_was_altered_is_found(operator: Caller) -> None:
    run_id = operator.start().json()["id"]
    Run.objects.filter(pk=run_id).update(history_hash="0" * 64)
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("verify_audit", stdout=out)
    assert run_id in out.getvalue()


def test_a_step_that_was_put_in_is_found(operator: Caller) -> None:
    run_id = operator.start().json()["id"]
    Step.objects.create(run_id=run_id, operation_id="gift#0", name="gift", seq=9, state="SUCCEEDED", output=1)
    report, code = verify()
    assert code == 1
    assert "gift#0" in report["first_fault"]["problem"]
