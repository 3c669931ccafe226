"""Keys that take over from others, key pairs for imports, and emptying what opens a key that is destroyed."""

import uuid
from importlib import import_module
from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

policies: Any = import_module("keyguard.migrations.0005_add_policies")
history: Any = import_module("keyguard.migrations.0002_protect_history")

MATERIAL = "keyguard_keymaterial"
KEPT = ("id", "key_id", "seq", "kek_id", "dek_nonce", "nonce", "created_at")
DESTROYED = "EXISTS (SELECT 1 FROM keyguard_key WHERE keyguard_key.id = NEW.key_id AND keyguard_key.state = 'DESTROYED')"
# SQLite lets no table be altered that a trigger of another one names, and this one is altered the least.
ACTED = "EXISTS (SELECT 1 FROM keyguard_keyact WHERE keyguard_keyact.key_id = NEW.key_id AND keyguard_keyact.verb = 'DESTROY')"
EMPTIED = "length(NEW.wrapped_dek) = 0 AND length(NEW.ciphertext) = 0"


def shredded(compared: str, destroyed: str) -> str:
    """Return the condition under which an update only empties what opens a destroyed key."""
    kept = " AND ".join(f'NOT (OLD."{column}" {compared} NEW."{column}")' for column in KEPT)
    return f"{EMPTIED} AND {kept} AND {destroyed}"


MADE = {
    "postgresql": [
        f"DROP TRIGGER keyguard_keymaterial_append_only ON {MATERIAL}",
        f"""
        CREATE FUNCTION keyguard_shred_only() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            IF {shredded("IS DISTINCT FROM", DESTROYED)} THEN RETURN NEW; END IF;
            RAISE EXCEPTION '{history.MESSAGE}: % on %', TG_OP, TG_TABLE_NAME;
        END $$
        """,
        (
            f"CREATE TRIGGER keyguard_keymaterial_shred_only BEFORE UPDATE ON {MATERIAL} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_shred_only()"
        ),
        (
            f"CREATE TRIGGER keyguard_keymaterial_no_delete BEFORE DELETE ON {MATERIAL} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_append_only()"
        ),
    ],
    "sqlite": [
        "DROP TRIGGER keyguard_keymaterial_no_update",
        (
            f"CREATE TRIGGER keyguard_keymaterial_shred_only BEFORE UPDATE ON {MATERIAL}"
            f" WHEN NOT ({shredded('IS NOT', ACTED)}) {policies.ABORT}"
        ),
    ],
}
UNMADE = {
    "postgresql": [
        f"DROP TRIGGER keyguard_keymaterial_no_delete ON {MATERIAL}",
        f"DROP TRIGGER keyguard_keymaterial_shred_only ON {MATERIAL}",
        "DROP FUNCTION keyguard_shred_only()",
        (
            f"CREATE TRIGGER keyguard_keymaterial_append_only BEFORE UPDATE OR DELETE ON {MATERIAL} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_append_only()"
        ),
    ],
    "sqlite": [
        "DROP TRIGGER keyguard_keymaterial_shred_only",
        f"CREATE TRIGGER keyguard_keymaterial_no_update BEFORE UPDATE ON {MATERIAL} {policies.ABORT}",
    ],
}


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0008_add_kek_drills"),
    ]

    operations = [
        migrations.CreateModel(
            name="WrappingKey",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("public_key", models.TextField()),
                ("wrapped_dek", models.BinaryField()),
                ("dek_nonce", models.BinaryField(max_length=12)),
                ("nonce", models.BinaryField(max_length=12)),
                ("ciphertext", models.BinaryField()),
                ("actor", models.CharField(max_length=150)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("expires_at", models.DateTimeField()),
                ("used_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "key pair of an import",
                "verbose_name_plural": "key pairs of imports",
                "ordering": ["-created_at"],
            },
        ),
        migrations.RemoveConstraint(
            model_name="key",
            name="keyguard_key_state_valid",
        ),
        migrations.AddField(
            model_name="key",
            name="material_gone_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="key",
            name="replaces",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="successors",
                to="keyguard.key",
            ),
        ),
        migrations.AlterField(
            model_name="key",
            name="state",
            field=models.CharField(
                choices=[
                    ("ACTIVE", "Active"),
                    ("SUSPENDED", "Suspended"),
                    ("RETIRED", "Retired"),
                    ("COMPROMISED", "Compromised"),
                    ("DESTROYED", "Destroyed"),
                ],
                default="ACTIVE",
                max_length=12,
            ),
        ),
        migrations.AlterField(
            model_name="keyact",
            name="verb",
            field=models.CharField(
                choices=[
                    ("SUSPEND", "suspend"),
                    ("REACTIVATE", "give back to work"),
                    ("RETIRE", "retire"),
                    ("COMPROMISED", "mark as compromised"),
                    ("VALIDITY", "set from when until when it signs"),
                    ("IMPORT", "import"),
                    ("ROTATE", "hand over to a new key"),
                    ("HAND_OVER", "hand its alias over"),
                    ("GIVE_BACK", "give the alias back"),
                    ("DESTROY", "destroy"),
                ],
                max_length=12,
            ),
        ),
        migrations.AlterField(
            model_name="question",
            name="kind",
            field=models.CharField(
                choices=[
                    ("SIGNATURE", "signature"),
                    ("POLICY", "change of policy"),
                    ("KEY", "operation on keys"),
                    ("COMMAND", "operation by a command"),
                ],
                max_length=12,
            ),
        ),
        migrations.AddConstraint(
            model_name="key",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("state__in", ["ACTIVE", "SUSPENDED", "RETIRED", "COMPROMISED", "DESTROYED"])
                ),
                name="keyguard_key_state_valid",
            ),
        ),
        migrations.AddConstraint(
            model_name="key",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state__in", ["ACTIVE", "SUSPENDED"])),
                fields=("replaces",),
                name="keyguard_key_successor_unique",
            ),
        ),
        migrations.AddField(
            model_name="wrappingkey",
            name="kek",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="keyguard.kek"
            ),
        ),
        migrations.RunPython(policies.runner(MADE), policies.runner(UNMADE)),
    ]
