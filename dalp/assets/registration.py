"""Tell the identity provider who holds a token, over HTTP.

The provider is asked with an idempotency key that is the same at every attempt, so it registers a token once however
often it is asked. What it answers decides what may be done: a refusal is final, everything else is tried again.
"""

from typing import Any

import requests

from workflows import PermanentError, TransientError

# To connect, and between two pieces of the answer.
TIMEOUT_SECONDS = (3.05, 10)
# 408 and 425 say it themselves, 409: the first request with this key is still worked on, 429: later.
TRY_AGAIN = frozenset({408, 409, 425, 429})


def register_holders(url: str, body: dict[str, Any], idempotency_key: str) -> str:
    """Register a token's holders with the provider at `url` and return the registration's id.

    Raises TransientError when nothing is known about the outcome or the provider asks to come again, PermanentError
    when it refuses.
    """
    try:
        answer = requests.post(
            url.rstrip("/") + "/registrations",
            json=body,
            headers={"Idempotency-Key": idempotency_key},
            timeout=TIMEOUT_SECONDS,
            # A POST that is redirected would be repeated elsewhere, or turned into a GET.
            allow_redirects=False,
        )
    except requests.RequestException as error:
        kind = type(error).__name__
        raise TransientError(
            "IDENTITY_PROVIDER_UNREACHABLE", f"the identity provider doesn't answer: {kind}"
        ) from None
    return _registration_id(answer)


def _registration_id(answer: requests.Response) -> str:
    status, text = answer.status_code, answer.text[:200]
    if 400 <= status < 500 and status not in TRY_AGAIN:
        raise PermanentError("IDENTITY_PROVIDER_REFUSED", f"the identity provider refused ({status}): {text}")
    if not 200 <= status < 300:
        raise TransientError("IDENTITY_PROVIDER_FAILED", f"the identity provider failed ({status}): {text}")
    try:
        found = answer.json()["id"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str) or not 0 < len(found) <= 200:
        raise TransientError(
            "IDENTITY_PROVIDER_UNCLEAR", f"the identity provider answered without an id: {text}"
        )
    return found
