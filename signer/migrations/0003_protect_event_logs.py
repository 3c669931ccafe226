"""Triggers that keep what the chain said as it said it: without a log, what its handler did can't be taken back."""

from typing import Any

from django.db import migrations

TABLE = "signer_eventlog"
KEPT = (
    "id",
    "contract_id",
    "block_number",
    "block_hash",
    "log_index",
    "transaction_hash",
    "topics",
    "data",
)
MESSAGE = "signer history is append-only"


def _changed(operator: str) -> str:
    """A log is removed once; nothing else of it ever changes."""
    columns = [f"OLD.{name} {operator} NEW.{name}" for name in KEPT]
    return " OR ".join([*columns, "OLD.removed_at IS NOT NULL"])


POSTGRESQL = f"""
CREATE TRIGGER signer_eventlog_no_delete BEFORE DELETE ON {TABLE}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_eventlog_kept BEFORE UPDATE ON {TABLE}
    FOR EACH ROW WHEN ({_changed("IS DISTINCT FROM")}) EXECUTE FUNCTION signer_append_only();
"""
POSTGRESQL_BACK = f"""
DROP TRIGGER signer_eventlog_kept ON {TABLE};
DROP TRIGGER signer_eventlog_no_delete ON {TABLE};
"""


def _sqlite(name: str, event: str, condition: str = "1") -> str:
    return (
        f"CREATE TRIGGER {name} BEFORE {event} ON {TABLE} WHEN {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
    )


SQLITE = [
    _sqlite("signer_eventlog_no_delete", "DELETE"),
    _sqlite("signer_eventlog_kept", "UPDATE", _changed("IS NOT")),
]
SQLITE_BACK = ["DROP TRIGGER signer_eventlog_kept", "DROP TRIGGER signer_eventlog_no_delete"]


def protect(apps: Any, schema_editor: Any) -> None:
    """Create the triggers."""
    _run(schema_editor, [POSTGRESQL], SQLITE)


def unprotect(apps: Any, schema_editor: Any) -> None:
    """Drop the triggers."""
    _run(schema_editor, [POSTGRESQL_BACK], SQLITE_BACK)


def _run(schema_editor: Any, postgresql: list[str], sqlite: list[str]) -> None:
    for statement in postgresql if schema_editor.connection.vendor == "postgresql" else sqlite:
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("signer", "0002_protect_history")]

    operations = [migrations.RunPython(protect, unprotect)]
