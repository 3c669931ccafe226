"""Triggers that keep material and finished signing records as they were written."""

from typing import Any

from django.db import migrations

MATERIAL, RECORD = "keyguard_keymaterial", "keyguard_signingrecord"
# What an intent says stays; only the answer may be added to it, once.
INTENT = (
    "id",
    "idempotency_key",
    "key_id",
    "kind",
    "payload_hash",
    "digest",
    "chain_id",
    "to",
    "value",
    "nonce",
    "created_at",
)
MESSAGE = "keyguard history is append-only"

_DISTINCT = " OR ".join(f'OLD."{column}" IS DISTINCT FROM NEW."{column}"' for column in INTENT)
_IS_NOT = " OR ".join(f'OLD."{column}" IS NOT NEW."{column}"' for column in INTENT)

POSTGRESQL = f"""
CREATE FUNCTION keyguard_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{MESSAGE}: % on %', TG_OP, TG_TABLE_NAME; END $$;
CREATE TRIGGER keyguard_keymaterial_append_only BEFORE UPDATE OR DELETE ON {MATERIAL}
    FOR EACH ROW EXECUTE FUNCTION keyguard_append_only();
CREATE TRIGGER keyguard_signingrecord_no_delete BEFORE DELETE ON {RECORD}
    FOR EACH ROW EXECUTE FUNCTION keyguard_append_only();
CREATE TRIGGER keyguard_signingrecord_finished BEFORE UPDATE ON {RECORD}
    FOR EACH ROW WHEN (OLD.state <> 'INTENT' OR NEW.state <> 'SIGNED' OR {_DISTINCT}) EXECUTE FUNCTION keyguard_append_only();
"""

SQLITE = [
    f"CREATE TRIGGER keyguard_keymaterial_no_update BEFORE UPDATE ON {MATERIAL} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER keyguard_keymaterial_no_delete BEFORE DELETE ON {MATERIAL} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER keyguard_signingrecord_no_delete BEFORE DELETE ON {RECORD} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER keyguard_signingrecord_finished BEFORE UPDATE ON {RECORD} WHEN OLD.state <> 'INTENT' OR NEW.state <> 'SIGNED' OR {_IS_NOT} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
]

POSTGRESQL_BACK = f"""
DROP TRIGGER keyguard_signingrecord_finished ON {RECORD};
DROP TRIGGER keyguard_signingrecord_no_delete ON {RECORD};
DROP TRIGGER keyguard_keymaterial_append_only ON {MATERIAL};
DROP FUNCTION keyguard_append_only();
"""

SQLITE_BACK = [
    "DROP TRIGGER keyguard_signingrecord_finished",
    "DROP TRIGGER keyguard_signingrecord_no_delete",
    "DROP TRIGGER keyguard_keymaterial_no_delete",
    "DROP TRIGGER keyguard_keymaterial_no_update",
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
    dependencies = [("keyguard", "0001_initial")]

    operations = [migrations.RunPython(protect, unprotect)]
