"""One UPDATE that gives each of many rows its own values; the ORM's would be a CASE of as many branches."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection, models


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
    key = model._meta.pk
    assert key is not None
    given: list[Any] = [model._meta.get_field(name) for name in columns]
    fixed: list[Any] = [model._meta.get_field(name) for name in same]
    # Both databases name the columns of VALUES column1, column2, ...
    assignments = [f'"{field.column}" = each.column{place}' for place, field in enumerate(given, start=2)]
    assignments += [f'"{field.column}" = %s' for field in fixed]
    parameters = [_adapted(field, value) for field, value in zip(fixed, same.values(), strict=True)]
    for pk, values in rows.items():
        parameters.append(_adapted(key, pk))
        parameters += [_adapted(field, value) for field, value in zip(given, values, strict=True)]
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


def _adapted(field: Any, value: Any) -> Any:
    return field.get_db_prep_save(value, connection)
