"""The three statements of a checkpoint, as SQL that is made once.

Django's query builder takes longer to make them than a database to carry them out, and they are all that a step
costs. Both databases understand them as they stand. Everything else in this app is written with the ORM.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from django.db import connection, models


def update_row(model: type[models.Model], where: dict[str, Any], values: dict[str, Any]) -> int:
    """Set `values` in the rows whose columns equal `where`; return how many rows that were."""
    sql = _update_sql(model, tuple(values), tuple(where))
    with connection.cursor() as cursor:
        cursor.execute(sql, _prepared(model, values) + _prepared(model, where))
        return int(cursor.rowcount)


def insert_rows(
    rows: Sequence[models.Model], *, unique: tuple[str, ...] = (), update: tuple[str, ...] = ()
) -> None:
    """Insert the rows in one statement; where one with the same `unique` fields exists, set its `update` fields."""
    if not rows:
        return
    model = type(rows[0])
    fields = _inserted(model)
    values = [f.get_db_prep_save(getattr(row, f.attname), connection) for row in rows for f in fields]
    with connection.cursor() as cursor:
        cursor.execute(_insert_sql(model, len(rows), unique, update), values)


def _prepared(model: type[models.Model], values: dict[str, Any]) -> list[Any]:
    field = model._meta.get_field
    return [field(name).get_db_prep_save(value, connection) for name, value in values.items()]  # type: ignore[union-attr]


@lru_cache(maxsize=256)
def _inserted(model: type[models.Model]) -> "tuple[models.Field[Any, Any], ...]":
    return tuple(field for field in model._meta.concrete_fields if not isinstance(field, models.AutoField))


def _column(model: type[models.Model], name: str) -> str:
    return f'"{model._meta.get_field(name).column}"'  # type: ignore[union-attr]


@lru_cache(maxsize=256)
def _update_sql(model: type[models.Model], values: tuple[str, ...], where: tuple[str, ...]) -> str:
    assignments = ", ".join(f"{_column(model, name)} = %s" for name in values)
    conditions = " AND ".join(f"{_column(model, name)} = %s" for name in where)
    return f'UPDATE "{model._meta.db_table}" SET {assignments} WHERE {conditions}'  # noqa: S608 - our own names


@lru_cache(maxsize=256)
def _insert_sql(
    model: type[models.Model], count: int, unique: tuple[str, ...], update: tuple[str, ...]
) -> str:
    columns = ", ".join(f'"{field.column}"' for field in _inserted(model))
    row = "(" + ", ".join(["%s"] * len(_inserted(model))) + ")"
    sql = f'INSERT INTO "{model._meta.db_table}" ({columns}) VALUES {", ".join([row] * count)}'  # noqa: S608
    if not unique:
        return sql
    keys = ", ".join(_column(model, name) for name in unique)
    changes = ", ".join(f"{_column(model, name)} = EXCLUDED.{_column(model, name)}" for name in update)
    return f"{sql} ON CONFLICT ({keys}) DO UPDATE SET {changes}"
