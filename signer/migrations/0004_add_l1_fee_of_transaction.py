"""What the chain below may charge for a transaction, so that a higher offer does not forget it."""

from django.db import migrations

import keyguard.fields


class Migration(migrations.Migration):
    dependencies = [
        ("signer", "0003_protect_event_logs"),
    ]

    operations = [
        migrations.AddField(
            model_name="transaction",
            name="l1_fee_wei",
            field=keyguard.fields.Uint256Field(blank=True, null=True),
        ),
    ]
