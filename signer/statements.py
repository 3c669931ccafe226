"""Statements over many rows at once. On PostgreSQL each is one text, whatever the number of rows.

The rows travel as an array for each column; the ORM would write a placeholder for each value, and the driver would take
the text apart again, which costs more than the database's own work. Nothing is prepared: a plan that was made when the
table was small would be kept, and read the whole table each time until the next ANALYZE.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

import psycopg
from django.db import connection, models
from psycopg.types.json import Jsonb


def insert_many(rows: Sequence[models.Model], *, skip_present: bool = False) -> int | None:
    """Insert the rows; return how many were, None where the database doesn't say.

    skip_present: leave out those whose place a unique constraint has taken, instead of failing.
    """
    if not rows:
        return 0
    model = type(rows[0])
    if connection.vendor != "postgresql":
        model._default_manager.bulk_create(rows, ignore_conflicts=skip_present, batch_size=500)
        return None
    columns = [_as_array(field, list(map(attrgetter(field.attname), rows))) for field in _inserted(model)]
    # Most of them are the same in all rows of a batch, and travel once.
    varies = tuple(len(rows) == 1 or any(one != column[0] for one in column) for column in columns)
    same = [column[0] for column, differs in zip(columns, varies, strict=True) if not differs]
    arrays = [column for column, differs in zip(columns, varies, strict=True) if differs]
    return _run(_insert_sql(model, varies, skip_present), [*same, *arrays])


def update_each(
    model: type[models.Model],
    columns: Sequence[str],
    rows: Mapping[Any, Sequence[Any]],
    *,
    states: Sequence[str] = (),
    **same: Any,
) -> int:
    """Set `columns` of each row to its values, and `same` in all of them; return how many rows there were.

    rows: the values by primary key. states: only rows in one of these states are touched, where any are given.
    """
    if not rows:
        return 0
    given, fixed = _fields(model, tuple(columns)), _fields(model, tuple(same))
    if connection.vendor != "postgresql":
        return _update_by_values(model, given, rows, states, dict(zip(fixed, same.values(), strict=True)))
    parameters = [_as_array(field, [value])[0] for field, value in zip(fixed, same.values(), strict=True)]
    parameters.append(list(rows))
    parameters += [
        _as_array(field, [values[place] for values in rows.values()]) for place, field in enumerate(given)
    ]
    sql = _update_sql(model, tuple(columns), tuple(same), bool(states))
    return _run(sql, [*parameters, list(states)] if states else parameters)


def _run(sql: str, parameters: Sequence[Any]) -> int:
    """Carry out a statement and return the number of rows."""
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    raw: psycopg.Connection[Any] = connection.connection
    with connection.wrap_database_errors, psycopg.Cursor(raw) as cursor:
        cursor.execute(sql.encode(), parameters, prepare=False)
        return cursor.rowcount


def _as_array(field: Any, values: list[Any]) -> list[Any]:
    """Return the values as the driver takes them: it knows texts, numbers, bytes, instants and UUIDs by itself."""
    if isinstance(field, models.JSONField):
        return [None if value is None else Jsonb(value) for value in values]
    return values


@lru_cache(maxsize=64)
def _fields(model: type[models.Model], names: tuple[str, ...]) -> list[Any]:
    return [model._meta.get_field(name) for name in names]


@lru_cache(maxsize=16)
def _inserted(model: type[models.Model]) -> list[Any]:
    """Return the fields that an insert names: all but those that the database fills in."""
    fields: list[Any] = list(model._meta.concrete_fields)
    return [field for field in fields if not field.has_db_default()]


@lru_cache(maxsize=64)
def _insert_sql(model: type[models.Model], varies: tuple[bool, ...], skip_present: bool) -> str:
    fields = sorted(zip(_inserted(model), varies, strict=True), key=lambda pair: pair[1])
    names = ", ".join(f'"{field.column}"' for field, _ in fields)
    same = "".join(f"{_array(field)[:-2]}, " for field, differs in fields if not differs)
    arrays = ", ".join(_array(field) for field, differs in fields if differs)
    conflict = " ON CONFLICT DO NOTHING" if skip_present else ""
    return f'INSERT INTO "{model._meta.db_table}" ({names}) SELECT {same}each.* FROM unnest({arrays}) AS each{conflict}'  # noqa: S608 - our own names


@lru_cache(maxsize=64)
def _update_sql(
    model: type[models.Model], columns: tuple[str, ...], same: tuple[str, ...], by_state: bool
) -> str:
    key: Any = model._meta.pk
    given = _fields(model, columns)
    assignments = [f'"{field.column}" = %s::{field.db_type(connection)}' for field in _fields(model, same)]
    assignments += [f'"{field.column}" = each."{field.column}"' for field in given]
    arrays = ", ".join(_array(field) for field in (key, *given))
    names = ", ".join(f'"{field.column}"' for field in (key, *given))
    sql = (
        f'UPDATE "{model._meta.db_table}" AS old SET {", ".join(assignments)}'  # noqa: S608 - our own names
        f' FROM unnest({arrays}) AS each({names}) WHERE old."{key.column}" = each."{key.column}"'
    )
    return sql + (" AND old.state = ANY(%s::text[])" if by_state else "")


def _array(field: Any) -> str:
    # A cast to varchar(n) would cut off what is too long, and the column could not refuse it.
    kind = str(field.db_type(connection))
    kind = "text" if kind.startswith("varchar") else kind.split("(", maxsplit=1)[0]
    return f"%b::{kind}[]"


def _update_by_values(
    model: type[models.Model],
    given: Sequence[Any],
    rows: Mapping[Any, Sequence[Any]],
    states: Sequence[str],
    same: Mapping[Any, Any],
) -> int:
    """Do it on SQLite, which has no arrays, and names the columns of VALUES column1, column2, ..."""
    key: Any = model._meta.pk
    assignments = [f'"{field.column}" = %s' for field in same]
    assignments += [f'"{field.column}" = each.column{place}' for place, field in enumerate(given, start=2)]
    parameters = [field.get_db_prep_save(value, connection) for field, value in same.items()]
    for pk, values in rows.items():
        parameters.append(key.get_db_prep_save(pk, connection))
        parameters += [
            field.get_db_prep_save(value, connection) for field, value in zip(given, values, strict=True)
        ]
    one = f"({', '.join(['%s'] * (len(given) + 1))})"
    sql = (
        f'UPDATE "{model._meta.db_table}" SET {", ".join(assignments)}'  # noqa: S608 - our own names
        f" FROM (VALUES {', '.join([one] * len(rows))}) AS each"
        f' WHERE "{key.column}" = each.column1'
    )
    if states:
        sql += f" AND state IN ({', '.join(['%s'] * len(states))})"
    with connection.cursor() as cursor:
        cursor.execute(sql, [*parameters, *states])
        return int(cursor.rowcount)
