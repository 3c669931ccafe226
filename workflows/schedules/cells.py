"""How times look in the admin: by the schedule's own clock, and in UTC."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

from django.utils.html import format_html
from django.utils.timesince import timeuntil

from workflows.cells import link
from workflows.schedules.cron import CronError, find_zone
from workflows.schedules.models import Schedule

PREVIEWED = 5


def in_zone(instant: datetime, zone: tzinfo) -> str:
    """Return an instant as the clock in that zone shows it."""
    local = instant.astimezone(zone)
    abbreviation = f"{local:%Z}" if f"{local:%Z}".isalpha() else f"UTC{local:%z}"
    return f"{local:%a %Y-%m-%d %H:%M} {abbreviation}"


def both_times(instant: datetime, timezone: str) -> str:
    """Return an instant by the schedule's clock, with UTC below it."""
    shown = in_zone(instant, UTC)
    try:
        zone = find_zone(timezone)
    except CronError:
        return shown
    local = in_zone(instant, zone)
    if local == shown:
        return shown
    return format_html('{}<br><span class="text-xs">{}</span>', local, shown)


def run_link(identifier: Any) -> str:
    """Return a link to a run."""
    return link("admin:workflows_run_change", identifier, str(identifier)) if identifier else "-"


def preview(schedule: Schedule, now: datetime) -> Iterator[tuple[str, str, str]]:
    """Yield the next instants: by the schedule's clock, in UTC where that differs, and how far away. Raises CronError."""
    zone = find_zone(schedule.timezone)
    waiting = [] if schedule.next_at is None or schedule.next_at > now else [schedule.next_at]
    for instant in [*waiting, *islice(schedule.instants(now), PREVIEWED)]:
        local, utc = in_zone(instant, zone), in_zone(instant, UTC)
        far = "due" if instant <= now else f"in {timeuntil(instant, now)}"
        changed = _offset(instant, zone) != _offset(instant - timedelta(seconds=1), zone)
        note = ", the moment at which the clock is changed" if changed else ""
        yield local, "" if utc == local else utc, f"{far}{note}"


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta | None:
    return instant.astimezone(zone).utcoffset()


def short_type(field: dict[str, Any]) -> str:
    """Return the type of a field of a JSON schema in a word or two."""
    if "anyOf" in field:
        return " or ".join(short_type(choice) for choice in field["anyOf"])
    name = field.get("format") or field.get("type") or str(field.get("$ref", "any")).rpartition("/")[2]
    return f"list of {short_type(field['items'])}" if name == "array" and "items" in field else str(name)
