"""The statements that every step costs, as SQL that is made once and prepared by the database.

Django's query builder takes longer to make them than a database to carry them out. On PostgreSQL a checkpoint is one
statement, and so one round trip and one commit. Everything else in this app is written with the ORM.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import psycopg
from django.db import connection, models, transaction
from psycopg.types.json import Jsonb

M = TypeVar("M", bound=models.Model)
AnyField: TypeAlias = "models.Field[Any, Any]"


def update_row(model: type[models.Model], where: dict[str, Any], values: dict[str, Any]) -> int:
    """Set `values` in the rows whose columns equal `where`; return how many rows that were."""
    sql = _update_sql(model, tuple(values), tuple(where), connection.vendor)
    return len(run_sql(sql, _prepared(model, values) + _prepared(model, where)))


def insert_rows(
    rows: Sequence[models.Model], *, unique: tuple[str, ...] = (), update: tuple[str, ...] = ()
) -> None:
    """Insert the rows in one statement; where one with the same `unique` fields exists, set its `update` fields."""
    if not rows:
        return
    model = type(rows[0])
    run_sql(_insert_sql(model, len(rows), unique, update, connection.vendor), _values(rows))


def insert_unless_present(row: models.Model, others: Sequence[models.Model]) -> bool:
    """Insert a row and others with it, all or nothing; return False when a unique constraint has its place taken."""
    if connection.vendor == "postgresql":
        sql = _insert_with_sql(type(row), type(others[0]), len(others))
        return bool(run_sql(sql, [*_values([row]), *_values(others)]))
    with transaction.atomic():
        found = run_sql(_insert_first_sql(type(row), connection.vendor), _values([row]))
        if found:
            insert_rows(others)
    return bool(found)


class Upsert:
    """Rows of one model to insert, or to update where one with the same `unique` fields exists."""

    def __init__(
        self, rows: Sequence[models.Model], unique: tuple[str, ...] = (), update: tuple[str, ...] = ()
    ) -> None:
        self.rows, self.unique, self.update = rows, unique, update


def checkpoint(
    model: type[models.Model],
    where: dict[str, Any],
    values: dict[str, Any],
    writes: Sequence[Upsert],
    returning: str,
) -> list[Any]:
    """Update the one row that `where` names and write the rest with it, all or nothing.

    Returns the column `returning` of that row, in a list; an empty one when no row matches: nothing was written then.
    `where` carries the proof that the caller may write.
    """
    writes = [write for write in writes if write.rows]
    if connection.vendor != "postgresql":
        return _checkpoint_one_by_one(model, where, values, writes, returning)
    shape = tuple((type(write.rows[0]), len(write.rows), write.unique, write.update) for write in writes)
    parameters = _prepared(model, values) + _prepared(model, where)
    for write in writes:
        parameters += _values(write.rows)
    sql = _checkpoint_sql(model, tuple(values), tuple(where), shape, returning)
    return [row[0] for row in run_sql(sql, parameters)]


def _checkpoint_one_by_one(
    model: type[models.Model],
    where: dict[str, Any],
    values: dict[str, Any],
    writes: Sequence[Upsert],
    returning: str,
) -> list[Any]:
    sql = _update_sql(model, tuple(values), tuple(where), connection.vendor, returning)
    with transaction.atomic():
        found = run_sql(sql, _prepared(model, values) + _prepared(model, where))
        if found:
            for write in writes:
                insert_rows(write.rows, unique=write.unique, update=write.update)
    return [row[0] for row in found]


def fetch_rows(model: type[M], sql: str, parameters: Sequence[Any]) -> list[M]:
    """Run a statement that returns whole rows of the model (`columns(model)`), and return them as objects."""
    fields, loaders = _loaders(model, connection.vendor)
    names = [field.attname for field in fields]
    found = []
    for row in run_sql(sql, parameters):
        values = [_load(value, each) for value, each in zip(row, loaders, strict=True)]
        found.append(model.from_db(connection.alias, names, values))
    return found


def columns(model: type[models.Model]) -> str:
    return ", ".join(f'"{field.column}"' for field in model._meta.concrete_fields)


def run_sql(sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Carry out a statement that returns rows, and return them.

    Prepared on the server where the connection allows it: Django's own cursor sends the text anew each time. Behind a
    pooler that gives every transaction another connection nothing may be prepared; DISABLE_SERVER_SIDE_CURSORS says so.
    """
    if connection.vendor != "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    raw: psycopg.Connection[Any] = connection.connection
    if not connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        raw.prepare_threshold = 2
    with connection.wrap_database_errors, psycopg.Cursor(raw) as cursor:
        cursor.execute(sql.encode(), parameters)
        return cursor.fetchall()


def _prepared(model: type[models.Model], values: dict[str, Any]) -> list[Any]:
    adapters = _adapters(model, tuple(values), connection.vendor)
    return [adapt(value) for adapt, value in zip(adapters, values.values(), strict=True)]


def _values(rows: Sequence[models.Model]) -> list[Any]:
    model = type(rows[0])
    names = tuple(field.attname for field in _inserted(model))
    adapters = list(zip(names, _adapters(model, names, connection.vendor), strict=True))
    return [adapt(getattr(row, name)) for row in rows for name, adapt in adapters]


Adapter = Callable[[Any], Any]


@lru_cache(maxsize=256)
def _adapters(model: type[models.Model], names: tuple[str, ...], vendor: str) -> tuple[Adapter, ...]:
    """Return, for each field, how a value of Python becomes one that the driver takes."""
    return tuple(_adapter(_field(model, name), vendor) for name in names)


def _adapter(field: AnyField, vendor: str) -> Adapter:
    if vendor != "postgresql":
        return lambda value: field.get_db_prep_save(value, connection)
    if isinstance(field, models.JSONField):
        return lambda value: None if value is None else Jsonb(value)
    return _as_it_is  # psycopg knows texts, numbers, instants and UUIDs; the statement tells their types


def _as_it_is(value: Any) -> Any:
    return value


@lru_cache(maxsize=512)
def _field(model: type[models.Model], name: str) -> AnyField:
    for field in model._meta.concrete_fields:
        if name in (field.name, field.attname):
            return field
    raise LookupError(f"{model._meta.label} has no column {name!r}")


@lru_cache(maxsize=64)
def _inserted(model: type[models.Model]) -> tuple[AnyField, ...]:
    """Return the fields that an insert names: all that the database doesn't count up."""
    return tuple(field for field in model._meta.concrete_fields if not isinstance(field, models.AutoField))


def _placeholder(field: AnyField, vendor: str) -> str:
    # Told its type, the database need not guess it; in a list of VALUES it could not.
    if vendor != "postgresql":
        return "%s"
    kind = str(field.db_type(connection))
    # A cast to varchar(n) would cut off what is too long, and the column could not refuse it.
    return f"%s::{'text' if kind.startswith('varchar') else kind}"


def _column(model: type[models.Model], name: str) -> str:
    return f'"{_field(model, name).column}"'


@lru_cache(maxsize=256)
def _update_sql(
    model: type[models.Model],
    values: tuple[str, ...],
    where: tuple[str, ...],
    vendor: str,
    returning: str = "",
) -> str:
    returned = _column(model, returning) if returning else "1"
    assignments = ", ".join(
        f"{_column(model, name)} = {_placeholder(_field(model, name), vendor)}" for name in values
    )
    conditions = " AND ".join(
        f"{_column(model, name)} = {_placeholder(_field(model, name), vendor)}" for name in where
    )
    table = model._meta.db_table
    return f'UPDATE "{table}" SET {assignments} WHERE {conditions} RETURNING {returned}'  # noqa: S608 - our own names


@lru_cache(maxsize=256)
def _insert_sql(
    model: type[models.Model], count: int, unique: tuple[str, ...], update: tuple[str, ...], vendor: str
) -> str:
    return f"{_into(model)} VALUES {_rows(model, count, vendor)}{_on_conflict(model, unique, update)} RETURNING 1"


@lru_cache(maxsize=256)
def _checkpoint_sql(
    model: type[models.Model],
    values: tuple[str, ...],
    where: tuple[str, ...],
    shape: tuple[Any, ...],
    returning: str,
) -> str:
    parts = [f"mine AS ({_update_sql(model, values, where, 'postgresql', returning)})"]
    for number, (written, count, unique, update) in enumerate(shape):
        rows = f"(VALUES {_rows(written, count, 'postgresql')}) AS given"
        insert = f"{_into(written)} SELECT given.* FROM mine CROSS JOIN {rows}{_on_conflict(written, unique, update)}"  # noqa: S608
        parts.append(f"write_{number} AS ({insert})")
    return f"WITH {', '.join(parts)} SELECT * FROM mine"  # noqa: S608 - our own names


@lru_cache(maxsize=16)
def _insert_first_sql(model: type[models.Model], vendor: str) -> str:
    return f"{_into(model)} VALUES {_rows(model, 1, vendor)} ON CONFLICT DO NOTHING RETURNING 1"


@lru_cache(maxsize=16)
def _insert_with_sql(model: type[models.Model], written: type[models.Model], count: int) -> str:
    rows = f"(VALUES {_rows(written, count, 'postgresql')}) AS given"
    return (
        f"WITH mine AS ({_insert_first_sql(model, 'postgresql')}), "  # noqa: S608 - our own names
        f"others AS ({_into(written)} SELECT given.* FROM mine CROSS JOIN {rows}) SELECT 1 FROM mine"
    )


def _into(model: type[models.Model]) -> str:
    return f'INSERT INTO "{model._meta.db_table}" ({", ".join(f"{chr(34)}{f.column}{chr(34)}" for f in _inserted(model))})'


def _rows(model: type[models.Model], count: int, vendor: str) -> str:
    row = "(" + ", ".join(_placeholder(field, vendor) for field in _inserted(model)) + ")"
    return ", ".join([row] * count)


def _on_conflict(model: type[models.Model], unique: tuple[str, ...], update: tuple[str, ...]) -> str:
    if not unique:
        return ""
    keys = ", ".join(_column(model, name) for name in unique)
    changes = ", ".join(f"{_column(model, name)} = EXCLUDED.{_column(model, name)}" for name in update)
    return f" ON CONFLICT ({keys}) DO UPDATE SET {changes}"


Loader = Callable[[Any, Any, Any], Any]


@lru_cache(maxsize=64)
def _loaders(
    model: type[models.Model], vendor: str
) -> tuple[tuple[AnyField, ...], list[list[tuple[Loader, Any]]]]:
    """Return the model's fields, and for each how a value of the database becomes one of Python."""
    fields = tuple(model._meta.concrete_fields)
    loaders = []
    for field in fields:
        expression = field.get_col(model._meta.db_table)
        found = connection.ops.get_db_converters(expression) + expression.get_db_converters(connection)
        loaders.append([(loader, expression) for loader in found])
    return fields, loaders


def _load(value: Any, loaders: list[tuple[Loader, Any]]) -> Any:
    for loader, expression in loaders:
        value = loader(value, expression, connection)
    return value
