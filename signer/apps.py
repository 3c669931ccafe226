"""The signer as a Django app."""

from django.apps import AppConfig


class SignerConfig(AppConfig):
    name = "signer"
    verbose_name = "Transactions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the handlers of events that come with the signer."""
        from signer.events import holders  # noqa: F401, it registers itself
