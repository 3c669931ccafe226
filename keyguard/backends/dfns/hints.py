"""DFNS' webhooks: HMAC-SHA256 of the body with a secret that it showed once. Source: its page "Webhooks", best practices."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from keyguard.backends.configuring import text
from keyguard.backends.dfns.answers import external_id_of
from keyguard.errors import HintRefusedError

HEADER = "X-DFNS-WEBHOOK-SIGNATURE"


def verify(signature: str, body: bytes) -> None:
    """Raise HintRefusedError unless DFNS signed exactly these bytes."""
    secret = text("DFNS_WEBHOOK_SECRET")
    if not secret:
        raise HintRefusedError("DFNS_WEBHOOK_SECRET is not set")
    right = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    if not hmac.compare_digest(right.encode(), signature.encode("utf-8", "replace")):
        raise HintRefusedError("not signed by DFNS")


def read(event: Mapping[str, Any]) -> tuple[str, float, str]:
    """Return the event's id, when it was sent, and our id of what it is about."""
    parts = [part for part in (event.get("data") or {}).values() if isinstance(part, dict)]
    named = [external_id_of(part) for part in parts]
    return str(event["id"]), float(event["timestampSent"]), next(filter(None, named), "")
