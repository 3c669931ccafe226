"""The mistakes in workflow classes as Django system checks: `manage.py check`, and every process at its start."""

from typing import Any

from django.core import checks

from workflows.definition import definitions, duplicates
from workflows.problems import Problem


def check_definitions(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    """Return what is wrong with the workflows of this project."""
    found: list[checks.CheckMessage] = []
    seen: set[Problem] = set()  # the handlers of one virtual object tell the same
    for definition in definitions():
        for problem in definition.problems:
            if problem in seen:
                continue
            seen.add(problem)
            message = checks.Error if problem.is_error else checks.Warning
            found.append(
                message(
                    problem.message,
                    hint=problem.hint,
                    obj=definition.workflow,
                    id=f"workflows.{problem.id}",
                )
            )
    for name, first, second in duplicates():
        found.append(
            checks.Error(
                f"two workflows are named {name!r}: {first} and {second}",
                hint="Give one of them another Meta.name.",
                id="workflows.E013",
            )
        )
    return found


def register_checks() -> None:
    checks.register(check_definitions, checks.Tags.compatibility)
