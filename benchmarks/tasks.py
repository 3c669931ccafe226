"""The bare Celery task that the engine is measured against."""

from functools import cache

import redis
from celery import shared_task
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry


@cache
def client() -> "redis.Redis":
    # Without repeats: redis-py would run an INCR that was only slow a second time.
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5, retry=Retry(NoBackoff(), 0))


@shared_task(name="benchmarks.noop", acks_late=True, ignore_result=True)
def noop(counter: str = "") -> None:
    """Do nothing; a chain's last link counts its chain, so that the end of all is known and none is lost unnoticed."""
    if counter:
        client().incr(counter)
