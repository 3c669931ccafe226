"""Triggers that put each change of a transaction's state into the outboxes of the webhooks that want to know of it.

By the database, for the states are written by many statements of the signer, and an event is to be committed with its
state and never without: whatever writes it, now or later. A system without webhooks pays one look into an empty table
per statement. Nothing here may fail, for the signer's commit would fail with it.

On SQLite a later migration that alters signer_transaction or signer_incident makes it anew, without these triggers: it
has to be followed by `watch`.
"""

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

ANYBODY = "EXISTS (SELECT 1 FROM webhooks_webhook WHERE enabled)"
COLUMNS = (
    "message_id, webhook_id, transaction_id, type, body, state, attempts, last_error, next_at, created_at"
)
# What the receiver needs to know what this is about; everything else it reads by the id.
DATA = """'id', {id}, 'kind', tx.kind, 'chain_id', tx.chain_id, 'from', lane.address, 'to', tx."to",
    'nonce', tx.nonce, 'hash', {hash}, 'state', tx.state, 'sub_state', tx.sub_state, 'previous_state', {previous},
    'idempotency_key', tx.idempotency_key, 'correlation_id', tx.correlation_id, 'label', tx.label"""
# Of the attempt that was mined, or else of the last that was signed.
HASH = """COALESCE((SELECT hash FROM signer_attempt WHERE id = tx.winner_id),
    (SELECT hash FROM signer_attempt WHERE transaction_id = tx.id ORDER BY seq DESC LIMIT 1))"""
CHANGED = "'transaction.' || lower(tx.state)"
RETRACTED = "'transaction.retracted'"
# A block that was dropped after what it held had been reported as final (signer/rechecking.py).
DROPPED = """tx.chain_id = NEW.chain_id AND tx.block_number = {number} AND tx.block_hash = {hash}
    AND tx.state IN ('COMPLETED', 'FAILED', 'DEAD_LETTER', 'CANCELLED', 'EXPIRED')"""


def _insert(dialect: dict[str, str], kind: str, previous: str, rows: str) -> str:
    """Return the statement that puts an event for each of `rows` into each outbox that wants its kind."""
    data = DATA.format(id=dialect["id"], hash=HASH, previous=previous)
    body = dialect["body"].format(kind=kind, data=data)
    return f"""
    INSERT INTO webhooks_delivery ({COLUMNS})
    SELECT {dialect["message_id"]}, webhook.id, tx.id, {kind}, {body}, 'PENDING', 0, '', {dialect["now"]}, {dialect["now"]}
    FROM {rows} JOIN signer_lane lane ON lane.id = tx.lane_id
    JOIN webhooks_webhook webhook ON webhook.enabled AND {dialect["wants"].format(kind=kind)}"""


_POSTGRESQL = {
    "id": "tx.id",
    "message_id": "gen_random_uuid()",
    "now": "statement_timestamp()",
    "wants": "jsonb_exists(webhook.events, {kind})",
    "body": """jsonb_build_object('type', {kind}, 'timestamp',
        to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'data', jsonb_build_object({data}))::text""",
}


def _note_any(name: str, previous: str, rows: str) -> str:
    """Return a function that is called once per statement, however many rows it has.

    EXECUTE has the insertion planned for those: a plan is kept otherwise, and one that was made for a single row compares
    each of a thousand with each. Compiling the plan takes longer than carrying it out.
    """
    insert = _insert(_POSTGRESQL, CHANGED, previous, rows)
    return f"""
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET jit = off AS $$ BEGIN
    IF {ANYBODY} THEN
        EXECUTE $insert${insert}$insert$;
    END IF;
    RETURN NULL;
END $$;"""


_ALTERED = "new_rows tx JOIN old_rows was ON was.id = tx.id AND was.state <> tx.state"
POSTGRESQL = f"""
{_note_any("webhooks_note_new", "NULL::text", "new_rows tx")}
{_note_any("webhooks_note_changed", "was.state", _ALTERED)}
CREATE FUNCTION webhooks_note_retracted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    {_insert(_POSTGRESQL, RETRACTED, "tx.state", "signer_transaction tx")}
    WHERE {DROPPED.format(number="(NEW.details->>'block')::bigint", hash="split_part(NEW.subject, ':', 2)")};
    RETURN NULL;
END $$;
CREATE TRIGGER webhooks_transaction_new AFTER INSERT ON signer_transaction
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION webhooks_note_new();
CREATE TRIGGER webhooks_transaction_changed AFTER UPDATE ON signer_transaction
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION webhooks_note_changed();
CREATE TRIGGER webhooks_transaction_retracted AFTER INSERT ON signer_incident
    FOR EACH ROW WHEN (NEW.kind = 'DEEP_REORG') EXECUTE FUNCTION webhooks_note_retracted();
"""
UNDO_POSTGRESQL = """
DROP TRIGGER webhooks_transaction_retracted ON signer_incident;
DROP TRIGGER webhooks_transaction_changed ON signer_transaction;
DROP TRIGGER webhooks_transaction_new ON signer_transaction;
DROP FUNCTION webhooks_note_retracted();
DROP FUNCTION webhooks_note_changed();
DROP FUNCTION webhooks_note_new();
"""

# It keeps a UUID as 32 digits; people and receivers see five groups.
_DASHED = " || '-' || ".join(
    f"substr(tx.id, {first}, {count})" for first, count in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
)
_SQLITE = {
    "id": _DASHED,
    "message_id": """lower(hex(randomblob(6))) || '4' || substr(lower(hex(randomblob(2))), 2) || 'a'
        || substr(lower(hex(randomblob(2))), 2) || lower(hex(randomblob(6)))""",
    "now": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    "wants": "EXISTS (SELECT 1 FROM json_each(webhook.events) wanted WHERE wanted.value = {kind})",
    "body": """json_object('type', {kind}, 'timestamp', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
        'data', json_object({data}))""",
}
_ROW = "(SELECT * FROM signer_transaction WHERE id = NEW.id) tx"
_DROPPED = DROPPED.format(
    number="json_extract(NEW.details, '$.block')",
    hash="substr(NEW.subject, instr(NEW.subject, ':') + 1)",
)
SQLITE = [
    f"""CREATE TRIGGER webhooks_transaction_new AFTER INSERT ON signer_transaction WHEN {ANYBODY}
    BEGIN {_insert(_SQLITE, CHANGED, "NULL", _ROW)}; END""",
    f"""CREATE TRIGGER webhooks_transaction_changed AFTER UPDATE OF state ON signer_transaction
    WHEN OLD.state <> NEW.state AND {ANYBODY}
    BEGIN {_insert(_SQLITE, CHANGED, "OLD.state", _ROW)}; END""",
    f"""CREATE TRIGGER webhooks_transaction_retracted AFTER INSERT ON signer_incident WHEN NEW.kind = 'DEEP_REORG'
    BEGIN {_insert(_SQLITE, RETRACTED, "tx.state", "signer_transaction tx")} WHERE {_DROPPED}; END""",
]
UNDO_SQLITE = [f"DROP TRIGGER webhooks_transaction_{what}" for what in ("new", "changed", "retracted")]


def watch(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    _execute(editor, {"postgresql": [POSTGRESQL], "sqlite": SQLITE})


def unwatch(apps: object, editor: BaseDatabaseSchemaEditor) -> None:
    _execute(editor, {"postgresql": [UNDO_POSTGRESQL], "sqlite": UNDO_SQLITE})


def _execute(editor: BaseDatabaseSchemaEditor, statements: dict[str, list[str]]) -> None:
    for statement in statements.get(editor.connection.vendor, []):
        editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("webhooks", "0001_initial"), ("signer", "0003_protect_event_logs")]
    operations = [migrations.RunPython(watch, unwatch)]
