"""What the platform connects when Django starts."""

from django.apps import AppConfig


class DalpConfig(AppConfig):
    """The platform's own app: API tokens, idempotency records, checks and alerts."""

    name = "dalp"
    verbose_name = "Platform"

    def ready(self) -> None:
        """Connect logs, error reports, queues, checks and alerts; opens no connection."""
        from dalp import alerts, celery, checks, heartbeat, logs, sentry  # noqa: F401, heartbeat listens
        from dalp.models import ApiToken
        from keyguard import crashpoints
        from keyguard.policies import asking
        from workflows import crashpoint

        logs.configure()
        sentry.configure()
        checks.register()
        alerts.connect()
        celery.declare_queues()
        for name, where in crashpoints.NAMES.items():
            crashpoint.register(name, where)
        crashpoints.connect(crashpoint)
        asking.on_behalf(ApiToken.owners_behind)
