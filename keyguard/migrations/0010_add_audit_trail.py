"""The audit trail, and what a signing record says of it; sealings; limits that are given back."""

from importlib import import_module
from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

policies: Any = import_module("keyguard.migrations.0005_add_policies")

CHAIN, ENTRY, HEAD, RECORD = (
    "keyguard_auditchain",
    "keyguard_auditentry",
    "keyguard_audithead",
    "keyguard_signingrecord",
)
INTENT = (*policies.INTENT, "intent_seq", "policy_id")


def finished(distinct: str) -> str:
    """Return when a signing record must not be changed."""
    return f"OLD.state <> 'INTENT' OR NEW.state NOT IN ('SIGNED', 'REFUSED') OR {policies.differ(INTENT, distinct)}"


# SQLite makes the table anew for a new column, and would leave its triggers behind.
DROPPED = policies.DROPPED
AS_BEFORE = {
    "postgresql": [policies.on_postgresql(policies.INTENT)],
    "sqlite": [text for text in policies.MADE["sqlite"] if f"ON {RECORD} " in text],
}
MADE = {
    "postgresql": [
        (
            f"CREATE TRIGGER keyguard_signingrecord_finished BEFORE UPDATE ON {RECORD} FOR EACH ROW"
            f" WHEN ({finished('IS DISTINCT FROM')}) EXECUTE FUNCTION keyguard_append_only()"
        ),
        *(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION keyguard_append_only()"
            for table in (ENTRY, HEAD)
        ),
        (
            f"CREATE TRIGGER {CHAIN}_forward BEFORE UPDATE ON {CHAIN} FOR EACH ROW"
            " WHEN (NEW.seq < OLD.seq OR NEW.name <> OLD.name) EXECUTE FUNCTION keyguard_append_only()"
        ),
        (
            f"CREATE TRIGGER {CHAIN}_no_delete BEFORE DELETE ON {CHAIN}"
            " FOR EACH ROW EXECUTE FUNCTION keyguard_append_only()"
        ),
    ],
    "sqlite": [
        f"CREATE TRIGGER keyguard_signingrecord_no_delete BEFORE DELETE ON {RECORD} {policies.ABORT}",
        (
            f"CREATE TRIGGER keyguard_signingrecord_finished BEFORE UPDATE ON {RECORD}"
            f" WHEN {finished('IS NOT')} {policies.ABORT}"
        ),
        *(
            f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} {policies.ABORT}"
            for table in (ENTRY, HEAD)
            for verb in ("update", "delete")
        ),
        (
            f"CREATE TRIGGER {CHAIN}_forward BEFORE UPDATE ON {CHAIN}"
            f" WHEN NEW.seq < OLD.seq OR NEW.name <> OLD.name {policies.ABORT}"
        ),
        f"CREATE TRIGGER {CHAIN}_no_delete BEFORE DELETE ON {CHAIN} {policies.ABORT}",
    ],
}
UNMADE = {
    "postgresql": [
        f"DROP TRIGGER {CHAIN}_no_delete ON {CHAIN}",
        f"DROP TRIGGER {CHAIN}_forward ON {CHAIN}",
        f"DROP TRIGGER {HEAD}_append_only ON {HEAD}",
        f"DROP TRIGGER {ENTRY}_append_only ON {ENTRY}",
        f"DROP TRIGGER keyguard_signingrecord_finished ON {RECORD}",
    ],
    "sqlite": [f"DROP TRIGGER {text.split()[2]}" for text in MADE["sqlite"]],
}


class Migration(migrations.Migration):
    dependencies = [
        ("keyguard", "0009_add_succession"),
    ]

    operations = [
        migrations.RunPython(policies.runner(DROPPED), policies.runner(AS_BEFORE)),
        migrations.CreateModel(
            name="AuditChain",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=36)),
                ("seq", models.BigIntegerField(default=0)),
                ("mac", models.BinaryField(default=b"")),
                ("headed_seq", models.BigIntegerField(default=0)),
            ],
            options={
                "verbose_name": "chain of the audit trail",
                "verbose_name_plural": "chains of the audit trail",
            },
        ),
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("seq", models.BigIntegerField()),
                ("at", models.DateTimeField()),
                ("event", models.CharField(max_length=20)),
                ("body", models.TextField()),
                ("mac", models.BinaryField(max_length=32)),
                ("mac_key", models.CharField(max_length=8)),
            ],
            options={
                "verbose_name": "entry of the audit trail",
                "verbose_name_plural": "entries of the audit trail",
                "ordering": ["-id"],
            },
        ),
        migrations.CreateModel(
            name="AuditHead",
            fields=[
                ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField()),
                ("heads", models.TextField()),
                ("hash", models.CharField(max_length=66)),
                ("signer", models.CharField(blank=True, max_length=42)),
                ("signature", models.BinaryField(default=b"")),
            ],
            options={
                "verbose_name": "head of the audit trail",
                "verbose_name_plural": "heads of the audit trail",
                "ordering": ["-number"],
            },
        ),
        migrations.CreateModel(
            name="Sealing",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("backend", models.CharField(blank=True, max_length=20)),
                ("code", models.CharField(blank=True, max_length=64)),
                ("reason", models.CharField(max_length=500)),
                ("actor", models.CharField(blank=True, max_length=150)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("lifted_at", models.DateTimeField(null=True)),
                ("lifted_by", models.CharField(blank=True, max_length=150)),
                ("lifted_reason", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "ordering": ["-at"],
                "verbose_name": "seal on keys",
                "verbose_name_plural": "seals on keys",
            },
        ),
        migrations.AddField(
            model_name="signingrecord",
            name="intent_seq",
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="signingrecord",
            name="result_seq",
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="spending",
            name="uses",
            field=models.IntegerField(default=1),
        ),
        migrations.AlterField(
            model_name="signingrecord",
            name="key",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="records",
                to="keyguard.key",
            ),
        ),
        migrations.AlterField(
            model_name="signingrecord",
            name="policy",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="keyguard.policy",
            ),
        ),
        migrations.AlterField(
            model_name="signingrecord", name="hash", field=models.CharField(blank=True, max_length=66)
        ),
        migrations.AddIndex(
            model_name="signingrecord",
            index=models.Index(fields=["key", "intent_seq"], name="keyguard_record_chain"),
        ),
        migrations.AddIndex(
            model_name="signingrecord",
            index=models.Index(
                condition=models.Q(("state", "INTENT")),
                fields=["created_at"],
                name="keyguard_record_unanswered",
            ),
        ),
        migrations.AddIndex(
            model_name="spending",
            index=models.Index(fields=["subject"], name="keyguard_spending_subject"),
        ),
        migrations.AddField(
            model_name="auditchain",
            name="key",
            field=models.OneToOneField(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="chain",
                to="keyguard.key",
            ),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="chain",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="entries",
                to="keyguard.auditchain",
            ),
        ),
        migrations.AddConstraint(
            model_name="sealing",
            constraint=models.UniqueConstraint(
                condition=models.Q(("lifted_at", None)),
                fields=("backend",),
                name="keyguard_sealing_open_unique",
            ),
        ),
        migrations.AddConstraint(
            model_name="auditchain",
            constraint=models.UniqueConstraint(fields=("name",), name="keyguard_auditchain_name_unique"),
        ),
        migrations.AddConstraint(
            model_name="auditchain",
            constraint=models.CheckConstraint(
                condition=models.Q(("headed_seq__lte", models.F("seq"))),
                name="keyguard_auditchain_headed_is_there",
            ),
        ),
        migrations.AddConstraint(
            model_name="auditentry",
            constraint=models.UniqueConstraint(
                fields=("chain", "seq"), name="keyguard_auditentry_chain_seq_unique"
            ),
        ),
        migrations.RunPython(policies.runner(MADE), policies.runner(UNMADE)),
    ]
