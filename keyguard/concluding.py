"""The second commit of a signature: the answer, or that there is none.

Upholds: no signature leaves without a committed record and an entry of the audit trail; a batch is answered whole or
not at all. An intent whose process died is closed as abandoned by whoever meets it, or by the sweep: its signature, if
there was one, has never left that process, and what it took from limits is given back.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from keyguard.audit import chaining
from keyguard.audit.chaining import ChainMovedError, Place, place_of
from keyguard.audit.codes import digest_of
from keyguard.backends.remote import REMOTE_SIGNERS
from keyguard.crashpoints import crashpoint
from keyguard.errors import SigningDeniedError
from keyguard.models import SigningRecord
from keyguard.policies import spending
from keyguard.records import Answer, purpose_of, refused_row, signed_row, write_signed
from keyguard.states import RecordState

log = structlog.get_logger("keyguard")

ABANDONED = "KEYGUARD_ABANDONED"
LIMIT = 500
TAKE_OVER_SECONDS = 5.0


def conclude(signed: Sequence[tuple[SigningRecord, Answer]], places: Mapping[UUID, Place]) -> None:
    """Commit answers. places: where the chains of their keys ended when somebody last looked; empty: not known."""
    crashpoint("keyguard.signed")
    by_key = _by_key(signed)
    try:
        with transaction.atomic(durable=True):
            _conclude(by_key, {key_id: places[key_id] for key_id in by_key} if places else _locked(by_key))
    except ChainMovedError:  # somebody else has signed with one of the keys meanwhile
        with transaction.atomic(durable=True):
            _conclude(by_key, _locked(by_key))
    crashpoint("keyguard.concluded")


Signed = list[tuple[SigningRecord, Answer]]


def _conclude(by_key: Mapping[UUID, Signed], places: Mapping[UUID, Place]) -> None:
    events = []
    for key_id, signed in by_key.items():
        rows = [signed_row(record.pk, answer) for record, answer in signed]
        body = {"records": len(rows), "digest": digest_of(rows)}
        events.append((places[key_id], "signed", body))
    chaining.append(events)
    everything = [one for signed in by_key.values() for one in signed]
    write_signed(everything, {key_id: place.seq + 1 for key_id, place in places.items()})


def _by_key(signed: Sequence[tuple[SigningRecord, Answer]]) -> dict[UUID, Signed]:
    ordered = sorted(signed, key=lambda one: (str(one[0].key_id), str(one[0].pk)))
    return {key_id: list(group) for key_id, group in groupby(ordered, key=lambda one: one[0].key_id)}


def _locked(keys: Collection[UUID]) -> dict[UUID, Place]:
    return {chain.key_id: place_of(chain) for chain in chaining.locked(keys)}


def refuse(records: Sequence[SigningRecord], code: str, why: str = "") -> int:
    """Commit that there will be no answer to these intents, and give back what they took from limits; return to how many.

    What is answered meanwhile stays so.
    """
    if not records:
        return 0
    with transaction.atomic():
        places = _locked({record.key_id for record in records})
        # Under the lock of the chain: whoever answers one has to append, too.
        still = SigningRecord.objects.filter(pk__in=[one.pk for one in records], state=RecordState.INTENT)
        found = sorted(still, key=lambda one: (str(one.key_id), str(one.pk)))
        for key_id, group in groupby(found, key=lambda one: one.key_id):
            refused = list(group)
            rows = [refused_row(record, code, why[:300]) for record in refused]
            body = {"records": len(rows), "digest": digest_of(rows), "code": code}
            changes = {"state": RecordState.REFUSED, "error": code, "why": why[:300]}
            changed = SigningRecord.objects.filter(
                pk__in=[one.pk for one in refused], state=RecordState.INTENT
            ).update(**changes, result_seq=places[key_id].seq + 1)
            if changed != len(refused):
                raise SigningDeniedError("an intent was answered at this moment; look again")
            chaining.append([(places[key_id], "refused", body)])
        spending.give_back([purpose_of(record) for record in found])
    return len(found)


def end_abandoned(records: Collection[SigningRecord] = ()) -> int:
    """Close intents that nobody can be at any more, these or all there are; return how many.

    Of these, sooner: whoever asks for them would rather ask the backend again. Who is only slow finds theirs taken over.
    Not those of custodies, which may answer after hours.
    """
    seconds = settings.KEYGUARD["abandoned_seconds"]
    age = timedelta(seconds=min(seconds, TAKE_OVER_SECONDS) if records else seconds)
    late = SigningRecord.objects.exclude(key__backend__in=list(REMOTE_SIGNERS)).filter(
        state=RecordState.INTENT,
        created_at__lt=timezone.now() - age,
    )
    if records:
        late = late.filter(pk__in=[record.pk for record in records])
    found = list(late.order_by("created_at")[:LIMIT])
    ended = refuse(found, ABANDONED, "whoever asked for it died before the answer was recorded")
    if ended:
        log.warning("intents_abandoned", count=ended)
    return ended
