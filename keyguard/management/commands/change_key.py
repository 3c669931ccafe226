"""Suspend a key, give it back to work, retire it, mark it as compromised, or say how long it signs."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyguard import find_key, lifecycle
from keyguard.errors import KeyguardError
from keyguard.management.asking import say_asked, who
from keyguard.states import KeyVerb

VERBS = {str(verb).lower(): verb for verb in (*lifecycle.STATES, KeyVerb.VALIDITY) if verb != KeyVerb.DESTROY}


class Command(BaseCommand):
    """`manage.py change_key ALIAS VERB --reason WHY`."""

    help = (
        "suspend: it signs nothing until it is given back (reactivate). retire: another key has taken over. "
        "compromised: somebody else may have it; it never signs again. validity: from when, until when it signs."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("key", help="alias or address")
        parser.add_argument("verb", choices=VERBS)
        parser.add_argument("--reason", required=True, help="kept with your name")
        parser.add_argument("--not-before", help="2027-01-31 or 2027-01-31T08:00, UTC; without it at once")
        parser.add_argument("--not-after", help="likewise; without it for good")

    def handle(self, *args: Any, **options: Any) -> None:
        verb = VERBS[options["verb"]]
        times = {name: self._instant(options[name]) for name in ("not_before", "not_after")}
        if verb != KeyVerb.VALIDITY and any(times.values()):
            raise CommandError("--not-before and --not-after belong to validity.")
        try:
            key = find_key(options["key"], tenant=None)
            question = lifecycle.act(key, verb, who(), options["reason"], **times)
        except KeyguardError as error:
            raise CommandError(f"{error.code}: {error} {error.remedy}") from None
        if question is not None:
            say_asked(self.stdout, question)
            return
        key.refresh_from_db()
        until = f", signs until {key.not_after:%Y-%m-%d %H:%M} UTC" if key.not_after else ""
        since = f", signs from {key.not_before:%Y-%m-%d %H:%M} UTC on" if key.not_before else ""
        self.stdout.write(f"{key.alias} ({key.address}): {key.state}{since}{until}")

    @staticmethod
    def _instant(text: str | None) -> datetime | None:
        if text is None:
            return None
        try:
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        except ValueError:
            raise CommandError(f"{text!r} is no date like 2027-01-31 or 2027-01-31T08:00.") from None
