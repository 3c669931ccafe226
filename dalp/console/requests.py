"""Requests to sign as people read them: on the page of a question, and in a rehearsal."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.template.loader import render_to_string

from keyguard.policies import describing
from keyguard.policies.facts import What
from keyguard.policies.functions import Signature
from keyguard.policies.models import Policy
from signer.models import Transaction
from workflows.cells import link

KEPT = 32
_functions: dict[UUID, Mapping[bytes, Signature]] = {}


def request_table(shown: Mapping[str, Any], known: Mapping[bytes, Signature]) -> str:
    """Return a request with all that is known of it. known: the functions that the policy's rules name."""
    what = What(shown["what"])
    rows = [
        ("What", describing.ONE[what]),
        ("Key", f"{shown['key']}, {shown['address']}"),
        ("Chain", "none" if shown["chain"] is None else str(shown["chain"])),
        ("To", shown["to"] or "nobody"),
        ("Value", describing.wei(int(shown["value"]))),
        (
            "Gas, at most",
            "not known" if shown["gas_cost"] is None else describing.wei(int(shown["gas_cost"])),
        ),
    ]
    if what in (What.MESSAGE, What.TYPED_DATA) or shown["primary_type"]:
        rows = rows[:2] if what == What.MESSAGE else rows[:4]
    return render_to_string(
        "console/request.html",
        {
            "words": describing.request(shown, known),
            "rows": [*rows, *_call(shown, known)],
            "blocks": _blocks(shown, what),
        },
    )


def _call(shown: Mapping[str, Any], known: Mapping[bytes, Signature]) -> list[tuple[str, str]]:
    if shown["what"] == What.MESSAGE or shown["data"] in ("", "0x"):
        return []
    length = len(shown["data"]) // 2 - 1
    if not shown["to"]:
        return [("Code", f"{length} bytes")]
    call = describing.call_of(shown, known)
    if call is None:
        selector = shown["data"][:10] if length >= 4 else "none"
        return [("Function", f"unknown: no rule names it; selector {selector}, {length} bytes")]
    if call.arguments is None:
        return [("Function", f"{call.function}, but its data is not exactly those arguments")]
    given = [(f"… {name}", text) for name, text in describing.arguments(call.arguments)]
    return [("Function", call.function), *given]


def _blocks(shown: Mapping[str, Any], what: What) -> list[tuple[str, str]]:
    if what == What.MESSAGE:
        return [("The message", describing.message(shown))]
    if shown["primary_type"]:
        # Not as it is: a character that turns or hides others is written out.
        parts = {"Domain": shown["domain"], f"Fields of {shown['primary_type']}": shown["message"]}
        return [(describing.one_line(name), json.dumps(value, indent=2)) for name, value in parts.items()]
    return [("Data", shown["data"])] if shown["data"] not in ("", "0x") else []


def functions_of(policy: Policy) -> Mapping[bytes, Signature]:
    """Return the functions that a version names; read once, for its text never changes."""
    if policy.pk not in _functions:
        if len(_functions) > KEPT:
            _functions.clear()
        _functions[policy.pk] = describing.known_functions(policy.body)
    return _functions[policy.pk]


def subject_link(subject: str) -> str:
    """Return a link to the transaction that a signature is for, or what whoever asks calls it."""
    try:
        row = Transaction.objects.filter(pk=UUID(subject)).only("label").first()
    except ValueError:
        row = None
    return (
        subject if row is None else link("admin:signer_transaction_change", row.pk, row.label or str(row.pk))
    )
