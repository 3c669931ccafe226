"""Backups of KEKs on paper, and when somebody tried them."""

from importlib import import_module
from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

policies: Any = import_module("keyguard.migrations.0005_add_policies")

DRILL = "keyguard_kekdrill"
MADE = {
    "postgresql": [
        (
            f"CREATE TRIGGER keyguard_kekdrill_append_only BEFORE UPDATE OR DELETE ON {DRILL} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_append_only()"
        )
    ],
    "sqlite": [
        f"CREATE TRIGGER keyguard_kekdrill_no_update BEFORE UPDATE ON {DRILL} {policies.ABORT}",
        f"CREATE TRIGGER keyguard_kekdrill_no_delete BEFORE DELETE ON {DRILL} {policies.ABORT}",
    ],
}
UNMADE = {
    "postgresql": [f"DROP TRIGGER keyguard_kekdrill_append_only ON {DRILL}"],
    "sqlite": [f"DROP TRIGGER {text.split()[2]}" for text in MADE["sqlite"]],
}


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0007_add_key_lifecycle"),
    ]

    operations = [
        migrations.CreateModel(
            name="KekDrill",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("BACKUP", "taken apart into shares"), ("DRILL", "shares tried")],
                        max_length=8,
                    ),
                ),
                ("threshold", models.PositiveSmallIntegerField()),
                ("shares", models.PositiveSmallIntegerField(default=0)),
                ("actor", models.CharField(max_length=150)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "kek",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="drills", to="keyguard.kek"
                    ),
                ),
            ],
            options={
                "verbose_name": "drill of a KEK's backup",
                "verbose_name_plural": "drills of KEKs' backups",
                "ordering": ["-at"],
            },
        ),
        migrations.RunPython(policies.runner(MADE), policies.runner(UNMADE)),
    ]
