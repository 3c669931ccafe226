"""What commands have in common: who calls, and what they say when others must approve first."""

import getpass

from django.core.management.base import OutputWrapper

from keyguard.policies.models import Question
from keyguard.states import QuestionKind


def who() -> str:
    """Return who is at the shell, as acts and questions name them."""
    return f"command:{getpass.getuser()}"


def say_asked(stdout: OutputWrapper, question: Question) -> None:
    """Say who must approve it, and what is next."""
    needs = "; ".join(f"{need['approvals']} of {need['group']}" for need in question.needs)
    stdout.write(f"Asked: {needs} must approve it in the console, until {question.expires_at}.")
    if question.kind == QuestionKind.COMMAND:
        stdout.write("Then run the same command again.")
