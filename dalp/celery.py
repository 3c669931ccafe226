"""The Celery application. Messages only wake workers: what to do is always read from the database."""

import gc
import os
import sys
from typing import Any

from celery import Celery, signals
from kombu.entity import Queue
from kombu.transport import redis as redis_transport
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dalp.settings")

app = Celery("dalp")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


# A publisher waits this long for an answer of Redis. Its message is only a wake-up; a request must not hang on it.
PUBLISH_SECONDS = 1.0


def guard_broker_loss() -> None:
    """Make a lost Redis connection recoverable for a busy worker, and a frozen Redis harmless for a publisher.

    Lost: Celery 5.7.0 closes the broker connection before it gives unacknowledged messages back, and kombu's Redis
    channel then reads the parameters of a closed connection: an AttributeError that nothing catches, and the process
    exits. Raised as a connection error it takes the ordinary way of reconnecting. Remove this half when a Celery
    release after 5.7.0 passes tests/faults/test_broker_loss.py without it.

    Frozen: kombu gives its connections no timeout, and redis-py 8 repeats commands by itself. A worker's blocking read
    is not cut short by the timeout: kombu reads only once the socket has something.
    """
    channel: Any = redis_transport.Channel
    original = channel._connparams

    def connparams(self: Any, asynchronous: bool = False) -> Any:
        if getattr(self.connection, "client", None) is None:
            raise RedisConnectionError("channel of a closed connection")
        parameters = original(self, asynchronous=asynchronous)
        return {**parameters, "socket_timeout": PUBLISH_SECONDS, "retry": Retry(NoBackoff(), 0)}

    channel._connparams = connparams


guard_broker_loss()


def declare_queues() -> None:
    """Tell Celery every queue that a workflow names, so that a worker started without options serves them all."""
    from workflows import definitions

    names = {"workflows", "signer", "webhooks", "ops"}
    for definition in definitions():
        names |= {definition.queue, *(step.queue for step in definition.steps)}
    app.conf.task_queues = [Queue(name, routing_key=name) for name in sorted(names)]  # type: ignore[no-untyped-call]


@signals.task_prerun.connect
@signals.task_postrun.connect
def drop_dead_connections(**_: Any) -> None:
    """Close what is too old or broken, as Django does around a request, and keep the rest for the next task."""
    from django.db import close_old_connections

    close_old_connections()


@signals.celeryd_init.connect
def serve_chains(instance: Any, options: dict[str, Any], **_: Any) -> None:
    """Have a worker that was started without -Q serve the queue of every chain."""
    from signer import serving

    serving.begin(instance.app, explicit=bool(options.get("queues")))


@signals.worker_before_create_process.connect
def set_aside_what_is_loaded(**_: Any) -> None:
    """Let no child's collector look at the libraries: they stay, and looking costs a tenth of a busy child's time."""
    gc.freeze()


@signals.worker_init.connect
@signals.beat_init.connect
def stop_unsafe_process(**_: Any) -> None:
    """End the process before its first task when a production secret is missing; Celery ignores failed checks."""
    from django.core.exceptions import ImproperlyConfigured

    from dalp.checks import stop_if_unsafe

    try:
        stop_if_unsafe()
    except ImproperlyConfigured as error:
        sys.exit(str(error))  # signals swallow ordinary exceptions


@signals.worker_process_init.connect
@signals.worker_init.connect
def keep_memory_to_itself(**_: Any) -> None:
    """Leave no core dump of a process that signs, and let no other process read its memory."""
    from keyguard import hardening

    hardening.harden()


@signals.worker_shutting_down.connect
def take_up_nothing_more(**_: Any) -> None:
    """Let the runs go at their next step: other workers have them at once, instead of after their leases."""
    from workflows.engine import draining

    draining.begin()


@signals.worker_process_init.connect
@signals.worker_init.connect
def watch_steps(**_: Any) -> None:
    """Let a step that outlasts its time limit and doesn't react end its process."""
    from workflows.engine.timeouts import allow_killing

    allow_killing()


@signals.setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Leave the log set-up of settings.LOGGING alone; a receiver here is how Celery is told so."""
