"""What the admin pages share: how values look (everything is escaped), and that history is not edited."""

import json
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html

STATE_COLOURS = {
    "READY": "info",
    "RUNNING": "info",
    "WAITING": "info",
    "PENDING": "info",
    "PAUSED": "warning",
    "COMPENSATING": "warning",
    "UNDOING": "warning",
    "UNDONE": "warning",
    "COMPENSATED": "warning",
    "CANCELLED": "warning",
    "DEAD_LETTER": "danger",
    "FAILED": "danger",
    "OPEN": "danger",
    "SUCCEEDED": "success",
    "DONE": "success",
    "RESOLVED": "success",
    "STARTED": "success",
    "SKIPPED": "warning",
}


def badge(state: str) -> str:
    """Return a state as a coloured label."""
    context = {"text": state, "variant": STATE_COLOURS.get(state, "default")}
    return render_to_string("unfold/helpers/label.html", context)


def code_block(value: Any) -> str:
    """Return a value as indented JSON, escaped."""
    if value is None:
        return "-"
    return format_html(
        '<pre class="whitespace-pre-wrap break-all text-xs font-mono max-w-4xl">{}</pre>',
        json.dumps(value, indent=2),
    )


def error_text(error: Any) -> str:
    """Return a stored error as `CODE: message`."""
    if not error:
        return "-"
    return f"{error.get('code', '?')}: {error.get('message', '')}"


def link(view: str, identifier: Any, text: str) -> str:
    """Return a link to an object's page, or the text alone where there is no such page."""
    try:
        return format_html(
            '<a class="text-primary-600 underline" href="{}">{}</a>', reverse(view, args=[identifier]), text
        )
    except NoReverseMatch:
        return text


class ReadOnly:
    """An admin on which nobody adds, changes or deletes rows by hand: the program writes them, history stays."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
