"""Hand-overs to custodies, and triggers that keep what was asked as it was asked and an end as it was told."""

import uuid
from typing import Any

import django.db.models.deletion
from django.db import migrations, models

import keyguard.fields

TABLE = "keyguard_handover"
ASKED = ("id", "external_id", "key_id", "payload_hash", "chain_id", "to", "value", "created_at")
MESSAGE = "keyguard history is append-only"


def _changed(operator: str) -> str:
    columns = [f'OLD."{column}" {operator} NEW."{column}"' for column in ASKED]
    return " OR ".join([*columns, "OLD.state IN ('REFUSED', 'FAILED')"])


POSTGRESQL = [
    f"CREATE TRIGGER keyguard_handover_no_delete BEFORE DELETE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION keyguard_append_only()",
    f"CREATE TRIGGER keyguard_handover_stays BEFORE UPDATE ON {TABLE} FOR EACH ROW WHEN ({_changed('IS DISTINCT FROM')}) EXECUTE FUNCTION keyguard_append_only()",
]
POSTGRESQL_BACK = [
    f"DROP TRIGGER keyguard_handover_stays ON {TABLE}",
    f"DROP TRIGGER keyguard_handover_no_delete ON {TABLE}",
]
SQLITE = [
    f"CREATE TRIGGER keyguard_handover_no_delete BEFORE DELETE ON {TABLE} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
    f"CREATE TRIGGER keyguard_handover_stays BEFORE UPDATE ON {TABLE} WHEN {_changed('IS NOT')} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END",
]
SQLITE_BACK = ["DROP TRIGGER keyguard_handover_stays", "DROP TRIGGER keyguard_handover_no_delete"]


def protect(apps: Any, schema_editor: Any) -> None:
    """Create the triggers."""
    _run(schema_editor, POSTGRESQL, SQLITE)


def unprotect(apps: Any, schema_editor: Any) -> None:
    """Drop the triggers."""
    _run(schema_editor, POSTGRESQL_BACK, SQLITE_BACK)


def _run(schema_editor: Any, postgresql: list[str], sqlite: list[str]) -> None:
    for statement in postgresql if schema_editor.connection.vendor == "postgresql" else sqlite:
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0003_add_allowed_delegates"),
    ]

    operations = [
        migrations.AddField(
            model_name="key",
            name="backend_ref",
            field=models.CharField(blank=True, max_length=100),
        ),
        migrations.AlterField(
            model_name="key",
            name="origin",
            field=models.CharField(
                choices=[("GENERATED", "Generated"), ("IMPORTED", "Imported"), ("CUSTODY", "Custody")],
                max_length=10,
            ),
        ),
        migrations.CreateModel(
            name="HandOver",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("external_id", models.CharField(max_length=64)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("INTENT", "checked and recorded; nobody has asked the custody"),
                            ("ASKED", "the custody is asked; its answer is not known"),
                            ("AWAITING_APPROVAL", "its people must approve it"),
                            ("WORKING", "it works on it"),
                            ("SENT", "it has sent it"),
                            ("REFUSED", "refused, here or by the custody"),
                            ("FAILED", "it gave it up"),
                        ],
                        default="INTENT",
                        max_length=20,
                    ),
                ),
                ("payload_hash", models.CharField(blank=True, max_length=66)),
                ("chain_id", models.BigIntegerField(null=True)),
                ("to", models.CharField(blank=True, max_length=42)),
                ("value", keyguard.fields.Uint256Field(null=True)),
                ("hash", models.CharField(blank=True, db_index=True, max_length=66)),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("error", models.CharField(blank=True, max_length=64)),
                ("created_at", models.DateTimeField(auto_now_add=True, db_index=True)),
                ("asked_at", models.DateTimeField(null=True)),
                ("answered_at", models.DateTimeField(null=True)),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="hand_overs",
                        to="keyguard.key",
                    ),
                ),
            ],
            options={
                "verbose_name": "hand-over to a custody",
                "verbose_name_plural": "hand-overs to custodies",
                "ordering": ["-created_at"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("external_id",), name="keyguard_handover_external_id_unique"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "state__in",
                                [
                                    "INTENT",
                                    "ASKED",
                                    "AWAITING_APPROVAL",
                                    "WORKING",
                                    "SENT",
                                    "REFUSED",
                                    "FAILED",
                                ],
                            )
                        ),
                        name="keyguard_handover_state_valid",
                    ),
                ],
            },
        ),
        migrations.RunPython(protect, unprotect),
    ]
