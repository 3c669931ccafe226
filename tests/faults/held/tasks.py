"""Imported by a worker before it forks its children: a connection that they would inherit."""

from celery import signals
from django.db import connection


@signals.worker_ready.connect
@signals.worker_init.connect
def use_the_database(**_: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
