"""The backup of a key encryption key on paper: shares by SLIP-39, of which so many give it back and fewer say nothing.

Upholds: whatever is put together is the KEK that was taken apart, or it is refused: SLIP-39 notices a wrong word and
shares of different backups, and the check value notices a wrong passphrase, which gives another secret in silence.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from shamir_mnemonic import MnemonicError, combine_mnemonics, generate_mnemonics

from keyguard.check_values import check_value, same
from keyguard.curve import wipe
from keyguard.errors import CeremonyError

SHARES_MAX = 16  # SLIP-39 has room for no more
_LINE = re.compile(r"^(check value|words|custodian|sealed): *(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, repr=False)
class Share:
    """What one custodian keeps."""

    kcv: str
    words: str
    custodian: str = ""  # empty: whoever has the sheet

    def text(self, number: int, shares: int, threshold: int, made: str) -> str:
        """Return the sheet, which says what it is to whoever finds it in twenty years."""
        return (
            "DALP: part of a key encryption key\n\n"
            f"share {number} of {shares}; any {threshold} of them give the key back, fewer say nothing about it\n"
            f"made {made}; put together with: manage.py kek_ceremony restore\n"
            f"check value: {self.kcv}\nwords: {self.words}\n"
        )

    @classmethod
    def of(cls, text: str, name: str) -> "Share":
        """Return the share on a sheet. Raises CeremonyError."""
        found = dict(_LINE.findall(text))
        if "sealed" in found:
            raise CeremonyError(f"{name} is sealed: its custodian opens it first, kek_ceremony open-share")
        if set(found) - {"custodian"} != {"check value", "words"}:
            raise CeremonyError(f"{name}: no share; it must have the lines 'check value:' and 'words:'")
        return cls(
            found["check value"].strip(), " ".join(found["words"].split()), found.get("custodian", "").strip()
        )


def split(secret: bytes, threshold: int, shares: int, passphrase: str = "") -> list[Share]:
    """Take a KEK of 32 bytes apart, and try each set of shares before it is trusted. Raises CeremonyError."""
    if not 2 <= threshold <= shares <= SHARES_MAX:
        raise CeremonyError(
            f"needs a threshold of 2 or more, and up to {SHARES_MAX} shares, no fewer than that"
        )
    kcv = check_value(secret)
    try:
        [words] = generate_mnemonics(1, [(threshold, shares)], secret, _phrase(passphrase))
    except MnemonicError as error:
        raise CeremonyError(str(error)) from None
    made = [Share(kcv, one) for one in words]
    for some in list(combinations(made, threshold))[:20]:
        wipe(combine(some, passphrase))
    return made


def combine(shares: Sequence[Share], passphrase: str = "") -> bytearray:
    """Return the KEK that these shares give; the caller wipes it. Raises CeremonyError, which says why not."""
    kcvs = {share.kcv for share in shares}
    if len(kcvs) != 1:
        raise CeremonyError("the shares are of different backups: their check values differ")
    try:
        secret = bytearray(combine_mnemonics([share.words for share in shares], _phrase(passphrase)))
    except MnemonicError as error:
        raise CeremonyError(f"the shares do not fit together: {error}") from None
    if not same(check_value(secret), kcvs.pop()):
        wipe(secret)
        raise CeremonyError(
            "the check value is another one: the passphrase is wrong, or a check value was copied wrongly"
        )
    return secret


def _phrase(passphrase: str) -> bytes:
    if not all(" " <= character <= "~" for character in passphrase):
        raise CeremonyError(
            "a passphrase has printable ASCII characters only, so that every keyboard has them"
        )
    return passphrase.encode()
