"""The token of an HSM: PKCS#11 initialised once per process, one login, a few sessions that its callers share.

Upholds: nothing that was opened before a fork is used after it. The module is told that several threads call it; without
that, two of them crash the process (python-pkcs11 passes no arguments to C_Initialize). A session that was lost is
opened anew, once. The PIN is given once (`keyguard.pins`) and is in no message.
Does not know what the sessions are used for. pkcs11 is imported when the first session is opened.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.conf import settings

from keyguard import pins
from keyguard.backend_errors import (
    BackendSettingsError,
    HsmAbsentError,
    HsmFailedError,
    HsmKeyMissingError,
    HsmPinError,
)
from keyguard.errors import BackendError

T = TypeVar("T")

WAIT_SECONDS = 10.0
# So long after all sessions were opened anew, a token that says it has no such key is believed.
BELIEVED_SECONDS = 10.0
_OS_LOCKING_OK = 2  # CKF_OS_LOCKING_OK
_NOT_INITIALISED = 0x190  # CKR_CRYPTOKI_NOT_INITIALIZED


@dataclass(frozen=True)
class Place:
    """Where the token is, as the settings say."""

    module: str
    label: str
    sessions: int


@dataclass
class Session:
    """An open session and the keys that were found in it, by their class and CKA_ID."""

    handle: Any
    generation: int
    found: dict[tuple[Any, bytes], Any] = field(default_factory=dict)

    def key(self, kind: Any, reference: bytes) -> Any:
        """Return the one key of this class with this CKA_ID: labels need not be unique. Raises pkcs11.NoSuchKey."""
        from pkcs11 import Attribute, MultipleObjectsReturned, NoSuchKey

        if (kind, reference) not in self.found:
            attributes = {Attribute.CLASS: kind, Attribute.ID: reference, Attribute.TOKEN: True}
            objects = list(self.handle.get_objects(attributes))
            if len(objects) > 1:
                raise MultipleObjectsReturned
            if not objects:
                raise NoSuchKey
            self.found[kind, reference] = objects[0]
        return self.found[kind, reference]


class Token:
    """One token, in one process."""

    def __init__(self, place: Place) -> None:
        self.place, self.pid = place, os.getpid()
        self._lock = threading.RLock()
        self._free = threading.BoundedSemaphore(place.sessions)
        self._idle: list[Session] = []
        self._generation = self._busy = 0
        self._restart, self._believed_until = False, 0.0
        self._token: Any = None
        # Its session is used for nothing: to close the one that has logged in logs all the others out.
        self._login: Any = None

    def run(self, act: Callable[[Session], T], what: str) -> T:
        """Return what `act` returns with a session. It is called a second time when the session was lost.

        Raises BackendErrors. What `act` does must do no harm when done twice.
        """
        import pkcs11

        for last in (False, True):
            seen = self._generation
            try:
                with self._session() as session:
                    return act(session)
            except BackendError:
                raise
            except pkcs11.NoSuchKey as error:
                # A token that was taken out for a moment says so, too; one that lacks a key must not cost others theirs.
                if last or time.monotonic() < self._believed_until:
                    raise self._explained(error, what) from None
                self._believed_until = time.monotonic() + BELIEVED_SECONDS
                self._forget(seen, device=True)
            except _lost() as error:
                self._forget(seen, device=last)
                if last:
                    raise self._explained(error, what) from None
            except pkcs11.PKCS11Error as error:
                # What is wrong with the device may be over by the next call, and its module may have to start anew.
                self._forget(seen, device=True)
                raise self._explained(error, what) from None
        raise AssertionError("unreachable")

    def log_in(self) -> str:
        """Log in, unless that was done, and say what this is. Raises BackendErrors."""

        def act(session: Session) -> str:
            found = session.handle.token
            return f"{self.place.label!r}, {found.manufacturer_id} {found.model}".strip()

        return self.run(act, "say what it is")

    def close(self) -> None:
        """Close everything, log out and have the module forget this process."""
        self._forget(self._generation)
        module = _modules.pop(self.place.module, None)
        if module is not None:
            module.finalize()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise HsmFailedError(
                f"all {self.place.sessions} sessions of the HSM are busy: KEYGUARD_HSM_SESSIONS"
            )
        try:
            session = self._take()
            try:
                yield session
            finally:
                with self._lock:
                    self._busy -= 1
                    if session.generation == self._generation:
                        self._idle.append(session)
                    else:
                        _close(session.handle)
        finally:
            self._free.release()

    def _take(self) -> Session:
        with self._lock:
            if self._login is None:
                self._open()
            session = self._idle.pop() if self._idle else Session(self._token.open(rw=True), self._generation)
            self._busy += 1
            return session

    def _open(self) -> None:
        """Find the token and log in. Raises HsmAbsentError, HsmPinError."""
        import pkcs11

        pin = str(settings.KEYGUARD_HSM_PIN or "")
        if not pin:
            raise BackendSettingsError("KEYGUARD_HSM_PIN is not set")
        # Some modules find a device again only when they start anew; not while another thread is at work in one.
        if self._restart and not self._busy:
            _modules.pop(self.place.module, None)
            self._restart = False
        try:
            self._token = _module(self.place.module).get_token(token_label=self.place.label)
            # Some HSMs know better than we how near the lock is.
            if self._token.flags & pkcs11.TokenFlag.USER_PIN_LOCKED:
                raise HsmPinError(f"the PIN of the token {self.place.label!r} is locked")
            self._login = pins.log_in(self.place.label, lambda: self._with_pin(pin))
        except (pkcs11.NoSuchToken, pkcs11.TokenNotPresent, pkcs11.SlotIDInvalid, pkcs11.DeviceRemoved):
            # A module that was started while the token was away never sees it come.
            self._restart = True
            raise HsmAbsentError(f"no slot holds a token {self.place.label!r}") from None

    def _with_pin(self, pin: str) -> Any:
        import pkcs11

        try:
            return self._token.open(rw=True, user_pin=pin)
        except pkcs11.UserAlreadyLoggedIn:  # by another component of this process, with the same PIN
            return self._token.open(rw=True)
        except (
            pkcs11.PinIncorrect,
            pkcs11.PinLocked,
            pkcs11.PinExpired,
            pkcs11.PinInvalid,
            pkcs11.PinLenRange,
        ) as error:
            raise HsmPinError(
                f"the token {self.place.label!r} refused the PIN ({type(error).__name__})"
            ) from None

    def _forget(self, generation: int, *, device: bool = False) -> None:
        """Close what is idle and log in anew next time, unless somebody has done that since."""
        with self._lock:
            self._restart = self._restart or device
            if generation != self._generation:
                return
            self._generation += 1
            for handle in [session.handle for session in self._idle] + [self._login]:
                _close(handle)
            self._idle, self._login, self._token = [], None, None

    def _explained(self, error: Exception, what: str) -> BackendError:
        import pkcs11

        if isinstance(error, pkcs11.NoSuchKey):
            return HsmKeyMissingError(f"the token {self.place.label!r} has no key to {what} with")
        if isinstance(error, pkcs11.TokenNotPresent | pkcs11.DeviceRemoved):
            return HsmAbsentError(f"the token {self.place.label!r} is gone")
        # The name alone: some modules put what they were given into the text.
        return HsmFailedError(f"the HSM could not {what}: {type(error).__name__}")


_current: Token | None = None
_modules: dict[str, Any] = {}
_abandoned: list[Any] = []
_choosing, _starting = threading.Lock(), threading.Lock()


def token() -> Token:
    """Return the token of the settings, in this process. Opens nothing."""
    global _current  # noqa: PLW0603 - one per process
    module, label = settings.KEYGUARD_HSM_MODULE, settings.KEYGUARD_HSM_TOKEN
    for name, value in (("KEYGUARD_HSM_MODULE", module), ("KEYGUARD_HSM_TOKEN", label)):
        if not value:
            raise BackendSettingsError(f"{name} is not set")
    place = Place(str(module), str(label), max(1, int(settings.KEYGUARD_HSM_SESSIONS)))
    with _choosing:
        if _current is None or _current.place != place or _current.pid != os.getpid():
            _current = Token(place)
        return _current


def close() -> None:
    """Log out and forget everything; the next call opens it anew."""
    global _current  # noqa: PLW0603
    if _current is not None:
        _current.close()
    _current = None


def _module(path: str) -> Any:
    """Return the module, initialised for several threads in this process."""
    import pkcs11

    with _starting:
        if path in _modules:
            return _modules[path]
        try:
            module = pkcs11.lib(path)
            _initialise_for_threads(path)
        except (pkcs11.PKCS11Error, OSError) as error:
            name = type(error).__name__
            raise HsmAbsentError(f"the module of KEYGUARD_HSM_MODULE does not start: {name}") from None
        _modules[path] = module
        return module


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = [
        ("create", ctypes.c_void_p),
        ("destroy", ctypes.c_void_p),
        ("lock", ctypes.c_void_p),
        ("unlock", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    ]


def _initialise_for_threads(path: str) -> None:
    """Initialise the module anew, with locks of the operating system. In a forked process, too, it is for the first time."""
    raw = ctypes.CDLL(path)
    finalised = raw.C_Finalize(None)
    if finalised not in (0, _NOT_INITIALISED):
        raise OSError(f"C_Finalize: {finalised:#x}")
    started = raw.C_Initialize(ctypes.byref(_InitializeArgs(flags=_OS_LOCKING_OK)))
    if started != 0:
        raise OSError(f"C_Initialize: {started:#x}")


def _lost() -> tuple[type[Exception], ...]:
    """Return the errors after which nothing was done, and a new session may do it."""
    import pkcs11

    return (
        pkcs11.SessionClosed,
        pkcs11.SessionHandleInvalid,
        pkcs11.ObjectHandleInvalid,
        pkcs11.KeyHandleInvalid,
        pkcs11.UserNotLoggedIn,
        pkcs11.DeviceRemoved,
        pkcs11.TokenNotPresent,
        pkcs11.OperationActive,
    )


def _close(handle: Any) -> None:
    if handle is None:
        return
    with suppress(Exception):  # it is lost anyway
        handle.close()


def _in_child() -> None:
    """Use nothing of the parent's. It is kept, not closed: on some HSMs that would close it for the parent, too."""
    global _current, _choosing, _starting
    _abandoned.append((_current, dict(_modules)))
    _current, _choosing, _starting = None, threading.Lock(), threading.Lock()
    _modules.clear()


os.register_at_fork(after_in_child=_in_child)
