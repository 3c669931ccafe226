"""The Django app keyguard."""

from django.apps import AppConfig


class KeyguardConfig(AppConfig):
    """Keys and signatures. Imports none of the other apps."""

    name = "keyguard"
    verbose_name = "Keys"
    default_auto_field = "django.db.models.BigAutoField"
