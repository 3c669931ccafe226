"""Archive files: runs that have left the database, in one file that proves itself.

Gzipped lines of JSON, each `[kind, row, mark]`: first what the file is, then the rows by table, then the seals and, for
each run, the proof that its last event stands under one of them, and at last the digest of everything before. The mark is
the beginning of the digest of everything up to its line, so that the first altered line can be named.

The same runs give the same bytes: a file that was written and then not used is found again by its name.
"""

import gzip
import hashlib
import io
import json
import os
import uuid
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db.models import Model

from workflows.errors import ArchiveError
from workflows.history.digests import instant
from workflows.models import (
    Act,
    Approval,
    DeadLetter,
    Event,
    Payload,
    Run,
    Signal,
    Step,
    Vote,
    Wait,
)

FORMAT = 1
MARK_LENGTH = 16
BUFFER_BYTES = 1 << 20

# What is archived of a run and deleted with it: the kind of its line, the model, and how it names the run.
TABLES: tuple[tuple[str, type[Model], str], ...] = (
    ("run", Run, "pk"),
    ("step", Step, "run_id"),
    ("payload", Payload, "run_id"),
    ("wait", Wait, "run_id"),
    ("signal", Signal, "run_id"),
    ("approval", Approval, "run_id"),
    ("vote", Vote, "approval__run_id"),
    ("dead_letter", DeadLetter, "run_id"),
    ("event", Event, "run_id"),
)
MODELS: dict[str, type[Model]] = {**{kind: model for kind, model, _ in TABLES}, "act": Act}
KINDS = ("archive", *MODELS, "seal", "proof", "end")


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"an archive can't hold {type(value).__name__}")


def _marked(body: bytes, digest: str) -> bytes:
    return body[:-1] + f',"{digest[:MARK_LENGTH]}"]\n'.encode()


class Draft:
    """An archive that has no name yet, and is gone when it doesn't get one."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f".{uuid.uuid4().hex}.tmp"
        # Only for the owner: inputs and outputs stand in it.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0, compresslevel=6)
        self._file = io.BufferedWriter(packed, BUFFER_BYTES)  # type: ignore[arg-type]
        self._digest = hashlib.sha256()
        self.lines = 0

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a disk that is full, and has said so already
            self._file.close()
        with suppress(OSError):
            self._raw.close()
        self.path.unlink(missing_ok=True)

    def write(self, kind: str, row: Any) -> None:
        body = json.dumps([kind, row], default=_as_json, separators=(",", ":")).encode()
        self._digest.update(body)
        self._file.write(_marked(body, self._digest.hexdigest()))
        self.lines += 1

    def end(self) -> str:
        """Write the last line, see that everything is on the disk, and return the digest. OSError when it has no room."""
        sha256 = self._digest.hexdigest()
        self.write("end", {"lines": self.lines, "sha256": sha256})
        self._file.close()  # and with it the gzip stream's end
        self._raw.flush()
        os.fsync(self._raw.fileno())
        return sha256

    def keep(self, name: str) -> None:
        """Give the file its name, for good."""
        self.path.rename(self.path.with_name(name))
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the name is on the disk only when the directory is
        finally:
            os.close(directory)


@dataclass(frozen=True)
class Line:
    """One line of an archive, as far as it proved true."""

    number: int
    kind: str
    row: Any


def read_archive(path: Path) -> Iterator[Line]:
    """Yield the lines of an archive, the last one included. Raises ArchiveError at the first that isn't what was written."""
    digest, number, ended = hashlib.sha256(), 0, False
    for number, text in enumerate(_unpacked(path), 1):
        if ended:
            raise ArchiveError(path.name, number, "stands behind the end")
        before = digest.hexdigest()
        line = _read(path, number, text, digest)
        ended = line.kind == "end"
        if ended and line.row != {"lines": number - 1, "sha256": before}:
            raise ArchiveError(path.name, number, "is not the digest of the lines before it")
        yield line
    if not ended:
        raise ArchiveError(path.name, number, "is the last one: the end of the file was cut off")


def _unpacked(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with gzip.open(path, "rb") as file:
            for text in file:
                number += 1
                yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(path.name, number + 1, f"can't be unpacked: {error}") from None


def _read(path: Path, number: int, text: bytes, digest: "hashlib._Hash") -> Line:
    body = text[: -len(_marked(b"]", "0" * MARK_LENGTH))] + b"]"
    digest.update(body)
    if text != _marked(body, digest.hexdigest()):
        raise ArchiveError(path.name, number, "was altered, or a line before it was removed")
    kind, row = json.loads(body)
    if kind not in KINDS or (number == 1) != (kind == "archive"):
        raise ArchiveError(path.name, number, f"is of a kind {kind!r} that does not belong here")
    if kind == "archive" and row.get("format") != FORMAT:
        raise ArchiveError(path.name, number, f"has format {row.get('format')!r}, not {FORMAT}")
    return Line(number, kind, row)
