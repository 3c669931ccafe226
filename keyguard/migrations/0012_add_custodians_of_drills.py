"""Who keeps the shares of a backup, and who brought theirs to a drill."""

from importlib import import_module
from typing import Any

from django.db import migrations, models

policies: Any = import_module("keyguard.migrations.0005_add_policies")
drills: Any = import_module("keyguard.migrations.0008_add_kek_drills")

# SQLite makes the table anew for a new column, and would leave its triggers behind.
protect, unprotect = policies.runner(drills.MADE), policies.runner(drills.UNMADE)


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0011_guard_approving_groups"),
    ]

    operations = [
        migrations.RunPython(unprotect, protect),
        migrations.AddField(
            model_name="kekdrill",
            name="custodians",
            field=models.JSONField(default=list),
        ),
        migrations.RunPython(protect, unprotect),
    ]
