"""Make the database itself refuse to change or remove what the history consists of.

    events           are deleted only with a run that is in an archive and on no legal hold
    acts             never
    seals            never; only where a seal is anchored may be written, once
    archived runs    never, nor the leaves that they left behind

A run on legal hold is not deleted, and the idempotency key of an archived run is not taken again. On SQLite a later migration that alters one of these tables makes it anew,
without its triggers: it has to end with `protect`.
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

NEVER = ("workflows_act", "workflows_archivedrun", "workflows_archivedleaves")
TABLES = ("workflows_event", "workflows_seal", *NEVER)
MAY_GO = """EXISTS (SELECT 1 FROM workflows_archivedrun WHERE run_id = OLD.run_id)
        AND NOT EXISTS (SELECT 1 FROM workflows_run WHERE id = OLD.run_id AND legal_hold)"""
KEY_IS_USED = """EXISTS (SELECT 1 FROM workflows_archivedrun WHERE workflow = NEW.workflow AND scope = NEW.scope
        AND idempotency_key = NEW.idempotency_key AND run_id <> NEW.id)"""
SEALED = (
    "number", "first_event", "last_event", "event_count", "first_act", "last_act", "act_count", "root",
    "previous_hash", "hash", "sealed_at",
)  # fmt: skip

POSTGRESQL = [
    f"""
    CREATE FUNCTION workflows_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
    END $$;
    CREATE FUNCTION workflows_event_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' AND {MAY_GO} THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'workflows_event is append-only';
    END $$;
    CREATE FUNCTION workflows_seal_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND OLD.anchor IS NULL AND to_jsonb(NEW) - 'anchor' = to_jsonb(OLD) - 'anchor' THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'workflows_seal is append-only';
    END $$;
    CREATE FUNCTION workflows_run_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'run % is on legal hold', OLD.id;
    END $$;
    CREATE TRIGGER workflows_run_held BEFORE DELETE ON workflows_run
        FOR EACH ROW WHEN (OLD.legal_hold) EXECUTE FUNCTION workflows_run_refuse();
    -- Before: nothing is inserted, which the engine notices and explains. After: what an archiving transaction has
    -- committed while the insertion waited for it. Each reads what is committed by then.
    CREATE FUNCTION workflows_run_refuse_key() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT {KEY_IS_USED} THEN
            RETURN NEW;
        ELSIF TG_WHEN = 'BEFORE' THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION 'the idempotency key of an archived run' USING ERRCODE = 'unique_violation';
    END $$;
    CREATE TRIGGER workflows_run_key_used BEFORE INSERT ON workflows_run
        FOR EACH ROW WHEN (NEW.idempotency_key IS NOT NULL) EXECUTE FUNCTION workflows_run_refuse_key();
    CREATE TRIGGER workflows_run_key_used_meanwhile AFTER INSERT ON workflows_run
        FOR EACH ROW WHEN (NEW.idempotency_key IS NOT NULL) EXECUTE FUNCTION workflows_run_refuse_key();
    """,
    *(
        f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION {"workflows" if table in NEVER else table}_refuse();
        CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION workflows_refuse();
        """
        for table in TABLES
    ),
]

UNDO_POSTGRESQL = [
    *(
        f"DROP TRIGGER workflows_run_{what} ON workflows_run"
        for what in ("held", "key_used", "key_used_meanwhile")
    ),
    *(
        f"DROP TRIGGER {table}_{what} ON {table}"
        for table in TABLES
        for what in ("append_only", "no_truncate")
    ),
    *(
        f"DROP FUNCTION {name}_refuse()"
        for name in ("workflows", "workflows_event", "workflows_seal", "workflows_run")
    ),
    "DROP FUNCTION workflows_run_refuse_key()",
]


def _sqlite(table: str, verb: str, when: str = "", why: str = "") -> str:
    name = f"{table}_no_{verb.lower()}"
    why = why or f"'{table} is append-only'"
    return f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {when} BEGIN SELECT RAISE(ABORT, {why}); END"


SQLITE = [
    *(_sqlite(table, verb) for table in NEVER for verb in ("UPDATE", "DELETE")),
    _sqlite("workflows_event", "UPDATE"),
    _sqlite("workflows_event", "DELETE", f"WHEN NOT ({MAY_GO})"),
    _sqlite(
        "workflows_seal",
        "UPDATE",
        "WHEN OLD.anchor IS NOT NULL OR " + " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in SEALED),
    ),
    _sqlite("workflows_seal", "DELETE"),
    f"""CREATE TRIGGER workflows_run_key_used BEFORE INSERT ON workflows_run
        WHEN NEW.idempotency_key IS NOT NULL AND {KEY_IS_USED} BEGIN SELECT RAISE(IGNORE); END""",
    _sqlite("workflows_run", "DELETE", "WHEN OLD.legal_hold", "'the run is on legal hold'"),
]

UNDO_SQLITE = [
    *(f"DROP TRIGGER {table}_no_{verb}" for table in TABLES for verb in ("update", "delete")),
    "DROP TRIGGER workflows_run_no_delete",
    "DROP TRIGGER workflows_run_key_used",
]


def protect(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    _execute(editor, {"postgresql": POSTGRESQL, "sqlite": SQLITE})


def unprotect(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    _execute(editor, {"postgresql": UNDO_POSTGRESQL, "sqlite": UNDO_SQLITE})


def _execute(editor: BaseDatabaseSchemaEditor, statements: dict[str, list[str]]) -> None:
    for statement in statements.get(editor.connection.vendor, []):
        editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("workflows", "0001_initial")]
    operations = [migrations.RunPython(protect, unprotect)]
