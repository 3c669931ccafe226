"""How long a key may sign, the states that people bring it to, and what they did to it."""

from importlib import import_module
from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

policies: Any = import_module("keyguard.migrations.0005_add_policies")

ACT = "keyguard_keyact"
MADE = {
    "postgresql": [
        (
            f"CREATE TRIGGER keyguard_keyact_append_only BEFORE UPDATE OR DELETE ON {ACT} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_append_only()"
        )
    ],
    "sqlite": [
        f"CREATE TRIGGER keyguard_keyact_no_update BEFORE UPDATE ON {ACT} {policies.ABORT}",
        f"CREATE TRIGGER keyguard_keyact_no_delete BEFORE DELETE ON {ACT} {policies.ABORT}",
    ],
}
UNMADE = {
    "postgresql": [f"DROP TRIGGER keyguard_keyact_append_only ON {ACT}"],
    "sqlite": [f"DROP TRIGGER {text.split()[2]}" for text in MADE["sqlite"]],
}


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0006_add_starter_policy"),
    ]

    operations = [
        migrations.CreateModel(
            name="KeyAct",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "verb",
                    models.CharField(
                        choices=[
                            ("SUSPEND", "suspend"),
                            ("REACTIVATE", "give back to work"),
                            ("RETIRE", "retire"),
                            ("COMPROMISED", "mark as compromised"),
                            ("VALIDITY", "set from when until when it signs"),
                        ],
                        max_length=12,
                    ),
                ),
                ("actor", models.CharField(max_length=150)),
                ("reason", models.CharField(max_length=500)),
                ("details", models.JSONField(default=dict)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "verbose_name": "act on a key",
                "verbose_name_plural": "acts on keys",
                "ordering": ["-at"],
            },
        ),
        migrations.RemoveConstraint(
            model_name="key",
            name="keyguard_key_state_valid",
        ),
        migrations.AddField(
            model_name="key",
            name="not_after",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="key",
            name="not_before",
            field=models.DateTimeField(blank=True, null=True),
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
                ],
                default="ACTIVE",
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
                    ("KEY", "operation on a key"),
                ],
                max_length=12,
            ),
        ),
        migrations.AddConstraint(
            model_name="key",
            constraint=models.CheckConstraint(
                condition=models.Q(("state__in", ["ACTIVE", "SUSPENDED", "RETIRED", "COMPROMISED"])),
                name="keyguard_key_state_valid",
            ),
        ),
        migrations.AddField(
            model_name="keyact",
            name="key",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="acts", to="keyguard.key"
            ),
        ),
        migrations.RunPython(policies.runner(MADE), policies.runner(UNMADE)),
    ]
