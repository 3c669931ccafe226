"""The Django app keyguard."""

from django.apps import AppConfig


class KeyguardConfig(AppConfig):
    """Keys and signatures. Imports none of the other apps."""

    name = "keyguard"
    verbose_name = "Keys"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the custodies; nobody is asked, no SDK is loaded."""
        from keyguard import delegates, lifecycle, sealing  # noqa: F401 - know what follows when people have approved
        from keyguard.backends import custodies
        from keyguard.policies import guarding, memberships  # noqa: F401 - as lifecycle, of groups that approve

        guarding.connect(self)
        custodies.register()
        custodies.register_checks()
