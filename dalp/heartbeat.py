"""Beat's sign of life: the end of every workflows.sweep renews a key in Redis, and its age tells when beat stopped."""

from contextlib import suppress
from functools import cache
from typing import Any

import redis
from celery import signals
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

KEY = "dalp:beat"
KEPT_SECONDS = 24 * 3600
LATE_SECONDS = 10


@cache
def client() -> redis.Redis:
    """Return this process's Redis client: short waits, and no command sent twice behind our back."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
    )


@signals.task_success.connect
def record(sender: Any = None, **_: Any) -> None:
    """Note that a sweep has run. Losing one note is harmless, the next comes in a second."""
    if getattr(sender, "name", "") != "workflows.sweep":
        return
    with suppress(redis.RedisError):
        client().set(KEY, 1, ex=KEPT_SECONDS)


def age_seconds() -> float | None:
    """Return the seconds since the last sweep, None when there was none; by the clock of Redis alone."""
    left_ms = client().pttl(KEY)
    return None if left_ms < 0 else KEPT_SECONDS - left_ms / 1000
