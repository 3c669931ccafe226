from django.apps import AppConfig


class ChaosConfig(AppConfig):
    name = "tests.chaos"
    label = "chaos"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from tests import watching
        from tests.chaos import redelivery

        watching.tell()
        redelivery.note_redeliveries()
