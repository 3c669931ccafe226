"""Mistakes in a workflow class, found when it is made and told by Django's system checks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A mistake: its number in the checks (`workflows.E001`), where and what it is, and what helps."""

    id: str
    message: str
    hint: str

    @property
    def is_error(self) -> bool:
        return self.id.startswith("E")


class Problems(list[Problem]):
    """What is wrong with one class."""

    def add(self, id: str, message: str, hint: str) -> None:
        self.append(Problem(id, message, hint))
