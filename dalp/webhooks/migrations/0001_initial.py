import uuid

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import workflows.ids


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("signer", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Webhook",
            fields=[
                ("epoch", models.BigIntegerField(default=0, editable=False)),
                ("lease_owner", models.CharField(blank=True, default="", editable=False, max_length=80)),
                ("lease_until", models.DateTimeField(blank=True, editable=False, null=True)),
                (
                    "id",
                    models.UUIDField(
                        default=workflows.ids.uuid7, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("url", models.TextField(editable=False)),
                ("events", models.JSONField()),
                ("description", models.CharField(blank=True, default="", max_length=200)),
                ("enabled", models.BooleanField(default=True)),
                ("disabled_because", models.TextField(blank=True, default="")),
                ("secret_sealed", models.TextField(editable=False)),
                ("previous_secret_sealed", models.TextField(blank=True, default="", editable=False)),
                ("previous_until", models.DateTimeField(blank=True, null=True)),
                ("failures", models.PositiveIntegerField(default=0)),
                ("paused_until", models.DateTimeField(blank=True, null=True)),
                ("delivered_at", models.DateTimeField(blank=True, null=True)),
                ("last_error", models.TextField(blank=True, default="")),
                ("last_error_at", models.DateTimeField(blank=True, null=True)),
                ("created_by", models.CharField(blank=True, default="", max_length=150)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "ordering": ("-id",),
            },
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("message_id", models.UUIDField(default=uuid.uuid4, editable=False)),
                ("type", models.CharField(max_length=60)),
                ("body", models.TextField()),
                (
                    "state",
                    models.CharField(
                        choices=[("PENDING", "Pending"), ("DELIVERED", "Delivered"), ("DEAD", "given up")],
                        default="PENDING",
                        max_length=10,
                    ),
                ),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("next_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("failing_since", models.DateTimeField(blank=True, null=True)),
                ("last_status", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("last_error", models.TextField(blank=True, default="")),
                ("settled_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "transaction",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="+",
                        to="signer.transaction",
                    ),
                ),
                (
                    "webhook",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="webhooks.webhook",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "deliveries",
                "ordering": ("-id",),
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "PENDING")),
                        fields=["webhook", "next_at", "id"],
                        name="webhooks_delivery_due",
                    ),
                    models.Index(
                        condition=models.Q(("state", "PENDING")),
                        fields=["webhook", "transaction", "id"],
                        name="webhooks_delivery_order",
                    ),
                    models.Index(
                        condition=models.Q(("state", "DEAD")),
                        fields=["webhook"],
                        name="webhooks_delivery_dead",
                    ),
                    models.Index(
                        condition=models.Q(("settled_at__isnull", False)),
                        fields=["settled_at"],
                        name="webhooks_delivery_settled",
                    ),
                    models.Index(fields=["webhook", "-id"], name="webhooks_delivery_listed"),
                    models.Index(fields=["transaction", "id"], name="webhooks_delivery_transaction"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("message_id",), name="webhooks_delivery_message_unique"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("settled_at__isnull", True), ("state", "PENDING")),
                            models.Q(
                                models.Q(("state", "PENDING"), _negated=True), ("settled_at__isnull", False)
                            ),
                            _connector="OR",
                        ),
                        name="webhooks_delivery_settled_has_instant",
                    ),
                ],
            },
        ),
    ]
