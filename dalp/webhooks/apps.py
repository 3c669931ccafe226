from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    """Who is told what becomes of transactions, and what each has been told."""

    name = "dalp.webhooks"
    label = "webhooks"
    verbose_name = "Webhooks"
