"""The Django app keyguard."""

from django.apps import AppConfig


class KeyguardConfig(AppConfig):
    """Keys and signatures. Imports none of the other apps."""

    name = "keyguard"
    verbose_name = "Keys"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the custodies that are configured; nobody is asked, no SDK is loaded."""
        from keyguard import delegates, lifecycle, sealing  # noqa: F401 - know what follows when people have approved
        from keyguard.backends import custodies

        custodies.register()
        custodies.register_checks()
