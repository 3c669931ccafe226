"""What was done with a KEK's backup where no database is: a note, carried to one that keeps it.

Upholds: a note says who, when, with how many sheets and which KEK, by its check value; no share and no word of one. It is
authenticated by the KEK itself, so that nobody writes or alters one who did not have that KEK in hand.
"""

import hmac
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from keyguard.check_values import check_value
from keyguard.errors import CeremonyError
from keyguard.states import DrillKind

FORMAT = "dalp kek note 1"


@dataclass(frozen=True, slots=True)
class Note:
    """A backup or a drill that was done offline."""

    kind: str
    check_value: str
    threshold: int
    shares: int
    custodians: list[str]
    actor: str
    at: str  # ISO, UTC, by the clock of that machine

    @property
    def when(self) -> datetime:
        """Return when it was done."""
        return datetime.fromisoformat(self.at)

    def text(self, kek: bytes | bytearray) -> str:
        """Return the file's text, authenticated by this KEK."""
        return json.dumps({"format": FORMAT, **asdict(self), "proof": self._proof(kek)}, indent=2) + "\n"

    def _proof(self, kek: bytes | bytearray) -> str:
        told = json.dumps([FORMAT, asdict(self)], sort_keys=True, separators=(",", ":"))
        return hmac.new(kek, told.encode(), "sha256").hexdigest()


def make(
    kind: DrillKind,
    kek: bytes | bytearray,
    *,
    threshold: int,
    shares: int,
    custodians: list[str],
    actor: str,
    at: datetime,
) -> Note:
    """Return the note of what was just done."""
    instant = at.astimezone(UTC).isoformat(timespec="seconds")
    return Note(str(kind), check_value(bytes(kek)), threshold, shares, custodians, actor, instant)


def read(text: str) -> tuple[Note, str]:
    """Return the note that a file holds, and its proof; nothing of it is believed yet. Raises CeremonyError."""
    try:
        found = json.loads(text)
        if found.pop("format") != FORMAT:
            raise ValueError
        proof = str(found.pop("proof"))
        note = Note(**found)
        if note.when.tzinfo is None or note.kind not in DrillKind.values:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CeremonyError("the file is no note of kek_ceremony") from None
    return note, proof


def verify(note: Note, proof: str, kek: bytes, now: datetime) -> None:
    """Raise CeremonyError unless whoever wrote this note had this KEK, and wrote it as it is."""
    if not hmac.compare_digest(note._proof(kek), proof):
        raise CeremonyError("the note was altered, or was not written with this KEK in hand")
    if note.when > now:
        raise CeremonyError(f"the note is of {note.at}, which is yet to come: that machine's clock is wrong")
