"""The signer as a Django app."""

from django.apps import AppConfig


class SignerConfig(AppConfig):
    name = "signer"
    verbose_name = "Transactions"
    default_auto_field = "django.db.models.BigAutoField"
