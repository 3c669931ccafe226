"""The mistakes in workflow classes as Django system checks: `manage.py check`, and every process at its start."""

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register

from workflows.definition import definitions, duplicates


def check_definitions(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Return what is wrong with the workflows of this project."""
    found: list[CheckMessage] = []
    for definition in definitions():
        for problem in definition.problems:
            message = Error if problem.is_error else Warning
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
            Error(
                f"two workflows are named {name!r}: {first} and {second}",
                hint="Give one of them another Meta.name.",
                id="workflows.E013",
            )
        )
    return found


def register_checks() -> None:
    register(check_definitions, Tags.compatibility)
