"""Triggers that keep what was signed as it was signed, a transaction's nonce its own, and what people did on record."""

from typing import Any

from django.db import migrations

ATTEMPT, TRANSACTION, ACT = "signer_attempt", "signer_transaction", "signer_act"
BLOB, AUTHORIZATION = "signer_blob", "signer_authorization"
# What was asked for never changes; an authorisation's nonce is given later, and blobs may be deleted when they are old.
CARRIED = {
    BLOB: ("id", "transaction_id", "position", "data"),
    AUTHORIZATION: ("id", "transaction_id", "position", "lane_id", "delegate"),
}
# What a node may have seen never changes; what it answered may be added.
SIGNED = ("id", "transaction_id", "seq", "purpose", "nonce", "raw", "hash", "gas_limit", "epoch")
# What was asked for never changes.
REQUEST = (
    "id", "lane_id", "chain_id", "to", "value", "data", "envelope", "access_list", "blob_count",
    "scope", "idempotency_key", "request_hash",
)  # fmt: skip
MESSAGE = "signer history is append-only"

# A nonce, once given, stays: giving another would allow the transaction to be executed twice. It can only be taken away
# when none of its attempts can be executed any more, because a stranger's transaction has used the nonce.
RENONCED = "OLD.nonce IS NOT NULL AND {}"
STILL_ALIVE = f"NEW.nonce IS NOT NULL OR EXISTS (SELECT 1 FROM {ATTEMPT} WHERE transaction_id = OLD.id AND state <> 'VOID')"  # noqa: S608
REVIVED = "OLD.state = 'VOID' AND NEW.state <> 'VOID'"


def _differs(columns: tuple[str, ...], operator: str) -> str:
    return " OR ".join(f'OLD."{column}" {operator} NEW."{column}"' for column in columns)


POSTGRESQL = f"""
CREATE FUNCTION signer_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{MESSAGE}: % on %', TG_OP, TG_TABLE_NAME; END $$;
CREATE FUNCTION signer_nonce_stays() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF {STILL_ALIVE} THEN RAISE EXCEPTION '{MESSAGE}: a nonce is given once'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER signer_attempt_no_delete BEFORE DELETE ON {ATTEMPT}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_attempt_signed BEFORE UPDATE ON {ATTEMPT}
    FOR EACH ROW WHEN ({_differs(SIGNED, "IS DISTINCT FROM")} OR ({REVIVED})) EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_transaction_no_delete BEFORE DELETE ON {TRANSACTION}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_transaction_request BEFORE UPDATE ON {TRANSACTION}
    FOR EACH ROW WHEN ({_differs(REQUEST, "IS DISTINCT FROM")}) EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_transaction_nonce BEFORE UPDATE ON {TRANSACTION}
    FOR EACH ROW WHEN ({RENONCED.format("OLD.nonce IS DISTINCT FROM NEW.nonce")})
    EXECUTE FUNCTION signer_nonce_stays();
CREATE TRIGGER signer_act_stays BEFORE UPDATE OR DELETE ON {ACT}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_authorization_no_delete BEFORE DELETE ON {AUTHORIZATION}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
""" + "".join(
    f"CREATE TRIGGER {table}_carries BEFORE UPDATE ON {table} FOR EACH ROW"
    f" WHEN ({_differs(columns, 'IS DISTINCT FROM')}) EXECUTE FUNCTION signer_append_only();\n"
    for table, columns in CARRIED.items()
)

POSTGRESQL_BACK = f"""
DROP TRIGGER signer_blob_carries ON {BLOB};
DROP TRIGGER signer_authorization_carries ON {AUTHORIZATION};
DROP TRIGGER signer_authorization_no_delete ON {AUTHORIZATION};
DROP TRIGGER signer_act_stays ON {ACT};
DROP TRIGGER signer_transaction_nonce ON {TRANSACTION};
DROP TRIGGER signer_transaction_request ON {TRANSACTION};
DROP TRIGGER signer_transaction_no_delete ON {TRANSACTION};
DROP TRIGGER signer_attempt_signed ON {ATTEMPT};
DROP TRIGGER signer_attempt_no_delete ON {ATTEMPT};
DROP FUNCTION signer_nonce_stays();
DROP FUNCTION signer_append_only();
"""


def _sqlite(name: str, event: str, table: str, condition: str = "1") -> str:
    return (
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} WHEN {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
    )


SQLITE = [
    _sqlite("signer_attempt_no_delete", "DELETE", ATTEMPT),
    _sqlite("signer_attempt_signed", "UPDATE", ATTEMPT, f"{_differs(SIGNED, 'IS NOT')} OR ({REVIVED})"),
    _sqlite("signer_transaction_no_delete", "DELETE", TRANSACTION),
    _sqlite("signer_transaction_request", "UPDATE", TRANSACTION, _differs(REQUEST, "IS NOT")),
    _sqlite(
        "signer_transaction_nonce",
        "UPDATE",
        TRANSACTION,
        f"({RENONCED.format('OLD.nonce IS NOT NEW.nonce')}) AND ({STILL_ALIVE})",
    ),
    _sqlite("signer_act_no_delete", "DELETE", ACT),
    _sqlite("signer_act_no_update", "UPDATE", ACT),
    _sqlite("signer_authorization_no_delete", "DELETE", AUTHORIZATION),
    *(
        _sqlite(f"{table}_carries", "UPDATE", table, _differs(columns, "IS NOT"))
        for table, columns in CARRIED.items()
    ),
]

SQLITE_BACK = [f"DROP TRIGGER {statement.split()[2]}" for statement in SQLITE]


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
