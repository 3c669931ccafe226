"""A rehearsal as a page shows it: which requests of the past a version of the policy would decide otherwise."""

from typing import Any

from django.template.loader import render_to_string

from keyguard.models import SigningRecord
from keyguard.policies import describing, publishing
from keyguard.policies.deciding import active_policy
from keyguard.policies.facts import shown
from keyguard.policies.models import Policy
from keyguard.policies.publishing import Difference
from keyguard.states import RecordState
from workflows.cells import link

SHOWN = 200


def rehearsal_table(policy: Policy) -> str:
    """Return the differences, as a page shows them."""
    active, found = active_policy(), publishing.rehearse(policy)
    known = describing.known_functions(policy.body)
    known |= describing.known_functions(active.body) if active else {}
    asked = SigningRecord.objects.exclude(state=RecordState.INTENT).order_by("-created_at")
    rows = [_row(one, describing.request(shown(one.facts), known)) for one in found[:SHOWN]]
    changed = [(one.before.allowed, one.after.allowed) for one in found]
    context = {
        "active": active,
        "rows": rows,
        "more": len(found) - len(rows),
        "looked_at": asked[: publishing.REHEARSED].count(),
        "total": len(found),
        "stricter": changed.count((True, False)),
        "looser": changed.count((False, True)),
        "other": changed.count((True, True)) + changed.count((False, False)),
    }
    return render_to_string("console/rehearsal.html", context)


def _row(one: Difference, words: str) -> dict[str, Any]:
    return {
        "at": one.record.created_at,
        "link": link("admin:keyguard_signingrecord_change", one.record.pk, words),
        "before": describing.verdict(one.before),
        "after": describing.verdict(one.after),
        "was_denied": not one.before.allowed,
        "is_denied": not one.after.allowed,
    }
