"""Error reports to Sentry when SENTRY_DSN is set, without key material, raw transactions or personal data."""

from typing import Any

from django.conf import settings

# Whose local variables may be a plaintext key, a receiver's secret or URL, a custody's credentials, a person's password or code.
SILENT = (
    "keyguard.",
    "dalp.webhooks.",
    "dalp.api.webhooks.",
    "dalp.custody_hints.",
    "dalp.console.confirming.",
    "dalp.console.login.",
    "dalp.console.second_factor.",
    "dalp.second_factor.",
    "dalp.factor_sealing.",
    "dalp.models.",
    "django.contrib.auth.",
    "django.forms.",
    "django.http.request.",
    "django_otp.",
    "segno.",
    "fireblocks.",
    "jwt.",
    "httpx.",
    "httpcore.",
    "urllib3.",
)


def drop_variables(event: dict[str, Any]) -> None:
    """Remove the local variables of frames that secrets may be among."""
    traces = [value.get("stacktrace") for value in (event.get("exception") or {}).get("values") or []]
    traces += [value.get("stacktrace") for value in (event.get("threads") or {}).get("values") or []]
    for trace in traces:
        for frame in (trace or {}).get("frames") or []:
            if f"{frame.get('module', '')}.".startswith(SILENT):
                frame.pop("vars", None)


def before_send(event: dict[str, Any], _hint: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the event as it may leave the machine."""
    from keyguard import scrub_secrets

    drop_variables(event)
    scrubbed: dict[str, Any] = scrub_secrets(event)
    return scrubbed


def configure(transport: Any = None) -> None:
    """Start the Sentry client when a DSN is set; `transport` replaces the network in tests."""
    if not settings.SENTRY_DSN:
        return
    import sentry_sdk

    sentry_sdk.init(
        dsn=settings.SENTRY_DSN,
        # Personal data is off by default (send_default_pii is deprecated); bodies hold people's data, too.
        max_request_body_size="never",
        before_send=before_send,  # type: ignore[arg-type]
        before_breadcrumb=before_send,
        transport=transport,
    )
