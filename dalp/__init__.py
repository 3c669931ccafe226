"""The platform: it composes the engine, the signer and the keys, and shows them to people and programs."""

from dalp.celery import app as celery_app

__all__ = ["celery_app"]
