"""Fireblocks' webhooks: a detached JWS over the body, by one of the keys that it publishes.

Upholds: only RS512 by an RSA key of that list counts; a webhook that names an unknown key makes us read the list again
at most once a minute, however many come. Source: Fireblocks' page "Validating webhooks".
"""

import base64
import time
from collections.abc import Mapping
from threading import Lock
from typing import Any

import structlog

from keyguard.backends.configuring import text
from keyguard.backends.pacing import parsed_json
from keyguard.errors import HintRefusedError

HEADER = "Fireblocks-Webhook-Signature"
ALGORITHM = "RS512"
REFRESH_SECONDS = 60.0
STALE_SECONDS = 24 * 3600.0
FETCH_SECONDS = 5.0
MAX_SIGNATURE_CHARACTERS = 2048  # its header is parsed before anything is verified
MIN_KEY_BITS = 2048

log = structlog.get_logger("keyguard")


class KeySet:
    """The public keys that an address publishes, by their ids."""

    def __init__(self) -> None:
        self._keys: dict[str, Any] = {}
        self._url = ""
        self._fetched_at = float("-inf")
        self._lock = Lock()

    def key(self, kid: str, url: str) -> Any:
        """Return the key of this id, None when there is none."""
        with self._lock:
            age = time.monotonic() - self._fetched_at
            if self._url != url or age > STALE_SECONDS or (kid not in self._keys and age > REFRESH_SECONDS):
                self._fetch(url)
            return self._keys.get(kid)

    def _fetch(self, url: str) -> None:
        """Read the list; what was known stays when it cannot be read."""
        import httpx
        import jwt

        if self._url != url:
            self._keys = {}
        self._url, self._fetched_at = url, time.monotonic()
        try:
            answer = httpx.get(url, timeout=FETCH_SECONDS, follow_redirects=False)
            answer.raise_for_status()
            listed = jwt.PyJWKSet.from_dict(parsed_json(answer.content)).keys
        except Exception as error:  # noqa: BLE001 - of many kinds; without the list nothing is verified
            log.warning("webhook_keys_unreadable", exception=type(error).__name__)
            return
        self._keys = {
            str(each.key_id): each.key
            for each in listed
            if each.key_type == "RSA" and each.key.key_size >= MIN_KEY_BITS and each.key_id
        }


KEYS = KeySet()


def verify(signature: str, body: bytes) -> None:
    """Raise HintRefusedError unless Fireblocks signed exactly these bytes."""
    import jwt

    url = text("FIREBLOCKS_WEBHOOK_JWKS_URL")
    if not url:
        raise HintRefusedError("FIREBLOCKS_WEBHOOK_JWKS_URL is not set")
    header, _, rest = signature.partition(".")
    payload, _, signed = rest.partition(".")
    if len(signature) > MAX_SIGNATURE_CHARACTERS or payload or not header or not signed or "." in signed:
        raise HintRefusedError("no detached signature")
    whole = f"{header}.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.{signed}"
    try:
        fields = jwt.get_unverified_header(whole)
        if fields.get("alg") != ALGORITHM or "crit" in fields or fields.get("b64") is False:
            raise HintRefusedError("signed in another way than RS512")
        key = KEYS.key(str(fields.get("kid")), url)
        if key is None:
            raise HintRefusedError("signed by a key that Fireblocks does not publish")
        jwt.PyJWS(algorithms=[ALGORITHM]).decode(whole, key, algorithms=[ALGORITHM])
    except (jwt.PyJWTError, ValueError):
        raise HintRefusedError("not signed by Fireblocks") from None


def read(event: Mapping[str, Any]) -> tuple[str, float, str]:
    """Return the event's id, when it was made, and our id of what it is about."""
    data = event.get("data")
    named = data.get("externalTxId") if isinstance(data, dict) else ""
    created = float(event["createdAt"])
    # Documented in seconds, shown in milliseconds.
    return str(event["id"]), created / 1000 if created > 1e11 else created, str(named or "")
