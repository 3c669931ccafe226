"""Vault, or OpenBao, through hvac: one client per process, logged in by AppRole, its token renewed in time.

Upholds: a token that has died costs one login and one more try, a policy that says no costs neither; whatever Vault does
not answer in time or in full is *unreachable*, and the caller must look before it writes again. No message holds a
token, a secret id or a body. A process that was forked logs in for itself.
hvac is imported when the first client is made.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.conf import settings

from keyguard.backend_errors import (
    BackendSettingsError,
    VaultDeniedError,
    VaultRefusedError,
    VaultSealedError,
    VaultUnreachableError,
)
from keyguard.errors import BackendError
from keyguard.redaction import scrub

T = TypeVar("T")

WORDS = 200


@dataclass(frozen=True)
class Place:
    """Where Vault is and who we are there, as the settings say."""

    url: str
    namespace: str
    certificates: str
    timeout_seconds: float
    mount: str
    role_id: str


class Vault:
    """A client that is logged in."""

    def __init__(self, place: Place) -> None:
        self.place, self.pid = place, os.getpid()
        self._lock = threading.Lock()
        self._client: Any = None
        self._lease_seconds = 0.0
        self._renew_at = self._expires_at = 0.0

    def call(self, what: str, act: Callable[[Any], T]) -> T:
        """Return what `act` returns with an hvac client. It is called again after a login when the token had died.

        Raises BackendErrors: VaultRefusedError with Vault's words where it was the request's fault.
        """
        import hvac

        for last in (False, True):
            client = self._logged_in()
            try:
                return act(client)
            except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized):
                if last or self._lives(client):
                    raise VaultDeniedError(f"Vault does not let this role {what}") from None
                self._drop(client)
            except (hvac.exceptions.VaultError, OSError, ValueError, KeyError, TypeError) as error:
                raise explained(error, what) from None
        raise AssertionError("unreachable")

    def health(self) -> str:
        """Say in words how Vault stands, without logging in. Raises VaultSealedError, VaultUnreachableError."""
        try:
            answer = self._new_client().sys.read_health_status(method="GET")
        except OSError as error:
            raise explained(error, "say how it stands") from None
        status = getattr(answer, "status_code", 200)
        if status == 503:
            raise VaultSealedError
        words = {
            429: "is a standby",
            472: "is a recovery replica",
            473: "is a performance standby",
            501: "is not initialised",
        }
        # A standby hands requests on to the active one, unless it is told not to.
        if status not in (200, 429, 473):
            raise VaultUnreachableError(f"Vault {words.get(status, f'answers {status}')}")
        return f"Vault {words.get(status, 'is active')}"

    def _logged_in(self) -> Any:
        with self._lock:
            now = time.monotonic()
            if self._client is None or now >= self._expires_at:
                self._log_in()
            elif now >= self._renew_at:
                self._renew()
            return self._client

    def _log_in(self) -> None:
        import hvac

        secret_id = str(settings.KEYGUARD_VAULT_SECRET_ID or "")
        if not secret_id:
            raise BackendSettingsError("KEYGUARD_VAULT_SECRET_ID is not set")
        client = self._new_client()
        try:
            answer = client.auth.approle.login(self.place.role_id, secret_id, mount_point=self.place.mount)
            self._leased(float(answer["auth"]["lease_duration"]))
        except (hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized):
            raise VaultDeniedError("Vault refused the AppRole login: role id or secret id") from None
        except (hvac.exceptions.VaultError, OSError, ValueError, KeyError, TypeError) as error:
            raise explained(error, "log in") from None
        self._client = client

    def _renew(self) -> None:
        """Renew the token. Near its end Vault grants less and less: then log in, which gives a full one."""
        import hvac

        full = self._lease_seconds
        try:
            answer = self._client.auth.token.renew_self()
            self._leased(float(answer["auth"]["lease_duration"]))
        except (hvac.exceptions.VaultError, OSError, ValueError, KeyError, TypeError):
            self._log_in()
            return
        if self._lease_seconds < full / 3:
            self._log_in()

    def _leased(self, seconds: float) -> None:
        now, self._lease_seconds = time.monotonic(), seconds
        # 0: a token that does not expire.
        self._renew_at = now + seconds * 2 / 3 if seconds else float("inf")
        self._expires_at = now + seconds if seconds else float("inf")

    def _lives(self, client: Any) -> bool:
        import hvac

        try:
            client.auth.token.lookup_self()
        except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized):
            return False
        except (hvac.exceptions.VaultError, OSError) as error:
            raise explained(error, "look the token up") from None
        return True

    def _drop(self, client: Any) -> None:
        with self._lock:
            if self._client is client:
                self._client = None

    def _new_client(self) -> Any:
        import hvac

        return hvac.Client(
            url=self.place.url,
            namespace=self.place.namespace or None,
            timeout=self.place.timeout_seconds,
            verify=self.place.certificates or True,
            allow_redirects=False,  # a redirect would take the token along to wherever it points
            token="",
        )


_current: Vault | None = None
_choosing = threading.Lock()


def vault() -> Vault:
    """Return the client of the settings, in this process. Asks nothing."""
    global _current  # noqa: PLW0603 - one per process
    for name in ("KEYGUARD_VAULT_URL", "KEYGUARD_VAULT_ROLE_ID"):
        if not getattr(settings, name, ""):
            raise BackendSettingsError(f"{name} is not set")
    place = Place(
        settings.KEYGUARD_VAULT_URL,
        settings.KEYGUARD_VAULT_NAMESPACE,
        settings.KEYGUARD_VAULT_CACERT,
        float(settings.KEYGUARD_VAULT_TIMEOUT_SECONDS),
        settings.KEYGUARD_VAULT_APPROLE_MOUNT,
        settings.KEYGUARD_VAULT_ROLE_ID,
    )
    with _choosing:
        if _current is None or _current.place != place or _current.pid != os.getpid():
            _current = Vault(place)
        return _current


def forget() -> None:
    """Forget the token; the next call logs in."""
    global _current  # noqa: PLW0603
    _current = None


def explained(error: Exception, what: str) -> BackendError:
    """Return the BackendError that an error of hvac, or of what is beneath it, stands for."""
    import hvac

    if isinstance(error, hvac.exceptions.VaultDown):
        return VaultSealedError(f"Vault is sealed and could not {what}")
    if isinstance(error, hvac.exceptions.InvalidRequest | hvac.exceptions.InvalidPath):
        words = _words(error)
        return VaultRefusedError(f"Vault did not {what}: {words}", words)
    return VaultUnreachableError(f"Vault did not {what}: {type(error).__name__}")


def _words(error: Any) -> str:
    """Return what Vault says against a request; with several in one, what it says against each is deeper down."""
    said = list(error.errors or [])
    data = (error.json or {}).get("data") if isinstance(error.json, dict) else None
    for item in (data or {}).get("batch_results") or []:
        if item.get("error") and item["error"] not in said:
            said.append(item["error"])
    return str(scrub("; ".join(said)))[:WORDS] or "not found"


def _in_child() -> None:
    """Use nothing of the parent's: its connection would be shared, and its answers mixed up."""
    global _current, _choosing
    _current, _choosing = None, threading.Lock()


os.register_at_fork(after_in_child=_in_child)
