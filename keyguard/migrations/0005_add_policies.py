"""Policies in versions, questions and votes, limits; and what a signing record says of them."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import keyguard.fields

history: Any = import_module("keyguard.migrations.0002_protect_history")

POLICY, VOTE, RECORD = "keyguard_policy", "keyguard_vote", "keyguard_signingrecord"
FIXED = ("id", "number", "body", "hash", "author", "note", "created_at")
INTENT = (*history.INTENT, "subject", "caller", "facts")
ABORT = f"BEGIN SELECT RAISE(ABORT, '{history.MESSAGE}'); END"


def differ(columns: Sequence[str], distinct: str) -> str:
    return " OR ".join(f'OLD."{column}" {distinct} NEW."{column}"' for column in columns)


def finished(columns: Sequence[str], distinct: str) -> str:
    """Return when a signing record must not be changed."""
    return f"OLD.state <> 'INTENT' OR NEW.state <> 'SIGNED' OR {differ(columns, distinct)}"


def on_postgresql(columns: Sequence[str]) -> str:
    return (
        f"CREATE TRIGGER keyguard_signingrecord_finished BEFORE UPDATE ON {RECORD} FOR EACH ROW"
        f" WHEN ({finished(columns, 'IS DISTINCT FROM')}) EXECUTE FUNCTION keyguard_append_only()"
    )


# SQLite makes the table anew for a new column, and would leave its triggers behind.
DROPPED = {
    "postgresql": ["DROP TRIGGER keyguard_signingrecord_finished ON keyguard_signingrecord"],
    "sqlite": [
        "DROP TRIGGER keyguard_signingrecord_finished",
        "DROP TRIGGER keyguard_signingrecord_no_delete",
    ],
}
AS_BEFORE = {
    "postgresql": [on_postgresql(history.INTENT)],
    "sqlite": [text for text in history.SQLITE if RECORD in text],
}
MADE = {
    "postgresql": [
        on_postgresql(INTENT),
        (
            f"CREATE TRIGGER keyguard_policy_fixed BEFORE UPDATE ON {POLICY} FOR EACH ROW"
            f" WHEN ({differ(FIXED, 'IS DISTINCT FROM')}) EXECUTE FUNCTION keyguard_append_only()"
        ),
        (
            f"CREATE TRIGGER keyguard_policy_no_delete BEFORE DELETE ON {POLICY} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_append_only()"
        ),
        (
            f"CREATE TRIGGER keyguard_vote_append_only BEFORE UPDATE OR DELETE ON {VOTE} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_append_only()"
        ),
    ],
    "sqlite": [
        f"CREATE TRIGGER keyguard_signingrecord_no_delete BEFORE DELETE ON {RECORD} {ABORT}",
        (
            f"CREATE TRIGGER keyguard_signingrecord_finished BEFORE UPDATE ON {RECORD}"
            f" WHEN {finished(INTENT, 'IS NOT')} {ABORT}"
        ),
        f"CREATE TRIGGER keyguard_policy_fixed BEFORE UPDATE ON {POLICY} WHEN {differ(FIXED, 'IS NOT')} {ABORT}",
        f"CREATE TRIGGER keyguard_policy_no_delete BEFORE DELETE ON {POLICY} {ABORT}",
        f"CREATE TRIGGER keyguard_vote_no_update BEFORE UPDATE ON {VOTE} {ABORT}",
        f"CREATE TRIGGER keyguard_vote_no_delete BEFORE DELETE ON {VOTE} {ABORT}",
    ],
}
UNMADE = {
    "postgresql": [
        f"DROP TRIGGER keyguard_vote_append_only ON {VOTE}",
        f"DROP TRIGGER keyguard_policy_no_delete ON {POLICY}",
        f"DROP TRIGGER keyguard_policy_fixed ON {POLICY}",
        *DROPPED["postgresql"],
    ],
    "sqlite": [f"DROP TRIGGER {text.split()[2]}" for text in MADE["sqlite"]],
}


def runner(statements: Mapping[str, Sequence[str]]) -> Callable[[Any, Any], None]:
    def run(apps: Any, schema_editor: Any) -> None:
        for statement in statements[schema_editor.connection.vendor]:
            schema_editor.execute(statement, params=None)

    return run


unprotect, protect_as_before = runner(DROPPED), runner(AS_BEFORE)
protect, unprotect_again = runner(MADE), runner(UNMADE)


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0004_add_hand_overs"),
    ]

    operations = [
        migrations.RunPython(unprotect, protect_as_before),
        migrations.AddField(
            model_name="signingrecord",
            name="caller",
            field=models.CharField(blank=True, max_length=150),
        ),
        migrations.AddField(
            model_name="signingrecord",
            name="facts",
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name="signingrecord",
            name="subject",
            field=models.CharField(blank=True, max_length=255),
        ),
        migrations.AddField(
            model_name="signingrecord",
            name="why",
            field=models.CharField(blank=True, max_length=300),
        ),
        migrations.CreateModel(
            name="Policy",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("number", models.PositiveIntegerField()),
                ("body", models.JSONField()),
                ("hash", models.CharField(max_length=66)),
                (
                    "state",
                    models.CharField(
                        choices=[("DRAFT", "Draft"), ("ACTIVE", "in force"), ("RETIRED", "Retired")],
                        default="DRAFT",
                        max_length=10,
                    ),
                ),
                (
                    "note",
                    models.CharField(
                        blank=True, help_text="what this version changes, and why", max_length=500
                    ),
                ),
                ("author", models.CharField(max_length=150)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("activated_at", models.DateTimeField(null=True)),
                ("retired_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name_plural": "policies",
                "ordering": ["-number"],
                "constraints": [
                    models.UniqueConstraint(fields=("number",), name="keyguard_policy_number_unique"),
                    models.UniqueConstraint(
                        condition=models.Q(("state", "ACTIVE")),
                        fields=("state",),
                        name="keyguard_policy_active_unique",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("state__in", ["DRAFT", "ACTIVE", "RETIRED"])),
                        name="keyguard_policy_state_valid",
                    ),
                ],
            },
        ),
        migrations.AddField(
            model_name="signingrecord",
            name="policy",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="keyguard.policy"
            ),
        ),
        migrations.CreateModel(
            name="Purse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("rule", models.CharField(max_length=80)),
                ("bucket", models.CharField(max_length=300)),
            ],
            options={
                "verbose_name": "limit of the policy",
                "verbose_name_plural": "limits of the policy",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("rule", "bucket"), name="keyguard_purse_rule_bucket_unique"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Question",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("SIGNATURE", "signature"), ("POLICY", "change of policy")], max_length=12
                    ),
                ),
                ("subject", models.CharField(max_length=255)),
                ("content_hash", models.CharField(max_length=66)),
                ("needs", models.JSONField()),
                ("shown", models.JSONField(default=dict)),
                ("asked_by", models.CharField(blank=True, max_length=150)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("OPEN", "waits for answers"),
                            ("GRANTED", "approved"),
                            ("USED", "approved, and signed"),
                            ("REFUSED", "refused"),
                            ("EXPIRED", "its time is over"),
                        ],
                        default="OPEN",
                        max_length=8,
                    ),
                ),
                ("asked_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("expires_at", models.DateTimeField()),
                ("answered_at", models.DateTimeField(null=True)),
                (
                    "key",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="questions",
                        to="keyguard.key",
                    ),
                ),
                (
                    "policy",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="questions",
                        to="keyguard.policy",
                    ),
                ),
            ],
            options={
                "ordering": ["-asked_at"],
            },
        ),
        migrations.CreateModel(
            name="Spending",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("subject", models.CharField(max_length=255)),
                ("amount", keyguard.fields.Uint256Field()),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "purse",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="spendings",
                        to="keyguard.purse",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Vote",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("person", models.CharField(max_length=150)),
                ("approves", models.BooleanField()),
                ("content_hash", models.CharField(max_length=66)),
                ("reason", models.CharField(blank=True, max_length=500)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "question",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="votes",
                        to="keyguard.question",
                    ),
                ),
            ],
            options={
                "ordering": ["at"],
            },
        ),
        migrations.AddIndex(
            model_name="question",
            index=models.Index(
                condition=models.Q(("state__in", ["OPEN", "GRANTED"])),
                fields=["expires_at"],
                name="keyguard_question_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="question",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state__in", ["OPEN", "GRANTED", "USED"])),
                fields=("subject", "content_hash"),
                name="keyguard_question_open_unique",
            ),
        ),
        migrations.AddConstraint(
            model_name="question",
            constraint=models.CheckConstraint(
                condition=models.Q(("state__in", ["OPEN", "GRANTED", "USED", "REFUSED", "EXPIRED"])),
                name="keyguard_question_state_valid",
            ),
        ),
        migrations.AddIndex(
            model_name="spending",
            index=models.Index(fields=["purse", "at"], name="keyguard_spending_window"),
        ),
        migrations.AddConstraint(
            model_name="spending",
            constraint=models.UniqueConstraint(
                fields=("purse", "subject"), name="keyguard_spending_subject_unique"
            ),
        ),
        migrations.AddConstraint(
            model_name="vote",
            constraint=models.UniqueConstraint(
                fields=("question", "person"), name="keyguard_vote_person_unique"
            ),
        ),
        migrations.RunPython(protect, unprotect_again),
    ]
