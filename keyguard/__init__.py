"""Keys: made or imported, encrypted at rest, and used on one path that checks what it signs and records it.

Knows none of the other apps. Its public names are below; they load on first use, because models cannot be imported
before Django has set up its apps.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyguard.audit.verifying import TrailFault as TrailFault
    from keyguard.audit.verifying import verify_trail as verify_trail
    from keyguard.authorizations import SignedAuthorization as SignedAuthorization
    from keyguard.backends.hints import custody_hint as custody_hint
    from keyguard.calls import Call as Call
    from keyguard.custodians import Custodian as Custodian
    from keyguard.custodians import Report as Report
    from keyguard.custodians import register_custodian as register_custodian
    from keyguard.delegates import allow_delegate as allow_delegate
    from keyguard.delegates import disallow_delegate as disallow_delegate
    from keyguard.errors import ApprovalPendingError as ApprovalPendingError
    from keyguard.errors import BackendError as BackendError
    from keyguard.errors import CustodyForgotError as CustodyForgotError
    from keyguard.errors import CustodyUnreachableError as CustodyUnreachableError
    from keyguard.errors import Disposition as Disposition
    from keyguard.errors import HintRefusedError as HintRefusedError
    from keyguard.errors import IdempotencyConflictError as IdempotencyConflictError
    from keyguard.errors import KekError as KekError
    from keyguard.errors import KeyguardError as KeyguardError
    from keyguard.errors import KeyNotActiveError as KeyNotActiveError
    from keyguard.errors import KeyNotFoundError as KeyNotFoundError
    from keyguard.handing_over import HandOverRequest as HandOverRequest
    from keyguard.handing_over import broadcasts_itself as broadcasts_itself
    from keyguard.handing_over import call_off as call_off
    from keyguard.handing_over import can_call_off as can_call_off
    from keyguard.handing_over import custody_status as custody_status
    from keyguard.handing_over import hand_over as hand_over
    from keyguard.handing_over import plan_hand_overs as plan_hand_overs
    from keyguard.jobs import SigningRequest as SigningRequest
    from keyguard.keeping import keep as keep
    from keyguard.keys import bind_key as bind_key
    from keyguard.keys import create_key as create_key
    from keyguard.keys import find_key as find_key
    from keyguard.keys import find_keys as find_keys
    from keyguard.keys import import_key as import_key
    from keyguard.policies.asking import answers as answers
    from keyguard.policies.asking import expire as expire_questions
    from keyguard.policies.asking import on_answer as on_answer
    from keyguard.redaction import scrub as scrub_secrets
    from keyguard.signing import SignedTransaction as SignedTransaction
    from keyguard.signing import sign_authorization as sign_authorization
    from keyguard.signing import sign_message as sign_message
    from keyguard.signing import sign_transactions as sign_transactions
    from keyguard.signing import sign_typed_data as sign_typed_data
    from keyguard.states import CustodyState as CustodyState

_LAZY = {
    "ApprovalPendingError": ("keyguard.errors", "ApprovalPendingError"),
    "BackendError": ("keyguard.errors", "BackendError"),
    "Call": ("keyguard.calls", "Call"),
    "Custodian": ("keyguard.custodians", "Custodian"),
    "CustodyForgotError": ("keyguard.errors", "CustodyForgotError"),
    "CustodyState": ("keyguard.states", "CustodyState"),
    "CustodyUnreachableError": ("keyguard.errors", "CustodyUnreachableError"),
    "Disposition": ("keyguard.errors", "Disposition"),
    "HandOverRequest": ("keyguard.handing_over", "HandOverRequest"),
    "HintRefusedError": ("keyguard.errors", "HintRefusedError"),
    "IdempotencyConflictError": ("keyguard.errors", "IdempotencyConflictError"),
    "KekError": ("keyguard.errors", "KekError"),
    "KeyguardError": ("keyguard.errors", "KeyguardError"),
    "KeyNotActiveError": ("keyguard.errors", "KeyNotActiveError"),
    "KeyNotFoundError": ("keyguard.errors", "KeyNotFoundError"),
    "Report": ("keyguard.custodians", "Report"),
    "SignedAuthorization": ("keyguard.authorizations", "SignedAuthorization"),
    "SignedTransaction": ("keyguard.signing", "SignedTransaction"),
    "TrailFault": ("keyguard.audit.verifying", "TrailFault"),
    "SigningRequest": ("keyguard.jobs", "SigningRequest"),
    "answers": ("keyguard.policies.asking", "answers"),
    "expire_questions": ("keyguard.policies.asking", "expire"),
    "on_answer": ("keyguard.policies.asking", "on_answer"),
    "allow_delegate": ("keyguard.delegates", "allow_delegate"),
    "bind_key": ("keyguard.keys", "bind_key"),
    "broadcasts_itself": ("keyguard.handing_over", "broadcasts_itself"),
    "call_off": ("keyguard.handing_over", "call_off"),
    "can_call_off": ("keyguard.handing_over", "can_call_off"),
    "create_key": ("keyguard.keys", "create_key"),
    "custody_hint": ("keyguard.backends.hints", "custody_hint"),
    "custody_status": ("keyguard.handing_over", "custody_status"),
    "disallow_delegate": ("keyguard.delegates", "disallow_delegate"),
    "find_key": ("keyguard.keys", "find_key"),
    "find_keys": ("keyguard.keys", "find_keys"),
    "hand_over": ("keyguard.handing_over", "hand_over"),
    "import_key": ("keyguard.keys", "import_key"),
    "keep": ("keyguard.keeping", "keep"),
    "plan_hand_overs": ("keyguard.handing_over", "plan_hand_overs"),
    "register_custodian": ("keyguard.custodians", "register_custodian"),
    "scrub_secrets": ("keyguard.redaction", "scrub"),
    "sign_authorization": ("keyguard.signing", "sign_authorization"),
    "sign_message": ("keyguard.signing", "sign_message"),
    "sign_transactions": ("keyguard.signing", "sign_transactions"),
    "sign_typed_data": ("keyguard.signing", "sign_typed_data"),
    "verify_trail": ("keyguard.audit.verifying", "verify_trail"),
}

__all__ = [
    "ApprovalPendingError",
    "BackendError",
    "Call",
    "Custodian",
    "CustodyForgotError",
    "CustodyState",
    "CustodyUnreachableError",
    "Disposition",
    "HandOverRequest",
    "HintRefusedError",
    "IdempotencyConflictError",
    "KekError",
    "KeyNotActiveError",
    "KeyNotFoundError",
    "KeyguardError",
    "Report",
    "SignedAuthorization",
    "SignedTransaction",
    "SigningRequest",
    "TrailFault",
    "allow_delegate",
    "answers",
    "bind_key",
    "broadcasts_itself",
    "call_off",
    "can_call_off",
    "create_key",
    "custody_hint",
    "custody_status",
    "disallow_delegate",
    "expire_questions",
    "find_key",
    "find_keys",
    "hand_over",
    "import_key",
    "keep",
    "on_answer",
    "plan_hand_overs",
    "register_custodian",
    "scrub_secrets",
    "sign_authorization",
    "sign_message",
    "sign_transactions",
    "sign_typed_data",
    "verify_trail",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
