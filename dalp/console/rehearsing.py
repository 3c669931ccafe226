"""A rehearsal as a page shows it: which requests of the past a version of the policy would decide otherwise."""

from typing import Any

from django.template.loader import render_to_string

from keyguard.policies import describing, rehearsing
from keyguard.policies.deciding import active_policy
from keyguard.policies.facts import shown
from keyguard.policies.models import Policy, Question
from keyguard.policies.rehearsing import Difference
from workflows.cells import link

SHOWN = 200


def rehearsal_table(policy: Policy) -> str:
    """Return the differences, as a page shows them."""
    active, rehearsal = active_policy(), rehearsing.rehearse(policy)
    found = rehearsal.differences
    known = describing.known_functions(policy.body)
    known |= describing.known_functions(active.body) if active else {}
    rows = [_row(one, describing.request(shown(one.request.facts), known)) for one in found[:SHOWN]]
    changed = [(one.before.allowed, one.after.allowed) for one in found]
    context = {
        "active": active,
        "rows": rows,
        "more": len(found) - len(rows),
        "looked_at": rehearsal.looked_at,
        "total": len(found),
        "stricter": changed.count((True, False)),
        "looser": changed.count((False, True)),
        "other": changed.count((True, True)) + changed.count((False, False)),
    }
    return render_to_string("console/rehearsal.html", context)


def _row(one: Difference, words: str) -> dict[str, Any]:
    row = one.request.row
    return {
        "at": one.request.at,
        "link": link(f"admin:keyguard_{row._meta.model_name}_change", row.pk, words),
        "waits": isinstance(row, Question),
        "before": describing.verdict(one.before),
        "after": describing.verdict(one.after),
        "was_denied": not one.before.allowed,
        "is_denied": not one.after.allowed,
    }
