"""Structured logs: one JSON object a line, with the ids of what is being worked on and without key material.

Ids live in context variables, bound once per task and once per request; every line written below carries them.
"""

import logging
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from celery import signals
from django.http import HttpRequest, HttpResponse
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars

CORRELATION_HEADER = "X-Correlation-ID"
# The first argument of a task is an id; the log names it for what it is.
TASK_ARGUMENTS = {
    "workflows.advance": "run",
    "signer.drain": "lane",
    "signer.watch": "chain",
    "signer.probe": "chain",
}


def scrub(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Take key material and raw transactions out of every field, the traceback too."""
    from keyguard import scrub_secrets

    scrubbed: dict[str, Any] = scrub_secrets(event)
    return scrubbed


class WithoutSweeps(logging.Filter):
    """Drops "task received" for the sweeps: two lines a second for ever would hide everything else."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write the record."""
        return ".sweep[" not in record.getMessage()


SHARED_PROCESSORS: list[Any] = [
    merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def logging_config(*, console: bool, level: str) -> dict[str, Any]:
    """Return Django's LOGGING: coloured text for a person at a terminal, JSON for everything else."""
    tail: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(default=str)
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*SHARED_PROCESSORS, structlog.stdlib.ExtraAdder()],
                # Scrubbing comes after the traceback has become text and before anything is written.
                "processors": [*tail, scrub, renderer],
            }
        },
        "filters": {"without_sweeps": {"()": WithoutSweeps}},
        "handlers": {"standard_error": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["standard_error"], "level": level},
        "loggers": {
            "django.server": {"handlers": [], "propagate": True},
            "celery.app.trace": {"level": "WARNING"},
            "celery.beat": {"level": "WARNING"},
            "celery.worker.strategy": {"filters": ["without_sweeps"]},
        },
    }


def configure() -> None:
    """Let structlog write through the standard loggers, so that our lines and libraries' lines look alike."""
    structlog.configure(
        processors=[
            *SHARED_PROCESSORS,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


@signals.task_prerun.connect
def bind_task(task_id: str = "", task: Any = None, args: Any = (), **_: Any) -> None:
    """Bind the task and the id it was called with, before its first line of code."""
    clear_contextvars()
    name = getattr(task, "name", "")
    bound = {"task": name, "task_id": task_id}
    if name in TASK_ARGUMENTS and args:
        bound[TASK_ARGUMENTS[name]] = str(args[0])
    bind_contextvars(**bound)


@signals.task_postrun.connect
def unbind_task(**_: Any) -> None:
    """Forget the task's ids; a pool thread is used again."""
    clear_contextvars()


def correlation_id(request: HttpRequest) -> str:
    """Return the caller's correlation id when it is fit to be written to a log, else a new one."""
    given = request.headers.get(CORRELATION_HEADER, "")
    fit = 0 < len(given) <= 100 and all(character.isalnum() or character in "-_.:" for character in given)
    return given if fit and given.isascii() else uuid.uuid4().hex


class CorrelationMiddleware:
    """Bind a correlation id to the request, its log lines and its answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer `request` with its correlation id in the header."""
        clear_contextvars()
        request.correlation_id = correlation_id(request)  # type: ignore[attr-defined]
        bind_contextvars(correlation=request.correlation_id)  # type: ignore[attr-defined]
        try:
            response = self.get_response(request)
        finally:
            clear_contextvars()
        response[CORRELATION_HEADER] = request.correlation_id  # type: ignore[attr-defined]
        return response


def get_logger(name: str) -> Any:
    """Return the structured logger of a module."""
    return structlog.stdlib.get_logger(name)


logging.captureWarnings(True)
