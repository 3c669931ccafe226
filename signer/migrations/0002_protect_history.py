"""Triggers that keep what was signed as it was signed, and a transaction's nonce its own for ever."""

from typing import Any

from django.db import migrations

ATTEMPT, TRANSACTION = "signer_attempt", "signer_transaction"
# What a node may have seen never changes; what it answered may be added.
SIGNED = ("id", "transaction_id", "seq", "purpose", "nonce", "raw", "hash", "gas_limit", "epoch")
# What was asked for never changes.
REQUEST = ("id", "lane_id", "chain_id", "to", "value", "data", "scope", "idempotency_key", "request_hash")
MESSAGE = "signer history is append-only"


def _differs(columns: tuple[str, ...], operator: str) -> str:
    return " OR ".join(f'OLD."{column}" {operator} NEW."{column}"' for column in columns)


# A nonce, once given, stays: giving another would allow the transaction to be executed twice.
RENONCED = "OLD.nonce IS NOT NULL AND {}"

POSTGRESQL = f"""
CREATE FUNCTION signer_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{MESSAGE}: % on %', TG_OP, TG_TABLE_NAME; END $$;
CREATE TRIGGER signer_attempt_no_delete BEFORE DELETE ON {ATTEMPT}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_attempt_signed BEFORE UPDATE ON {ATTEMPT}
    FOR EACH ROW WHEN ({_differs(SIGNED, "IS DISTINCT FROM")}) EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_transaction_no_delete BEFORE DELETE ON {TRANSACTION}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_transaction_request BEFORE UPDATE ON {TRANSACTION}
    FOR EACH ROW WHEN ({_differs(REQUEST, "IS DISTINCT FROM")}
        OR ({RENONCED.format("OLD.nonce IS DISTINCT FROM NEW.nonce")})) EXECUTE FUNCTION signer_append_only();
"""

POSTGRESQL_BACK = f"""
DROP TRIGGER signer_transaction_request ON {TRANSACTION};
DROP TRIGGER signer_transaction_no_delete ON {TRANSACTION};
DROP TRIGGER signer_attempt_signed ON {ATTEMPT};
DROP TRIGGER signer_attempt_no_delete ON {ATTEMPT};
DROP FUNCTION signer_append_only();
"""


def _sqlite(name: str, event: str, table: str, condition: str = "1") -> str:
    return (
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} WHEN {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
    )


SQLITE = [
    _sqlite("signer_attempt_no_delete", "DELETE", ATTEMPT),
    _sqlite("signer_attempt_signed", "UPDATE", ATTEMPT, _differs(SIGNED, "IS NOT")),
    _sqlite("signer_transaction_no_delete", "DELETE", TRANSACTION),
    _sqlite(
        "signer_transaction_request",
        "UPDATE",
        TRANSACTION,
        f"{_differs(REQUEST, 'IS NOT')} OR ({RENONCED.format('OLD.nonce IS NOT NEW.nonce')})",
    ),
]

SQLITE_BACK = [
    "DROP TRIGGER signer_transaction_request",
    "DROP TRIGGER signer_transaction_no_delete",
    "DROP TRIGGER signer_attempt_signed",
    "DROP TRIGGER signer_attempt_no_delete",
]


def protect(apps: Any, schema_editor: Any) -> None:
    """Create the triggers."""
    _run(schema_editor, POSTGRESQL, SQLITE)


def unprotect(apps: Any, schema_editor: Any) -> None:
    """Drop the triggers."""
    _run(schema_editor, POSTGRESQL_BACK, SQLITE_BACK)


def _run(schema_editor: Any, postgresql: str, sqlite: list[str]) -> None:
    statements = [postgresql] if schema_editor.connection.vendor == "postgresql" else sqlite
    for statement in statements:
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("signer", "0001_initial")]

    operations = [migrations.RunPython(protect, unprotect)]
