"""A share of a KEK's backup, sealed to its custodian's own public key: whoever finds the sheet learns nothing by it.

Upholds: a sealed share opens with that custodian's private key alone, and as the sheet that it was made as: the check
value, its number and the names are bound to it, by HPKE (RFC 9180) with X25519, HKDF-SHA256 and AES-256-GCM.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from keyguard.ceremony import Share
from keyguard.errors import CeremonyError

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LINE = re.compile(r"^(check value|share|custodian|made|their key|sealed): *(.+)$", re.MULTILINE)
_LINES = {"check value", "share", "custodian", "made", "their key", "sealed"}


@dataclass(frozen=True, slots=True)
class ShareCustodian:
    """A person who keeps a share, and the key that opens it."""

    name: str
    key: X25519PublicKey

    @classmethod
    def of(cls, text: str) -> "ShareCustodian":
        """Return the custodian of `name=path-to-public-key.pem`. Raises CeremonyError, OSError."""
        name, _, path = text.partition("=")
        if not _NAME.fullmatch(name) or not path:
            raise CeremonyError(f"{text[:80]!r} is no custodian: name=path-to-public-key.pem")
        try:
            key = serialization.load_pem_public_key(Path(path).read_bytes())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, X25519PublicKey):
            raise CeremonyError(
                f"{path} is no public key of X25519 in PEM; docs/keys.md says how to make one"
            )
        return cls(name, key)

    @property
    def fingerprint(self) -> str:
        """What the custodian compares with their own, over another way than the file came."""
        return _fingerprint(self.key)


def custodians_of(given: Sequence[str], shares: int) -> list[ShareCustodian]:
    """Return who keeps which share; nobody is named twice, and no key. Raises CeremonyError, OSError."""
    found = [ShareCustodian.of(text) for text in given]
    if len(found) != shares:
        raise CeremonyError(f"{len(found)} custodians for {shares} shares: one for each")
    if len({one.name for one in found}) != shares or len({one.fingerprint for one in found}) != shares:
        raise CeremonyError(
            "two custodians have the same name or the same key: one person would have two shares"
        )
    return found


def seal(share: Share, custodian: ShareCustodian, number: int, shares: int, threshold: int, made: str) -> str:
    """Return the sheet of a share that its custodian alone can open."""
    which = f"{number} of {shares}, any {threshold} give the key back"
    facts = _Facts(share.kcv, which, custodian.name, made, custodian.fingerprint)
    sealed = _SUITE.encrypt(share.words.encode(), custodian.key, info=facts.bound())
    return (
        "DALP: part of a key encryption key, sealed to its custodian\n\n"
        "opened by: manage.py kek_ceremony open-share SHEET --key PRIVATE-KEY.pem --out OPENED, without a network\n"
        f"share: {which}\ncustodian: {custodian.name}\nmade: {made}\ncheck value: {share.kcv}\n"
        f"their key: {custodian.fingerprint}\nsealed: {base64.b64encode(sealed).decode()}\n"
    )


def unseal(text: str, name: str, key: X25519PrivateKey) -> tuple[Share, str]:
    """Return the share on a sealed sheet, and its sheet in the clear. Raises CeremonyError."""
    found = dict(_LINE.findall(text))
    if set(found) != _LINES:
        raise CeremonyError(f"{name}: no sealed share; it must have the lines {', '.join(sorted(_LINES))}")
    facts = _Facts(
        *(found[line].strip() for line in ("check value", "share", "custodian", "made", "their key"))
    )
    if facts.fingerprint != (own := _fingerprint(key.public_key())):
        raise CeremonyError(
            f"{name} is sealed to {facts.custodian}'s key {facts.fingerprint}, and this one is {own}"
        )
    try:
        words = _SUITE.decrypt(base64.b64decode(found["sealed"]), key, info=facts.bound()).decode()
    except (InvalidTag, ValueError, binascii.Error):
        raise CeremonyError(f"{name} does not open: a line of it was altered or copied wrongly") from None
    share = Share(facts.kcv, words, facts.custodian)
    return share, (
        "DALP: part of a key encryption key\n\n"
        f"share {facts.share}; custodian: {facts.custodian}; made {facts.made}\n"
        "put together with: manage.py kek_ceremony restore; destroy this sheet after that\n"
        f"custodian: {facts.custodian}\ncheck value: {share.kcv}\nwords: {share.words}\n"
    )


def private_key(path: Path, password: str) -> X25519PrivateKey:
    """Return a custodian's private key. Raises CeremonyError, OSError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password.encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CeremonyError(f"{path} is no private key in PEM, or its password is wrong") from None
    if not isinstance(key, X25519PrivateKey):
        raise CeremonyError(f"{path} is no key of X25519")
    return key


def has_password(path: Path) -> bool:
    """Say whether a private key's file is encrypted. Raises OSError."""
    return b"ENCRYPTED" in path.read_bytes()


@dataclass(frozen=True, slots=True)
class _Facts:
    kcv: str
    share: str
    custodian: str
    made: str
    fingerprint: str

    def bound(self) -> bytes:
        return "|".join(
            ("kek-share1", self.kcv, self.share, self.custodian, self.made, self.fingerprint)
        ).encode()


def _fingerprint(key: X25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]
