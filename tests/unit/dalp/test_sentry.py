"""What leaves for Sentry holds no key, no raw transaction and no local variable of keyguard."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from dalp import sentry

SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
RAW = "0x02f87083" + "ab" * 100


class Recorder(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__({"dsn": "https://key@sentry.invalid/1"})
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(dict(event))


@pytest.fixture
def recorder(settings: Any) -> Iterator[Recorder]:
    settings.SENTRY_DSN = "https://key@sentry.invalid/1"
    recorder = Recorder()
    sentry.configure(transport=recorder)
    yield recorder
    sentry_sdk.get_client().close()
    sentry_sdk.init()


def fail_in(module: str, **variables: Any) -> None:
    """Raise in a frame of this module that has these local variables."""
    body = "\n".join(f"    {name} = given[{name!r}]" for name in variables)
    names: dict[str, Any] = {"__name__": module, "given": variables}
    exec(f"def act():\n{body}\n    raise RuntimeError('cannot sign with ' + given['text'])", names)
    try:
        names["act"]()
    except RuntimeError as error:
        sentry_sdk.capture_exception(error)


@pytest.mark.case("K55")
def test_no_key_material_reaches_sentry(recorder: Recorder) -> None:
    fail_in("keyguard.backends.database", text=SECRET, plain=bytes.fromhex(SECRET))
    fail_in("signer.sending", text=RAW, raw=RAW, nested={"deep": [f"0x{SECRET}"]})
    sentry_sdk.capture_message(f"raw {RAW} key {SECRET}")
    sent = json.dumps(recorder.events, default=str)
    assert len(recorder.events) == 3
    for leak in (SECRET, RAW[2:], repr(bytes.fromhex(SECRET))[2:20]):
        assert leak not in sent


def test_frames_with_secrets_lose_their_variables_and_others_keep_theirs(recorder: Recorder) -> None:
    silent = (
        "keyguard.signing",
        "dalp.webhooks.posting",
        "dalp.custody_hints",
        "dalp.console.confirming",
        "dalp.console.second_factor",
        "dalp.second_factor",
        "django.forms.fields",
        "django_otp.plugins.otp_totp.models",
        "fireblocks.rest",
        "httpx._client",
    )
    for module in (*silent, "signer.lanes"):
        fail_in(module, text="here", count=2)
    frames = [event["exception"]["values"][0]["stacktrace"]["frames"][-1] for event in recorder.events]
    assert ["vars" in frame for frame in frames] == [*[False] * len(silent), True]
    assert frames[-1]["vars"]["count"] == "2"


def test_nothing_is_sent_without_a_dsn(settings: Any) -> None:
    settings.SENTRY_DSN = ""
    sentry.configure()
    assert sentry_sdk.get_client().dsn is None
