"""What keyguard refuses, why, and what may be done about it.

Every class has a stable code, its cause, its remedy and a disposition; callers look at nothing else. An exception that
keyguard doesn't know means *deny*: nothing was signed. No message here holds key material, not even in part.

    KeyguardError
    ├── KeyNotFoundError, AliasTakenError, AliasInvalidError, KeyExistsError, SecretInvalidError, BackendUnknownError,
    │   KeyUriInvalidError
    ├── ImportRefusedError          the backend makes its keys itself
    ├── PlainImportRefusedError, WrappedKeyInvalidError, AddressMismatchError
    │                               a key that is imported comes another way, or is another one, than was said
    ├── KeyNotActiveError           the key is known and may not sign now
    ├── IdempotencyConflictError    409: this idempotency key was used for something else
    ├── FloorError                  what no policy may permit; one subclass for each rule
    ├── PolicyInvalidError          a policy's text is not understood; the message says where
    ├── PolicyDeniedError           the policy does not allow it; LimitExceededError: not so much at once
    ├── ApprovalPendingError        people are asked first
    ├── VoteInvalidError            an answer that does not count
    ├── KekError                    the key encryption key is missing, malformed or another one; accuses no key
    ├── BackendError                what keeps keys or KEKs does not answer as it should; `keyguard.backend_errors`
    ├── MaterialTamperedError       the stored key does not open: the key is suspended
    ├── SignatureInvalidError       the backend's signature is not the pinned key's: key suspended, backend sealed
    ├── SignatureUnderWayError      another caller asks for the same at this moment
    ├── KeyguardSealedError         nothing is signed until people lift the seal; SealingInvalidError
    ├── AuditKeyError, AuditFailedError  what cannot be in the audit trail is not done
    ├── CustodySignatureError, CustodySignaturePendingError  a custody's answer to a request for a signature
    ├── CustodyUnreachableError     no usable answer of a custody: it may have been asked all the same
    │   └── CustodyBusyError, CustodyClockError, CustodyDeniesError, CustodyMisconfiguredError
    ├── CustodyForgotError          a custody knew a call and knows it no longer
    ├── HintRefusedError            a webhook that is not the custody's
    ├── RawNotAllowedError          a custody would sign blindly, and the key does not allow it
    └── SigningDeniedError          anything unforeseen while signing
"""

from enum import Enum
from typing import ClassVar


class Disposition(Enum):
    """What a loop may do with an error."""

    RETRY = "retry"
    FAIL = "fail"
    PARK = "park"  # waits for a person
    RECONCILE = "reconcile"  # outcome unknown: look before acting


class KeyguardError(Exception):
    """An error of keyguard. Nothing was signed and nothing was stored, unless the class says otherwise."""

    code: ClassVar[str] = "KEYGUARD_ERROR"
    cause: ClassVar[str] = ""
    remedy: ClassVar[str] = ""
    disposition: ClassVar[Disposition] = Disposition.FAIL

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.cause)
        self.message = message or self.cause


class KeyNotFoundError(KeyguardError):
    """No key has this alias or address."""

    code = "KEYGUARD_KEY_NOT_FOUND"
    cause = "No key has this alias or address."
    remedy = "Create or import the key, or correct the alias."


class AliasInvalidError(KeyguardError):
    """The alias is not a name."""

    code = "KEYGUARD_ALIAS_INVALID"
    cause = "An alias is 1 to 64 letters, digits and . _ : / - and must not look like an address."
    remedy = "Choose another alias."


class AliasTakenError(KeyguardError):
    """Another key has this alias."""

    code = "KEYGUARD_ALIAS_TAKEN"
    cause = "Another key has this alias."
    remedy = "Choose another alias, or use the key that has it."


class KeyExistsError(KeyguardError):
    """The imported key is here already."""

    code = "KEYGUARD_KEY_EXISTS"
    cause = "This key is here already, perhaps under another alias."
    remedy = "Use the key that is here; the message names its address."


class SecretInvalidError(KeyguardError):
    """What was to be imported is no private key."""

    code = "KEYGUARD_SECRET_INVALID"
    cause = "A private key is 32 bytes, more than 0 and less than the order of secp256k1."
    remedy = "Check where the key comes from; it was not stored."


class BackendUnknownError(KeyguardError):
    """No backend has this name."""

    code = "KEYGUARD_BACKEND_UNKNOWN"
    cause = "No backend has this name."
    remedy = "Use one of the names in the message."


class KeyUriInvalidError(KeyguardError):
    """A text is no key's URI."""

    code = "KEYGUARD_KEY_URI_INVALID"
    cause = "A key's URI is its backend, a colon and what the backend calls the key."
    remedy = "Write it as the message shows; docs/keys.md lists the form of each backend."


class ImportRefusedError(KeyguardError):
    """The backend takes no key from outside."""

    code = "KEYGUARD_IMPORT_REFUSED"
    cause = "This backend makes its keys itself and takes none from outside."
    remedy = (
        "Import into the backend `database` or `vault`, or make a new key here and hand the roles over to it."
    )


class KeyNotActiveError(KeyguardError):
    """The key is suspended."""

    code = "KEYGUARD_KEY_NOT_ACTIVE"
    cause = "The key may not sign now."
    remedy = "The key's page says why, and since when."
    disposition = Disposition.PARK


class KeySuspendedError(KeyNotActiveError):
    """The key was taken out of service, until somebody has found out."""

    code = "KEYGUARD_KEY_SUSPENDED"
    cause = "The key is suspended and signs nothing."
    remedy = "Find out why it was suspended (the key's page and the log say so) before anything else."


class KeyRetiredError(KeyNotActiveError):
    """Another key has taken over."""

    code = "KEYGUARD_KEY_RETIRED"
    cause = "The key is retired and signs nothing any more."
    remedy = "Use the key that has taken over."
    disposition = Disposition.FAIL


class KeyCompromisedError(KeyNotActiveError):
    """Somebody else may have the key."""

    code = "KEYGUARD_KEY_COMPROMISED"
    cause = "The key is marked as compromised and never signs again."
    remedy = "Hand what its address holds over to another key, if that has not been done."
    disposition = Disposition.FAIL


class KeyDestroyedError(KeyNotActiveError):
    """Its material is gone."""

    code = "KEYGUARD_KEY_DESTROYED"
    cause = "The key was destroyed, and nobody can sign with it again."
    remedy = "Use the key that has taken over."
    disposition = Disposition.FAIL


class KeyNotYetValidError(KeyNotActiveError):
    """The key's time has not come."""

    code = "KEYGUARD_KEY_NOT_YET_VALID"
    cause = "The key signs from a later day on."
    remedy = "Wait for it, or have the key's validity changed."


class KeyExpiredError(KeyNotActiveError):
    """The key's time is over."""

    code = "KEYGUARD_KEY_EXPIRED"
    cause = "The key's time is over, and it signs nothing."
    remedy = "Have its validity extended, or hand its roles over to a new key."


class KeyActInvalidError(KeyguardError):
    """This cannot be done to the key now."""

    code = "KEYGUARD_KEY_ACT_INVALID"
    cause = "This cannot be done to the key now."
    remedy = "The message says why; nothing was changed."


class PlainImportRefusedError(KeyguardError):
    """A private key may not come in the clear here."""

    code = "KEYGUARD_PLAIN_IMPORT_REFUSED"
    cause = "KEYGUARD_IMPORT allows no private key in the clear."
    remedy = "Wrap it: manage.py import_key --wrapped makes the key pair, docs/keys.md says how to go on."


class WrappedKeyInvalidError(KeyguardError):
    """What was wrapped cannot be opened."""

    code = "KEYGUARD_WRAPPED_KEY_INVALID"
    cause = "The wrapped key cannot be opened."
    remedy = "Make a new pair with manage.py import_key --wrapped, and wrap the key again."


class AddressMismatchError(KeyguardError):
    """The imported key is not the one that was announced."""

    code = "KEYGUARD_ADDRESS_MISMATCH"
    cause = "The imported key has another address than the one that was given."
    remedy = "Find out which of the two is wrong. Nothing was stored."


class ApprovalPendingError(KeyguardError):
    """People are asked first; asked again after they said yes, the same request is signed."""

    code = "KEYGUARD_APPROVAL_PENDING"
    cause = "The key's policy asks people first."
    remedy = "Wait for their decision."
    disposition = Disposition.PARK


class IdempotencyConflictError(KeyguardError):
    """The idempotency key was used for another payload (409)."""

    code = "KEYGUARD_IDEMPOTENCY_KEY_REUSED"
    cause = "This idempotency key was used for another payload or key."
    remedy = "Use a new idempotency key for a new signature."


class FloorError(KeyguardError):
    """The request breaks a rule that no configuration can lift. `field` names the offending field."""

    code = "KEYGUARD_FLOOR"
    cause = "The request breaks a rule that nothing can lift."
    remedy = "Correct the request."

    def __init__(self, field: str, message: str = "") -> None:
        super().__init__(f"{field}: {message or self.cause}")
        self.field = field


class ChainIdError(FloorError):
    """Without a chain id the signature would be valid on every chain."""

    code = "KEYGUARD_CHAIN_ID"
    cause = "A chain id is required, an integer above 0: without one the signature is valid on every chain."
    remedy = "Set chainId."


class TransactionTypeError(FloorError):
    """No such type of transaction."""

    code = "KEYGUARD_TRANSACTION_TYPE"
    cause = "The type is none of 0 (legacy), 1 (EIP-2930), 2 (EIP-1559), 3 (EIP-4844) and 4 (EIP-7702)."
    remedy = "Use one of these."


class AuthorizationInvalidError(FloorError):
    """An EIP-7702 authorisation that chains would pass over in silence."""

    code = "KEYGUARD_AUTHORIZATION_INVALID"
    cause = "The authorisation is for another chain, or not signed by the authority that it names."
    remedy = "Have the authority sign one for the transaction's chain."


class DelegateNotAllowedError(FloorError):
    """EIP-7702 would hand the whole account to a contract that nobody has allowed."""

    code = "KEYGUARD_DELEGATE_NOT_ALLOWED"
    cause = "The delegate is not on the list of those that accounts may be handed to (EIP-7702)."
    remedy = "Examine the contract's code; then allow it: manage.py allow_delegate."


class BlobInvalidError(FloorError):
    """Not a blob."""

    code = "KEYGUARD_BLOB_INVALID"
    cause = "A blob is 131072 bytes: 4096 field elements, each below the modulus of BLS12-381 (EIP-4844)."
    remedy = "Put 31 bytes of data into each field element, after a zero byte."


class TypedDataError(FloorError):
    """EIP-712 data that would be signed for another purpose, or in part, or not as it reads."""

    code = "KEYGUARD_TYPED_DATA"
    cause = "The typed data (EIP-712) is incomplete, or holds what its types do not describe."
    remedy = "Correct the part that the message names; the domain needs chainId and verifyingContract."


class FieldUnknownError(FloorError):
    """A field that would not be part of what is signed."""

    code = "KEYGUARD_FIELD_UNKNOWN"
    cause = "This field is not part of the transaction's type and would be dropped in silence."
    remedy = "Remove the field."


class FieldMissingError(FloorError):
    """A field without which the transaction is not what the caller means."""

    code = "KEYGUARD_FIELD_MISSING"
    cause = "This field is required."
    remedy = "Set the field."


class FieldInvalidError(FloorError):
    """A field of the wrong type or out of bounds."""

    code = "KEYGUARD_FIELD_INVALID"
    cause = "The value has the wrong type or is out of bounds."
    remedy = "Correct the value."


class AddressInvalidError(FloorError):
    """Not an address, or its checksum is wrong."""

    code = "KEYGUARD_ADDRESS_INVALID"
    cause = "An address is 0x and 40 hex digits, all lower-case or with the right EIP-55 checksum."
    remedy = "Correct the address."


class SenderMismatchError(FloorError):
    """`from` is not the address of the signing key."""

    code = "KEYGUARD_SENDER_MISMATCH"
    cause = "The sender is not the address of the signing key."
    remedy = "Sign with the sender's key."


class FeesInvalidError(FloorError):
    """Fees that no node would accept."""

    code = "KEYGUARD_FEES_INVALID"
    cause = "The priority fee exceeds the maximum fee, or value and fees exceed 2^256 - 1."
    remedy = "Quote the fees again."


class DataTooLargeError(FloorError):
    """More data than a node takes."""

    code = "KEYGUARD_DATA_TOO_LARGE"
    cause = "Call data is limited to 128 KiB, a contract's init code to 48 KiB (EIP-3860)."
    remedy = "Split the call."


class PolicyInvalidError(KeyguardError):
    """A policy's text is not one."""

    code = "KEYGUARD_POLICY_INVALID"
    cause = "The policy's text is not understood."
    remedy = "Correct the part that the message names; docs/policies.md describes all of them."

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.path = path


class PolicyDeniedError(KeyguardError):
    """The policy does not allow it."""

    code = "KEYGUARD_POLICY_DENIED"
    cause = "The policy does not allow this."
    remedy = "If it is meant to be allowed, have the policy changed; the message names the rule."


class LimitExceededError(PolicyDeniedError):
    """It would be more than a limit of the policy leaves."""

    code = "KEYGUARD_LIMIT_EXCEEDED"
    cause = "It would be more than a limit of the policy leaves."
    remedy = "Wait until the limit's time has passed, or have the policy changed."

    def __init__(self, subject: str, message: str) -> None:
        super().__init__(message)
        self.subject = subject


class VoteInvalidError(KeyguardError):
    """An answer to a question of four eyes that does not count."""

    code = "KEYGUARD_VOTE_INVALID"
    cause = "This answer does not count."
    remedy = "The message says why; the question stands as it stood."


class TenantInvalidError(KeyguardError):
    """A tenant's name that is none."""

    code = "KEYGUARD_TENANT_INVALID"
    cause = "A tenant's name has lower-case letters, digits, _ and -, 64 at most, and begins with a letter or digit."
    remedy = "Choose such a name."


class GroupGuardedError(KeyguardError):
    """A change of a group whose members approve, by another way than a question to its members."""

    code = "KEYGUARD_GROUP_GUARDED"
    cause = (
        "The group's members approve signatures, policies or acts on keys: its members say who joins them."
    )
    remedy = "Ask for it in the console (Groups, the group's page), or with manage.py add_approver."


class MembershipInvalidError(KeyguardError):
    """This cannot be done to the group now."""

    code = "KEYGUARD_MEMBERSHIP_INVALID"
    cause = "This person cannot be added to the group, or removed from it, now."
    remedy = "The message says why; nothing was changed."


class CeremonyError(KeyguardError):
    """The shares of a KEK's backup do not fit, or cannot be made so."""

    code = "KEYGUARD_CEREMONY"
    cause = "The shares of the backup do not give the key encryption key."
    remedy = "Look which sheets these are, and type them in again; nothing was written."


class KekError(KeyguardError):
    """The key encryption key cannot be used. No key signs until an operator has acted."""

    code = "KEYGUARD_KEK"
    cause = "The key encryption key cannot be used."
    remedy = "See the codes that begin alike: each says what to do."
    disposition = Disposition.PARK


class KekMissingError(KekError):
    """There is no KEK."""

    code = "KEYGUARD_KEK_MISSING"
    cause = "There is no key encryption key: KEYGUARD_KEK is not set, or no KEK was made."
    remedy = "Provider env: set KEYGUARD_KEK (32 bytes in base64) or KEYGUARD_KEK_FILE and restart. Others: manage.py create_kek."


class KekMalformedError(KekError):
    """KEYGUARD_KEK is not 32 bytes in base64."""

    code = "KEYGUARD_KEK_MALFORMED"
    cause = "KEYGUARD_KEK, or one of KEYGUARD_KEK_FALLBACKS, is not 32 bytes in base64."
    remedy = "Make one with: python -c 'import base64, os; print(base64.b64encode(os.urandom(32)).decode())'"


class KekMismatchError(KekError):
    """The KEK at hand is not the one the keys were stored under."""

    code = "KEYGUARD_KEK_MISMATCH"
    cause = (
        "The KEK at hand is not the key that the stored keys were encrypted under: its check value differs."
    )
    remedy = (
        "Restore the KEK that belongs to this database (KEYGUARD_KEK or KEYGUARD_KEK_FALLBACKS, the token, Vault) and restart. "
        "No key was harmed."
    )


class KekProviderUnknownError(KekError):
    """KEYGUARD_KEK_PROVIDER names no provider."""

    code = "KEYGUARD_KEK_PROVIDER"
    cause = "No KEK provider has this name."
    remedy = "Use one of the names in the message."


class BackendError(KeyguardError):
    """What keeps keys or KEKs does not answer as it should. Nothing was signed, and no key is at fault."""

    code = "KEYGUARD_BACKEND"
    cause = "What keeps the key does not answer as it should."
    remedy = "None at once: it is tried again. manage.py doctor says how each backend stands."
    disposition = Disposition.RETRY


class MaterialTamperedError(KeyguardError):
    """The stored key does not open: its row was altered. The key is suspended."""

    code = "KEYGUARD_MATERIAL_TAMPERED"
    cause = "The stored key does not open: its row was altered, moved or damaged. The key is suspended."
    remedy = (
        "Treat it as an attack: keep the database, compare it with a backup, move the roles to a new key."
    )
    disposition = Disposition.PARK


class SignatureInvalidError(KeyguardError):
    """The backend's signature is not one of the pinned key over this payload. The key is suspended, the backend sealed."""

    code = "KEYGUARD_SIGNATURE_INVALID"
    cause = "The backend's answer is not a signature of the pinned key over this payload. The key is suspended, the backend sealed."
    remedy = "Treat it as a fault attack or a mixed-up backend: examine the backend before it is used again."
    disposition = Disposition.PARK


class KeyguardSealedError(KeyguardError):
    """Keyguard is sealed, or the key's backend is: nothing is signed until people lift the seal."""

    code = "KEYGUARD_SEALED"
    cause = "Keyguard, or this key's backend, is sealed: nothing is signed until the seal is lifted."
    remedy = "manage.py doctor says why it was sealed. Once that is understood and over: manage.py unseal."
    disposition = Disposition.PARK


class SealingInvalidError(KeyguardError):
    """A seal cannot be set or lifted like that."""

    code = "KEYGUARD_SEALING_INVALID"
    cause = "A seal cannot be set or lifted like that."
    remedy = "The message says why not."


class AuditKeyError(KeyguardError):
    """The key of the audit trail is none."""

    code = "KEYGUARD_AUDIT_KEY"
    cause = "KEYGUARD_AUDIT_KEY, or one of KEYGUARD_AUDIT_KEY_FALLBACKS, is not 32 bytes in hex."
    remedy = "Make one with: openssl rand -hex 32"
    disposition = Disposition.PARK


class AuditFailedError(KeyguardError):
    """The database refuses an entry of the audit trail. Nothing that it tells of was done; keyguard seals itself."""

    code = "KEYGUARD_AUDIT_FAILED"
    cause = (
        "The database refuses an entry of the audit trail; nothing is signed that the trail does not tell of."
    )
    remedy = "Look whether the disk is full and who holds locks; then manage.py verify_audit, and unseal."
    disposition = Disposition.PARK


class SignatureUnderWayError(KeyguardError):
    """Somebody else asks for this very signature at this moment."""

    code = "KEYGUARD_SIGNATURE_UNDER_WAY"
    cause = "Somebody else asks for this very signature at this moment, or has just died while doing so."
    remedy = "None: ask again with the same idempotency key."
    disposition = Disposition.RETRY


class CustodySignatureError(KeyguardError):
    """A custody will not give this signature: its rules, its people or a failure there."""

    code = "KEYGUARD_CUSTODY_REFUSED"
    cause = "The custody refused the signature."
    remedy = "Ask the custody's operators; what is asked for under a new idempotency key is a new request."


class CustodySignaturePendingError(KeyguardError):
    """A custody has the request, and no answer yet."""

    code = "KEYGUARD_CUSTODY_PENDING"
    cause = "The custody has the request and no answer yet; its own people may have to approve it."
    remedy = "None: ask again with the same idempotency key. Nothing is asked for twice."
    disposition = Disposition.RETRY


class CustodyUnreachableError(KeyguardError):
    """The custody gave no usable answer. It may have taken the call: look it up before anything else."""

    code = "KEYGUARD_CUSTODY_UNREACHABLE"
    cause = "The custody does not answer, or its answer is not understood. It may have taken the call all the same."
    remedy = (
        "None at once: it is looked up under the same id, and handed over if the custody has no such request."
    )
    disposition = Disposition.RECONCILE


class CustodyBusyError(CustodyUnreachableError):
    """The custody's rate limit is reached: nothing is asked before the time that it names."""

    code = "KEYGUARD_CUSTODY_BUSY"
    cause = "The custody's rate limit is reached; it is left alone for as long as it asks."
    remedy = (
        "None at once. When it stays: lower the rate in the settings, or have the custody raise its limit."
    )


class CustodyClockError(CustodyUnreachableError):
    """The clocks differ so much that the custody takes no request of ours for a fresh one."""

    code = "KEYGUARD_CUSTODY_CLOCK"
    cause = "This machine's clock and the custody's differ too much; it refuses what we sign."
    remedy = "Set this machine's clock (NTP). It is asked again once a minute."


class CustodyDeniesError(CustodyUnreachableError):
    """The custody does not accept our credentials, or they lack the right to do this."""

    code = "KEYGUARD_CUSTODY_DENIES"
    cause = "The custody does not accept our credentials, or they do not permit this."
    remedy = (
        "Check the key, its role and the list of allowed addresses at the custody; docs/deploy says which."
    )


class CustodyMisconfiguredError(CustodyUnreachableError):
    """A setting about the custody is missing or wrong. Nothing was asked."""

    code = "KEYGUARD_CUSTODY_MISCONFIGURED"
    cause = "A setting about the custody is missing or wrong."
    remedy = "Correct the setting that the message names, and restart."


class CustodyForgotError(KeyguardError):
    """The custody had taken the call, and says now that it has no such request. It is not handed over again."""

    code = "KEYGUARD_CUSTODY_FORGOT"
    cause = "The custody had taken the call, and says now that it has no such request."
    remedy = "Ask the custody: another workspace or another API key would do this. Handing it over again could execute it twice."
    disposition = Disposition.PARK


class HintRefusedError(KeyguardError):
    """A webhook that is not, or may not be, the custody's."""

    code = "KEYGUARD_HINT_REFUSED"
    cause = "The webhook is not signed by the custody, or this custody's webhooks are not configured."
    remedy = "None when it is forged. Else check the webhook's secret, or the address of its public keys."


class RawNotAllowedError(KeyguardError):
    """The key may not sign what its custody cannot read."""

    code = "KEYGUARD_RAW_NOT_ALLOWED"
    cause = "The custody would sign this without being able to read it, and the key does not allow that."
    remedy = "Have it signed as typed data or a message, or executed as a call; else allow the key in FIREBLOCKS_ALLOW_RAW or DFNS_ALLOW_RAW."


class SigningDeniedError(KeyguardError):
    """Something unforeseen happened while signing, so the request is denied."""

    code = "KEYGUARD_DENIED"
    cause = "Something unforeseen happened while signing; the request is denied."
    remedy = "The log names the exception's type. Report it."
