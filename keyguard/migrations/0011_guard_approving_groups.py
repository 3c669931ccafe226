"""Groups whose members approve: which they are, what was done to them, and triggers that let nothing else be done."""

from importlib import import_module
from typing import Any

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

policies: Any = import_module("keyguard.migrations.0005_add_policies")

ACT, MEMBER, GROUP = "keyguard_membershipact", "auth_user_groups", "auth_group"
MESSAGE = "keyguard: the members of a group that approves say who is in it (console: Groups)"


def is_guarded(row: str) -> str:
    """Return when a row of auth_user_groups is of a guarded group."""
    return (
        "EXISTS (SELECT 1 FROM keyguard_guardedgroup AS guarded JOIN auth_group AS named ON named.name = guarded.name"
        f" WHERE named.id = {row}.group_id)"
    )


def is_last(row: str, verb: str) -> str:
    """Return when the last act about the row's person and group says so."""
    return (
        f"'{verb}' = (SELECT verb FROM {ACT} AS act WHERE act.group_id = {row}.group_id"
        f" AND act.person_id = {row}.user_id ORDER BY act.id DESC LIMIT 1)"
    )


def names_guarded(row: str) -> str:
    """Return when a row of auth_group is a guarded group's."""
    return f"EXISTS (SELECT 1 FROM keyguard_guardedgroup AS guarded WHERE guarded.name = {row}.name)"


# What is refused: on which table, at what, when.
REFUSED = {
    "membership_insert": (
        MEMBER,
        "INSERT",
        f"{is_guarded('NEW')} AND NOT COALESCE({is_last('NEW', 'ADD')}, FALSE)",
    ),
    "membership_delete": (
        MEMBER,
        "DELETE",
        f"{is_guarded('OLD')} AND NOT COALESCE({is_last('OLD', 'REMOVE')}, FALSE)",
    ),
    "membership_update": (MEMBER, "UPDATE", f"{is_guarded('OLD')} OR {is_guarded('NEW')}"),
    "group_rename": (
        GROUP,
        "UPDATE",
        f"OLD.name <> NEW.name AND ({names_guarded('OLD')} OR {names_guarded('NEW')})",
    ),
    "group_delete": (GROUP, "DELETE", names_guarded("OLD")),
}


def on_postgresql(name: str, table: str, act: str, when: str) -> list[str]:
    row = "OLD" if act == "DELETE" else "NEW"
    return [
        (
            f"CREATE FUNCTION keyguard_{name}() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN IF {when} THEN RAISE EXCEPTION '{MESSAGE}'; END IF; RETURN {row}; END $$"
        ),
        f"CREATE TRIGGER keyguard_{name} BEFORE {act} ON {table} FOR EACH ROW EXECUTE FUNCTION keyguard_{name}()",
    ]


MADE = {
    "postgresql": [
        (
            f"CREATE TRIGGER keyguard_membershipact_append_only BEFORE UPDATE OR DELETE ON {ACT} FOR EACH ROW"
            " EXECUTE FUNCTION keyguard_append_only()"
        ),
        *(line for name, rule in REFUSED.items() for line in on_postgresql(name, *rule)),
    ],
    "sqlite": [
        f"CREATE TRIGGER keyguard_membershipact_no_update BEFORE UPDATE ON {ACT} {policies.ABORT}",
        f"CREATE TRIGGER keyguard_membershipact_no_delete BEFORE DELETE ON {ACT} {policies.ABORT}",
        *(
            f"CREATE TRIGGER keyguard_{name} BEFORE {act} ON {table} WHEN {when} BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
            for name, (table, act, when) in REFUSED.items()
        ),
    ],
}
UNMADE = {
    "postgresql": [
        f"DROP TRIGGER keyguard_membershipact_append_only ON {ACT}",
        *(
            line
            for name, (table, _, _) in REFUSED.items()
            for line in (f"DROP TRIGGER keyguard_{name} ON {table}", f"DROP FUNCTION keyguard_{name}()")
        ),
    ],
    "sqlite": [f"DROP TRIGGER {text.split()[2]}" for text in MADE["sqlite"]],
}


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("keyguard", "0010_add_audit_trail"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name="question",
            name="kind",
            field=models.CharField(
                choices=[
                    ("SIGNATURE", "signature"),
                    ("POLICY", "change of policy"),
                    ("KEY", "operation on keys"),
                    ("COMMAND", "operation by a command"),
                    ("MEMBERSHIP", "change of who approves"),
                ],
                max_length=12,
            ),
        ),
        migrations.CreateModel(
            name="GuardedGroup",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=150)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("name",), name="keyguard_guardedgroup_name_unique")
                ],
            },
        ),
        migrations.CreateModel(
            name="MembershipAct",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("verb", models.CharField(choices=[("ADD", "add"), ("REMOVE", "remove")], max_length=8)),
                ("actor", models.CharField(max_length=320)),
                ("reason", models.CharField(max_length=500)),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="auth.group"
                    ),
                ),
                (
                    "person",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name": "change of who approves",
                "verbose_name_plural": "changes of who approves",
                "ordering": ["-id"],
                "indexes": [
                    models.Index(fields=["group", "person", "id"], name="keyguard_membershipact_last")
                ],
            },
        ),
        migrations.RunPython(policies.runner(MADE), policies.runner(UNMADE)),
    ]
