"""`manage.py check_definitions`: before a deploy, whether this code can carry on every run that is under way."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from workflows.definition import find_definition
from workflows.engine.migration import obstacle
from workflows.models import Run


class Command(BaseCommand):
    """Compare the definitions of this code with the runs of the database."""

    help = "Fail when live runs could not go on with the workflows of this code. Run it before a deploy."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="for machines")

    def handle(self, *args: Any, **options: Any) -> None:
        stranded: dict[tuple[str, str], list[str]] = {}
        changed = looked_at = 0
        for run in live_runs():
            looked_at += 1
            definition = find_definition(run.workflow)
            if definition is not None and run.fingerprint == definition.fingerprint:
                continue
            why = "this code has no such workflow" if definition is None else obstacle(run, definition)
            if why is None:
                changed += 1
            else:
                stranded.setdefault((run.workflow, why), []).append(str(run.pk))
        self._tell(stranded, changed, looked_at, as_json=options["json"])
        if stranded:
            raise CommandError(
                f"{sum(map(len, stranded.values()))} live runs could not go on with this code: keep the steps that they "
                "have behind them, or let them end first"
            )

    def _tell(
        self, stranded: dict[tuple[str, str], list[str]], changed: int, looked_at: int, *, as_json: bool
    ) -> None:
        if as_json:
            found = [
                {"workflow": workflow, "why": why, "runs": runs} for (workflow, why), runs in stranded.items()
            ]
            self.stdout.write(
                json.dumps({"live_runs": looked_at, "would_migrate": changed, "stranded": found})
            )
            return
        self.stdout.write(f"{looked_at} live runs, {changed} of which would go on with a changed definition")
        for (workflow, why), runs in sorted(stranded.items()):
            self.stdout.write(f"{workflow}: {len(runs)} runs, {why}; {', '.join(runs[:3])}")


def live_runs() -> Any:
    runs = Run.objects.filter(finished_at__isnull=True).order_by("id")
    return runs.defer("input", "output", "error", "request").iterator(chunk_size=1000)
