"""The policy that a new system begins with: it allows what passes the hard floor, until somebody writes a better one."""

import hashlib
import json
from typing import Any

from django.db import migrations

BODY = {
    "rules": [
        {
            "name": "whatever passes the floor",
            "effect": "allow",
            "when": {"what": ["payment", "creation", "delegation", "message"]},
        },
        {"name": "any call", "effect": "allow", "when": {"what": ["call", "allowance"], "function": "any"}},
        {
            "name": "any typed data",
            "effect": "allow",
            "when": {"what": ["typed_data", "allowance"], "primary_type": "any"},
        },
    ]
}


def add(apps: Any, schema_editor: Any) -> None:
    """Put it in force."""
    text = json.dumps(BODY, sort_keys=True, separators=(",", ":"))
    apps.get_model("keyguard", "Policy").objects.create(
        number=1,
        body=BODY,
        hash=f"0x{hashlib.sha256(text.encode()).hexdigest()}",
        state="ACTIVE",
        author="DALP",
        note="What a new system begins with: everything that passes the hard floor.",
    )


class Migration(migrations.Migration):
    dependencies = [("keyguard", "0005_add_policies")]

    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
