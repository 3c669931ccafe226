"""Named places where a test has the process die. Here they do nothing: the platform says what happens at them.

keyguard can be had without the engine, so the register of crash points is not its own; `dalp` connects the two.
"""

from collections.abc import Callable

NAMES = {
    "keyguard.intended": "the intent to sign is committed, no backend was asked",
    "keyguard.signed": "the backend has signed, nothing says so",
    "keyguard.concluded": "the signature is committed, nobody was given it",
    "keyguard.before_head": "the chains' ends are read, no head says so",
    "keyguard.pin_refused": "the token has refused the PIN and nobody tries it again, no seal says so",
    "keyguard.hsm_key_made": "the token has the new key pair, no row tells of it",
    "keyguard.vault_written": "Vault has the new ciphertext, nothing is committed",
    "keyguard.kek_noted": "the new KEK has a row, its keeper may not have made it yet",
    "keyguard.kek_made": "the keeper has made the new KEK, keys are still stored under the old one",
    "keyguard.kek_activated": "new keys are stored under the new KEK, the others are still under the old one",
    "keyguard.deks_unwrapped": "a batch of DEKs is unwrapped in memory",
    "keyguard.deks_wrapped": "the batch is wrapped under the new KEK, nothing is written",
    "keyguard.deks_inserted": "in the middle of the commit of a batch",
    "keyguard.deks_committed": "a batch is committed, others are not begun",
    "keyguard.kek_idle": "no key needs the old KEK any more, its row does not say so",
    "keyguard.kek_doomed": "the row says that the KEK is destroyed, its keeper still has it",
    "keyguard.successor_making": "a key that is to take over is stored, in the middle of the commit",
    "keyguard.successor_made": "the key that is to take over is there, nobody has been told",
    "keyguard.alias_moving": "the old key has lost its alias, the new one does not have it yet",
    "keyguard.key_retiring": "in the middle of the commit that retires a key which was replaced",
    "keyguard.key_doomed": "the row says that the key is destroyed, its backend may still keep it",
    "keyguard.key_material_gone": "the backend has destroyed the key, no row says so",
    "keyguard.import_opened": "the wrapped key is open in memory, nothing is stored",
    "keyguard.import_stored": "the key is stored and its pair emptied, in the middle of the commit",
}

_reached: list[Callable[[str], None]] = []


def connect(reached: Callable[[str], None]) -> None:
    """Have `reached` be told of every crash point that is passed."""
    _reached[:] = [reached]


def crashpoint(name: str) -> None:
    """Mark that the place of this name is reached."""
    for reached in _reached:
        reached(name)
