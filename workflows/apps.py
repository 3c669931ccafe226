"""The durable engine as a Django app."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class WorkflowsConfig(AppConfig):
    name = "workflows"
    verbose_name = "Workflows"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from workflows.checks import register_checks

        # A team's own workflows live in the `workflows` module of its own app.
        autodiscover_modules("workflows")
        register_checks()
