"""Signatures, by the verifier that receivers use; and secrets at rest."""

import base64
import time
import uuid
from typing import Any

import pytest
from cryptography.fernet import Fernet
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from dalp.webhooks import sealing
from dalp.webhooks.sealing import (
    SecretMalformedError,
    SecretUnreadableError,
    key_bytes,
    new_secret,
    seal,
    unseal,
)
from dalp.webhooks.signing import headers

BODY = '{"type": "transaction.completed", "data": {"label": "Zürich"}}'.encode()


@pytest.mark.case("S79")
def test_receivers_find_the_signature_and_the_timestamp_valid() -> None:
    secret, now = new_secret(), int(time.time())
    sent = headers(uuid.uuid4(), now, BODY, [key_bytes(secret)])
    assert Webhook(secret).verify(BODY, sent)["data"]["label"] == "Zürich"
    for altered, changes in (
        (BODY + b" ", {}),
        (BODY, {"webhook-id": "x"}),
        (BODY, {"webhook-timestamp": str(now - 1)}),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(altered, {**sent, **changes})
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, sent)


def test_the_old_and_the_new_secret_both_open_what_both_have_signed() -> None:
    old, new = new_secret(), new_secret()
    sent = headers(uuid.uuid4(), int(time.time()), BODY, [key_bytes(new), key_bytes(old)])
    Webhook(old).verify(BODY, sent)
    Webhook(new).verify(BODY, sent)


def test_the_specifications_own_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks, of its libraries' tests
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    sent = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key])  # type: ignore[arg-type]
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_at_rest_is_unreadable_and_comes_back_the_same() -> None:
    secret = new_secret()
    sealed = seal(secret)
    assert secret.removeprefix("whsec_") not in sealed
    assert key_bytes(secret).hex() not in sealed
    assert unseal(sealed) == key_bytes(secret)
    assert seal(secret) != sealed


def test_a_replaced_key_still_opens_and_what_it_opened_is_sealed_anew(settings: Any) -> None:
    secret = new_secret()
    sealed = seal(secret)
    assert sealing.sealed_anew(sealed) is None
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = (
        [settings.SECRET_KEY],
        "another key, of fifty and more characters",
    )
    assert unseal(sealed) == key_bytes(secret)
    anew = sealing.sealed_anew(sealed)
    settings.SECRET_KEY_FALLBACKS = []
    assert anew is not None
    assert unseal(anew) == key_bytes(secret)
    with pytest.raises(SecretUnreadableError):
        unseal(sealed)


def test_what_is_no_secret_is_refused_without_a_word_of_it() -> None:
    for text in (
        "",
        "whsec_",
        "whsec_aGVsbG8=",
        "hello",
        new_secret()[6:],
        "whsec_!" + new_secret()[7:],
        Fernet.generate_key().decode(),
    ):
        with pytest.raises(SecretMalformedError) as refused:
            key_bytes(text)
        assert text == "" or text[6:] == "" or text[6:] not in str(refused.value)
