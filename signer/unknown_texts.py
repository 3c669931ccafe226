"""What nodes say and no rule knows: counted, shown, and told to people once each.

Upheld here: counting never fails what was sent, nor waits for a network. It happens after the answer is on record; a
process that dies before it has lost a count, and the same bytes are sent again and answered again.
"""

import re
from collections.abc import Iterable, Sequence

import structlog
from django.db import connection, transaction

import keyguard
from signer import error_rules
from signer.errors import RpcNodeError
from signer.incidents import close_incident, open_incident
from signer.models import Chain, Incident, UnknownText
from signer.models.error_rules import NORMALISED_LENGTH, SAMPLE_LENGTH
from signer.patterns import PATTERN_LENGTH
from signer.rpc_errors import Rule, find_rule
from signer.states import IncidentKind

log = structlog.get_logger()

# Of one chain. A node that says something else each time must not fill the database.
TEXTS_MAX = 500

# What is another each time, in the order in which it is looked for; and the expression that stands for it in a rule,
# which must know the sample as well, where secrets are blacked out.
PLACEHOLDERS = {
    "<url>": (r"[a-z][a-z0-9+.-]*://\S+", r"\S+"),
    "<id>": (r"\b(?!0x)(?=[\w-]*\d)(?=[\w-]*[a-z])[\w-]{12,}\b", r"\S+"),
    "<address>": (r"\b0x[0-9a-f]{40}\b", r"\S+"),
    "<hex>": (r"\b0x[0-9a-f]*", r"\S+"),
    "<n>": (r"-?\d+(?:[.,:]\d+)*", r"[\d.,:-]+"),
}
# These may hold a provider's key.
SECRETIVE = ("<url>", "<id>")
_REPLACED = [(re.compile(given, re.IGNORECASE), name) for name, (given, _) in PLACEHOLDERS.items()]
_NAMES = re.compile("|".join(map(re.escape, PLACEHOLDERS)))
# The words at the beginning say what it is; the rest is details.
SUGGESTED_LENGTH = 120

UPSERT = f"""
INSERT INTO signer_unknowntext AS known (chain_id, text, host, sample, count, first_seen_at, last_seen_at)
SELECT %s, %s, %s, %s, %s, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP
WHERE EXISTS (SELECT 1 FROM signer_unknowntext WHERE chain_id = %s AND text = %s)
   OR (SELECT COUNT(*) FROM signer_unknowntext WHERE chain_id = %s) < {TEXTS_MAX}
ON CONFLICT (chain_id, text) DO UPDATE SET count = known.count + excluded.count, host = excluded.host,
    sample = excluded.sample, last_seen_at = excluded.last_seen_at
RETURNING id
"""  # noqa: S608 - our own names


def normalised(message: str) -> str:
    """Return the text with placeholders for numbers, addresses, ids and the like, so that it is the same each time."""
    text = " ".join(_clean(message).split())
    for given, name in _REPLACED:
        text = given.sub(name, text)
    return str(keyguard.scrub_secrets(text))[:NORMALISED_LENGTH]


def sample_of(message: str) -> str:
    """Return the text as it was said, without secrets."""
    text = str(keyguard.scrub_secrets(_clean(message)))
    for given, name in _REPLACED:
        if name in SECRETIVE:
            text = given.sub(name, text)
    return text[:SAMPLE_LENGTH]


def _clean(message: str) -> str:
    return message.replace("\x00", "")  # PostgreSQL stores none


def suggested_pattern(text: str) -> str:
    """Return an expression for a rule that knows a normalised text."""
    head = text if len(text) <= SUGGESTED_LENGTH else text[:SUGGESTED_LENGTH].rsplit(" ", 1)[0]
    literals, names = _NAMES.split(head), _NAMES.findall(head)
    parts = [_escaped(literals[0])]
    for name, literal in zip(names, literals[1:], strict=True):
        parts += [PLACEHOLDERS[name][1], _escaped(literal)]
    return "".join(parts)[:PATTERN_LENGTH]


def _escaped(literal: str) -> str:
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", literal)


def note(chain: Chain, errors: Sequence[RpcNodeError]) -> None:
    """Count what nodes of the chain said, and tell people of each text that they have not been told of.

    Never raises. To be called outside of a transaction: a failure would spoil the caller's.
    """
    found: dict[str, list[RpcNodeError]] = {}
    for error in errors:
        found.setdefault(normalised(error.message), []).append(error)
    for text, said in found.items():
        try:
            _note(chain, text, said)
        except Exception as error:
            log.exception("unknown_text_not_counted", chain=chain.pk, error=type(error).__name__)


def _note(chain: Chain, text: str, said: Sequence[RpcNodeError]) -> None:
    last = said[-1]
    log.warning("unknown_text", chain=chain.pk, host=last.host, count=len(said), text=text)
    with transaction.atomic():
        pk = _count(chain.pk, text, last.host, sample_of(last.message), len(said))
        if pk is not None:
            words = (
                f"A node of {chain} ({last.host or 'unknown host'}) refuses in words that no rule knows: “{text}”. What was "
                "sent counts as possibly sent, and the same bytes are sent again. Make a rule from it."
            )
            open_incident(IncidentKind.UNKNOWN_ERROR, subject_of(pk, text), words, chain=chain, text_id=pk)


def _count(chain_id: int, text: str, host: str, sample: str, count: int) -> int | None:
    """Count the text in one statement; return its id, or None when it is new and there are too many already."""
    with connection.cursor() as cursor:
        cursor.execute(UPSERT, (chain_id, text, host[:255], sample, count, chain_id, text, chain_id))
        row = cursor.fetchone()
    return None if row is None else int(row[0])


def subject_of(pk: int, text: str) -> str:
    """Return what the incident about a text is called."""
    return f"text {pk}: {text}"[:200]


def still_unknown(
    texts: Iterable[UnknownText], rules: Sequence[error_rules.OperatorRule]
) -> list[UnknownText]:
    """Return the texts that none of `rules`, nor the table, knows."""
    return [text for text in texts if rule_of(text, rules) is None]


def rule_of(text: UnknownText, rules: Sequence[error_rules.OperatorRule]) -> Rule | None:
    """Return the rule that knows the text now. rules: those of all chains."""
    own = [rule for rule in rules if rule.chain_id in (None, text.chain_id)]
    return find_rule(text.sample, own)


def close_known(because: str, actor: str = "") -> int:
    """Close the incidents about texts that a rule knows by now; return how many. After each change to the rules."""
    is_open = Incident.objects.filter(kind=IncidentKind.UNKNOWN_ERROR, closed_at__isnull=True)
    ids = [details.get("text_id") for details in is_open.values_list("details", flat=True)]
    rules = error_rules.read_rules()
    closed = 0
    for text in UnknownText.objects.filter(pk__in=ids):
        if rule_of(text, rules) is not None:
            subject = subject_of(text.pk, text.text)
            closed += close_incident(IncidentKind.UNKNOWN_ERROR, subject, because, actor=actor)
    return closed
