from django.apps import AppConfig


class AssetsConfig(AppConfig):
    """The asset workflows, and the records of what they made."""

    name = "dalp.assets"
    label = "assets"
    verbose_name = "Assets"
