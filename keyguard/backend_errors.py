"""What HSMs, Vault and the keepers of KEKs do that keyguard cannot mend. None of it accuses a key: see `keyguard.errors`.

Upholds: no message here holds a PIN, a token, a secret id or the text of an answer; names, states and error words alone.
"""

from keyguard.errors import BackendError, Disposition, KekError, KeyguardError


class KekRefusedError(KekError):
    """Its keeper has the KEK no longer, or does not let it be used."""

    code = "KEYGUARD_KEK_REFUSED"
    cause = "The keeper of the KEK has it no longer, or does not let it be used."
    remedy = "Vault: lower min_decryption_version of the transit key to 1. HSM: restore the token. Then rotate_kek. No key was harmed."


class KekDestroyedError(KekError):
    """The key is stored under a KEK that was destroyed."""

    code = "KEYGUARD_KEK_DESTROYED"
    cause = "The key is stored under a KEK that was destroyed: an old backup was restored."
    remedy = (
        "Restore a backup that was taken after the KEK's rotation, or the KEK itself from its own backup."
    )


class KekRotationError(KeyguardError):
    """The KEK cannot be made, rotated or destroyed now. Nothing was changed."""

    code = "KEYGUARD_KEK_ROTATION"
    cause = "The KEK cannot be made, rotated or destroyed now."
    remedy = "Do what the message says."


class KekNotNewError(KekRotationError):
    """What is to be the new KEK was one before."""

    code = "KEYGUARD_KEK_NOT_NEW"
    cause = "KEYGUARD_KEK is a KEK of this database already."
    remedy = "Put the KEK in use into KEYGUARD_KEK_FALLBACKS, a new one into KEYGUARD_KEK, and restart everything first."


class KekInUseError(KekRotationError):
    """Keys are stored under this KEK."""

    code = "KEYGUARD_KEK_IN_USE"
    cause = "Keys are stored under this KEK: without it they are lost."
    remedy = "Run manage.py rotate_kek to its end first; it names the keys that it could not move."


class BackendSettingsError(BackendError):
    """The backend is not configured."""

    code = "KEYGUARD_BACKEND_SETTINGS"
    cause = "A setting of this backend is missing or wrong."
    remedy = "Set what the message names (docs/reference/settings.md) and restart."
    disposition = Disposition.PARK


class HsmAbsentError(BackendError):
    """The module does not load, or no slot holds the token."""

    code = "KEYGUARD_HSM_ABSENT"
    cause = "The HSM's module does not load, or no slot of it holds the token."
    remedy = "Look whether the HSM is reachable and KEYGUARD_HSM_MODULE and KEYGUARD_HSM_TOKEN are right; it is tried again."


class HsmPinError(BackendError):
    """The PIN was wrong. It is not tried again, for some wrong PINs lock a token."""

    code = "KEYGUARD_HSM_PIN"
    cause = "The token refused the PIN. It is not tried again: some wrong PINs lock a token."
    remedy = "Correct KEYGUARD_HSM_PIN (or its file), then run manage.py try_hsm_pin, once."
    disposition = Disposition.PARK


class HsmKeyMissingError(BackendError):
    """The token does not hold the key."""

    code = "KEYGUARD_HSM_KEY_MISSING"
    cause = "The token holds no key with this id."
    remedy = "Look whether it is the right token, and restore it from the HSM's own backup if it was emptied."
    disposition = Disposition.PARK


class HsmFailedError(BackendError):
    """The device failed, or a session was lost twice."""

    code = "KEYGUARD_HSM_FAILED"
    cause = "The HSM failed to do what it was asked."
    remedy = "None at once: it is tried again. The message names the HSM's own error."


class VaultUnreachableError(BackendError):
    """No answer of Vault, or it cannot answer now. A write may have been done all the same."""

    code = "KEYGUARD_VAULT_UNREACHABLE"
    cause = "Vault does not answer, is a standby, or cannot answer now."
    remedy = "None at once: it is tried again. Look at Vault and at KEYGUARD_VAULT_URL when it lasts."


class VaultSealedError(BackendError):
    """Vault is sealed."""

    code = "KEYGUARD_VAULT_SEALED"
    cause = "Vault is sealed."
    remedy = "Unseal it; what waits is tried again."


class VaultDeniedError(BackendError):
    """Vault refused the login, or the policy does not allow this."""

    code = "KEYGUARD_VAULT_DENIED"
    cause = "Vault refused the AppRole login, or the role's policy does not allow this."
    remedy = "Compare the role's policy with docs/deploy/vault.md; renew the secret id if it has expired."
    disposition = Disposition.PARK


class VaultRefusedError(BackendError):
    """Vault does not take the request as it is."""

    code = "KEYGUARD_VAULT_REFUSED"
    cause = "Vault does not take the request."
    remedy = "The message has Vault's own words. Compare mounts and names with docs/deploy/vault.md."
    disposition = Disposition.PARK

    def __init__(self, message: str = "", words: str = "") -> None:
        super().__init__(message)
        self.words = words  # Vault's, to be told apart by


class VaultSecretMissingError(BackendError):
    """Vault has the key's ciphertext no longer."""

    code = "KEYGUARD_VAULT_SECRET_MISSING"
    cause = (
        "Vault has the key's ciphertext no longer: its version was deleted or destroyed, or the path is gone."
    )
    remedy = "A deleted version: vault kv undelete -versions=1 PATH. A destroyed one: restore Vault's backup."
    disposition = Disposition.PARK
    is_deleted = False  # or destroyed; not so when there is nothing at all


class VaultConflictError(BackendError):
    """Something else lies where the new key was to be put."""

    code = "KEYGUARD_VAULT_CONFLICT"
    cause = "Something else lies in Vault where the new key was to be put; nothing was overwritten."
    remedy = "Try again: each try takes a new path."
    disposition = Disposition.FAIL
