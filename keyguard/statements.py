"""The statements that write for every batch of signatures. On PostgreSQL each is one text, whatever the number.

The rows travel as an array for each column; the ORM would write a placeholder for each value, and the driver would take
the text apart again, which costs more than the signatures. Nothing is prepared: a plan that was made when the table was
small would be kept, and read the whole table each time until the next ANALYZE. The signer has the like for its own
tables (`signer.statements`); keyguard can be had without it, so the few lines stand here again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection, models
from psycopg.types.json import Jsonb

from keyguard.audit.models import AuditChain, AuditEntry
from keyguard.models import SigningRecord
from keyguard.states import RecordState


def insert_missing(records: Sequence[SigningRecord]) -> set[UUID]:
    """Insert the records whose idempotency key is not there yet; return the ids of those."""
    if connection.vendor != "postgresql":
        SigningRecord.objects.bulk_create(records, ignore_conflicts=True)
        ids = [record.pk for record in records]
        return set(SigningRecord.objects.filter(pk__in=ids).values_list("pk", flat=True))
    columns = [_column(field, records) for field in _inserted(SigningRecord)]
    # Half of them are the same in all rows of a batch, and travel once.
    varies = tuple(len(records) == 1 or any(one != values[0] for one in values) for values in columns)
    values = [column if differs else column[0] for column, differs in zip(columns, varies, strict=True)]
    arrays = [value for value, differs in zip(values, varies, strict=True) if differs]
    same = [value for value, differs in zip(values, varies, strict=True) if not differs]
    return {found for (found,) in _run(_insert_sql(varies), [*same, *arrays]).fetchall()}


def write_answers(columns: Sequence[str], rows: Mapping[UUID, Sequence[Any]], at: datetime) -> int:
    """Write what the backend answered beside the intents, and return how many there were.

    rows: the values of `columns` by the record's id.
    """
    if connection.vendor != "postgresql":
        return sum(
            SigningRecord.objects.filter(pk=pk, state=RecordState.INTENT).update(
                state=RecordState.SIGNED, signed_at=at, **dict(zip(columns, values, strict=True))
            )
            for pk, values in rows.items()
        )
    arrays = [[values[place] for values in rows.values()] for place in range(len(columns))]
    return _run(_answer_sql(tuple(columns)), [at, list(rows), *arrays]).rowcount


def append_entries(entries: Sequence[AuditEntry]) -> int:
    """Append entries to chains that still end where they follow, one for each chain; return to how many."""
    if connection.vendor != "postgresql":
        return sum(map(_append_one, entries))
    arrays = [[getattr(entry, field.attname) for entry in entries] for field in _inserted(AuditEntry)]
    return _run(_append_sql(), arrays).rowcount


def _append_one(entry: AuditEntry) -> int:
    chain = AuditChain.objects.filter(pk=entry.chain_id, seq=entry.seq - 1)
    moved = chain.update(seq=entry.seq, mac=entry.mac)
    if moved:
        entry.save(force_insert=True)
    return moved


def _run(sql: str, parameters: Sequence[Any]) -> "psycopg.Cursor[Any]":
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    with connection.wrap_database_errors:
        return psycopg.Cursor(connection.connection).execute(sql.encode(), parameters, prepare=False)


@cache
def _inserted(model: type[models.Model]) -> list[Any]:
    fields: list[Any] = list(model._meta.concrete_fields)
    return [
        field for field in fields if not field.has_db_default() and not isinstance(field, models.AutoField)
    ]


@cache
def _append_sql() -> str:
    fields = _inserted(AuditEntry)
    names, arrays = ", ".join(field.column for field in fields), ", ".join(map(_array, fields))
    chain, entry = AuditChain._meta.db_table, AuditEntry._meta.db_table
    return (
        f"WITH given({names}) AS (SELECT * FROM unnest({arrays})),"  # noqa: S608 - our own names
        f" moved AS (UPDATE {chain} AS chain SET seq = given.seq, mac = given.mac FROM given"
        "  WHERE chain.id = given.chain_id AND chain.seq = given.seq - 1 RETURNING chain.id)"
        f" INSERT INTO {entry} ({names}) SELECT given.* FROM given JOIN moved ON moved.id = given.chain_id"
    )


@cache
def _insert_sql(varies: tuple[bool, ...]) -> str:
    fields = list(zip(_inserted(SigningRecord), varies, strict=True))
    fields.sort(key=lambda pair: pair[1])
    names = ", ".join(f'"{field.column}"' for field, _ in fields)
    same = "".join(f"{_array(field)[:-2]}, " for field, differs in fields if not differs)
    arrays = ", ".join(_array(field) for field, differs in fields if differs)
    return (
        f'INSERT INTO "{SigningRecord._meta.db_table}" ({names}) SELECT {same}each.* FROM unnest({arrays}) AS each'  # noqa: S608 - our own names
        " ON CONFLICT DO NOTHING RETURNING id"
    )


@cache
def _answer_sql(columns: tuple[str, ...]) -> str:
    fields = [SigningRecord._meta.get_field(name) for name in ("id", *columns)]
    arrays = ", ".join(_array(field) for field in fields)
    changes = ", ".join(f"{name} = each.{name}" for name in columns)
    return (
        f"UPDATE \"{SigningRecord._meta.db_table}\" AS old SET state = 'SIGNED', signed_at = %s, {changes}"  # noqa: S608 - our own names
        f" FROM unnest({arrays}) AS each(id, {', '.join(columns)})"
        " WHERE old.id = each.id AND old.state = 'INTENT'"
    )


def _column(field: Any, records: Sequence[SigningRecord]) -> list[Any]:
    """Return the field's value of each record as the driver takes it."""
    if getattr(field, "auto_now_add", False):
        return [field.pre_save(record, True) for record in records]
    values = list(map(attrgetter(field.attname), records))
    if isinstance(field, models.JSONField):
        return [None if value is None else Jsonb(value) for value in values]
    return values


def _array(field: Any) -> str:
    # A cast to varchar(n) would cut off what is too long, and the column could not refuse it.
    kind = str(field.db_type(connection))
    kind = "text" if kind.startswith("varchar") else kind.split("(", maxsplit=1)[0]
    return f"%b::{kind}[]"
