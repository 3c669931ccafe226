"""verify_audit finds what was altered."""

import io
import json

import pytest
from django.core.management import call_command

from tests.api.callers import Caller
from workflows.models import Run


def verify() -> tuple[dict[str, object], int]:
    out = io.StringIO()
    try:
        call_command("verify_audit", "--json", stdout=out)
    except SystemExit as ended:
        return json.loads(out.getvalue()), int(str(ended.code))
    return json.loads(out.getvalue()), 0


def test_whole_histories_are_said_to_be_whole(operator: Caller) -> None:
    operator.start()
    found, code = verify()
    assert code == 0
    assert {"ok": True, "runs": 1, "first_fault": None}.items() <= found.items()
    out = io.StringIO()
    call_command("verify_audit", stdout=out)
    assert out.getvalue() == "The histories of 1 runs are whole.\n"


def test_the_first_bad_entry_is_named_when_the_end_was_cut_off(operator: Caller) -> None:
    run_id = operator.start().json()["id"]
    Run.objects.filter(pk=run_id).update(history_seq=5)
    report, code = verify()
    assert (code, report["ok"]) == (1, False)
    assert report["first_fault"]["run_id"] == run_id  # type: ignore[index]


def test_a_head_that_was_altered_is_found(operator: Caller) -> None:
    run_id = operator.start().json()["id"]
    Run.objects.filter(pk=run_id).update(history_hash="0" * 64)
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("verify_audit", stdout=out)
    assert run_id in out.getvalue()
