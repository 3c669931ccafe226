"""How each backend stands, in words: for the doctor. One that hangs keeps nobody from hearing of the others.

Upholds: an answer for each, in bounded time; nothing here raises, tries a PIN that was refused, or changes anything.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum

from django.db import connections

from keyguard.backends import BACKENDS, backend_of, custodies
from keyguard.custodians import CUSTODIANS
from keyguard.errors import CustodyUnreachableError, KeyguardError
from keyguard.kek import open_kek, prove
from keyguard.kek_providers import provider_of
from keyguard.models import Kek, Key
from keyguard.states import KekState, KeyState

ANSWER_SECONDS = 15.0
KEK_PREFIX = "kek "
CUSTODY_AWAY = (
    "Other keys sign, and what waits for it goes on by itself. Look at the custody's own status page, and at the way there: "
    "firewall, proxy, address in the settings."
)


class HealthState(StrEnum):
    """OK: it works. THREATENED: it works, and will not for long. DOWN: it does not work."""

    OK = "OK"
    THREATENED = "THREATENED"
    DOWN = "DOWN"


@dataclass(frozen=True, slots=True)
class Health:
    """How one of them stands, in words, and what to do when it is not well."""

    name: str
    state: HealthState
    words: str
    remedy: str = ""


def check(backend: str, seconds: float = ANSWER_SECONDS) -> Health:
    """Say how a backend stands: whether it answers and has the keys that it should have."""
    return _gathered({backend: _probe_of(backend)}, seconds)[0]


def check_all(seconds: float = ANSWER_SECONDS) -> list[Health]:
    """Say how each backend stands that a key lives in, and each KEK that a key may need. All are asked at once.

    A custody is asked by processes that have its secrets: what others could say of it is nothing.
    """
    in_use = set(Key.objects.values_list("backend", flat=True)) & set(BACKENDS)
    kept = Key.objects.filter(backend__in=custodies.askable()).exclude(state=KeyState.DESTROYED)
    in_use |= set(kept.values_list("backend", flat=True))
    probes = {backend: _probe_of(backend) for backend in sorted(in_use)}
    needed = (KekState.ACTIVE, KekState.DECRYPT_ONLY, KekState.RETIRED)
    for kek in Kek.objects.filter(state__in=needed).order_by("created_at"):
        probes[f"{KEK_PREFIX}{kek}"] = _kek_probe(kek)
    return _gathered(probes, seconds)


def _probe_of(backend: str) -> Callable[[], tuple[HealthState, str]]:
    # Here, not in the probe's thread: that has a connection of its own.
    if backend in CUSTODIANS:
        return _custody_probe(backend)
    references: Sequence[str] = list(
        Key.objects.filter(backend=backend).values_list("backend_ref", flat=True)
    )
    return lambda: (HealthState.OK, backend_of(backend).probe(references))


def _custody_probe(backend: str) -> Callable[[], tuple[HealthState, str]]:
    keys = Key.objects.filter(backend=backend).exclude(state=KeyState.DESTROYED)
    # One key for all: each is a request, and custodies count them. One that signs, where there is one.
    key = (
        keys.filter(state=KeyState.ACTIVE).order_by("created_at").first()
        or keys.order_by("created_at").first()
    )
    if key is None:
        return lambda: (HealthState.OK, "keeps no key of ours, and is not asked")
    reference, address = key.backend_ref, key.address
    return lambda: (HealthState.OK, custodies.probe(backend, reference, address))


def _kek_probe(kek: Kek) -> Callable[[], tuple[HealthState, str]]:
    def probe() -> tuple[HealthState, str]:
        provider = provider_of(kek.provider)
        # First what threatens it: a KEK that is refused already is reported with the reason.
        threat = provider.look(kek)
        open_kek(kek)
        if provider.remote:
            prove(kek, provider.open(kek))
        if threat:
            return HealthState.THREATENED, threat
        return HealthState.OK, f"fits, and is {kek.state}"

    return probe


def _gathered(probes: dict[str, Callable[[], tuple[HealthState, str]]], seconds: float) -> list[Health]:
    until = time.monotonic() + seconds
    futures = {name: _started(probe) for name, probe in probes.items()}
    return [_answer(name, future, until, seconds) for name, future in futures.items()]


def _started(probe: Callable[[], tuple[HealthState, str]]) -> "Future[tuple[HealthState, str]]":
    """Ask in a thread that nobody waits for: what hangs in it ends with the process."""
    future: Future[tuple[HealthState, str]] = Future()

    def work() -> None:
        try:
            future.set_result(probe())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        finally:
            connections.close_all()

    threading.Thread(target=work, name="keyguard-health", daemon=True).start()
    return future


def _answer(name: str, future: "Future[tuple[HealthState, str]]", until: float, seconds: float) -> Health:
    try:
        state, words = future.result(timeout=max(0.0, until - time.monotonic()))
    except TimeoutError:
        return Health(name, HealthState.DOWN, f"no answer in {seconds:g} s", "Look whether it hangs.")
    except KeyguardError as error:
        remedy = CUSTODY_AWAY if type(error) is CustodyUnreachableError else error.remedy
        return Health(name, HealthState.DOWN, f"{error.code}: {error}", remedy)
    except Exception as error:  # noqa: BLE001 - its text may hold anything
        return Health(name, HealthState.DOWN, type(error).__name__, "The log names it. Report it.")
    return Health(name, state, words, "" if state == HealthState.OK else "Run manage.py rotate_kek soon.")
