"""The signature of a delivery, as Standard Webhooks has it: https://www.standardwebhooks.com."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from uuid import UUID


def headers(message_id: UUID, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """Return the headers by which a receiver knows who sent this, and that it is no old recording.

    timestamp: seconds since 1970, of this attempt. keys: each signs; any one that the receiver knows is enough.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": str(message_id),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(key, signed) for key in keys),
    }


def _signature(key: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
