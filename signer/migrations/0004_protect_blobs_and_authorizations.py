"""Triggers that keep blobs and authorisations as they were asked for; SQLite's others again, lost as it copied tables."""

from importlib import import_module
from typing import Any

from django.db import migrations

BLOB, AUTHORIZATION = "signer_blob", "signer_authorization"
BLOB_REQUEST = ("id", "transaction_id", "position", "data")
# The nonce is given later.
AUTHORIZATION_REQUEST = ("id", "transaction_id", "position", "lane_id", "delegate")

earlier = import_module("signer.migrations.0002_protect_history")

POSTGRESQL = f"""
CREATE TRIGGER signer_blob_request BEFORE UPDATE ON {BLOB}
    FOR EACH ROW WHEN ({earlier._differs(BLOB_REQUEST, "IS DISTINCT FROM")}) EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_authorization_no_delete BEFORE DELETE ON {AUTHORIZATION}
    FOR EACH ROW EXECUTE FUNCTION signer_append_only();
CREATE TRIGGER signer_authorization_request BEFORE UPDATE ON {AUTHORIZATION}
    FOR EACH ROW WHEN ({earlier._differs(AUTHORIZATION_REQUEST, "IS DISTINCT FROM")})
    EXECUTE FUNCTION signer_append_only();
"""

POSTGRESQL_BACK = f"""
DROP TRIGGER signer_authorization_request ON {AUTHORIZATION};
DROP TRIGGER signer_authorization_no_delete ON {AUTHORIZATION};
DROP TRIGGER signer_blob_request ON {BLOB};
"""

SQLITE = [
    earlier._sqlite("signer_blob_request", "UPDATE", BLOB, earlier._differs(BLOB_REQUEST, "IS NOT")),
    earlier._sqlite("signer_authorization_no_delete", "DELETE", AUTHORIZATION),
    earlier._sqlite(
        "signer_authorization_request",
        "UPDATE",
        AUTHORIZATION,
        earlier._differs(AUTHORIZATION_REQUEST, "IS NOT"),
    ),
]

SQLITE_BACK = [
    "DROP TRIGGER signer_authorization_request",
    "DROP TRIGGER signer_authorization_no_delete",
    "DROP TRIGGER signer_blob_request",
]


def protect(apps: Any, schema_editor: Any) -> None:
    """Create the triggers."""
    if schema_editor.connection.vendor == "sqlite":
        lost = [f"DROP TRIGGER IF EXISTS {statement.split()[2]}" for statement in earlier.SQLITE]
        earlier._run(schema_editor, "", [*lost, *earlier.SQLITE])
    earlier._run(schema_editor, POSTGRESQL, SQLITE)


def unprotect(apps: Any, schema_editor: Any) -> None:
    """Drop the triggers."""
    earlier._run(schema_editor, POSTGRESQL_BACK, SQLITE_BACK)


class Migration(migrations.Migration):
    dependencies = [("signer", "0003_add_blobs_and_authorizations")]

    operations = [migrations.RunPython(protect, unprotect)]
