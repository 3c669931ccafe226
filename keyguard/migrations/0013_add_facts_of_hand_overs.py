"""What a policy knows of a call that is handed over: kept as it was asked, and read again by rehearsals."""

from importlib import import_module
from typing import Any

from django.db import migrations, models

policies: Any = import_module("keyguard.migrations.0005_add_policies")
calls: Any = import_module("keyguard.migrations.0004_add_hand_overs")

ASKED = (*calls.ASKED, "facts")
ENDED = "OLD.state IN ('REFUSED', 'FAILED')"
MADE = {
    "postgresql": [
        calls.POSTGRESQL[0],
        (
            f"CREATE TRIGGER keyguard_handover_stays BEFORE UPDATE ON {calls.TABLE} FOR EACH ROW"
            f" WHEN ({policies.differ(ASKED, 'IS DISTINCT FROM')} OR {ENDED})"
            " EXECUTE FUNCTION keyguard_append_only()"
        ),
    ],
    "sqlite": [
        calls.SQLITE[0],
        (
            f"CREATE TRIGGER keyguard_handover_stays BEFORE UPDATE ON {calls.TABLE}"
            f" WHEN {policies.differ(ASKED, 'IS NOT')} OR {ENDED} {policies.ABORT}"
        ),
    ],
}

# SQLite may make the table anew for a new column, and would leave its triggers behind.
protect = policies.runner(MADE)


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0012_add_custodians_of_drills"),
    ]

    operations = [
        migrations.RunPython(calls.unprotect, calls.protect),
        migrations.AddField(
            model_name="handover",
            name="facts",
            field=models.JSONField(null=True),
        ),
        migrations.RunPython(protect, calls.unprotect),
    ]
