"""DEKs that are kept for a moment: few, briefly, and wiped when they go."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from keyguard import dek_cache
from keyguard.envelope import WrappedDek


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Clock]:
    settings.KEYGUARD_DEK_CACHE_SECONDS, settings.KEYGUARD_DEK_CACHE_KEYS = 30.0, 3
    dek_cache.forget()
    clock = Clock()
    monkeypatch.setattr(dek_cache, "time", clock)
    # Nobody else looks at this clock.
    monkeypatch.setattr(dek_cache, "_wake_in", lambda seconds: None)
    yield clock
    dek_cache.forget()


def wrapped(number: int) -> WrappedDek:
    return WrappedDek(b"", f"vault:v1:{number}".encode())


def held() -> list[bytearray]:
    return [dek for _, dek in dek_cache._entries.values()]


def test_what_is_put_is_found_as_a_copy(clock: Clock) -> None:
    dek = bytearray(b"d" * 32)
    dek_cache.put(wrapped(1), b"bound", dek)
    dek[:] = bytes(32)
    found = dek_cache.get(wrapped(1), b"bound")
    assert found == b"d" * 32
    found[:] = bytes(32)
    assert dek_cache.get(wrapped(1), b"bound") == b"d" * 32


@pytest.mark.parametrize(
    ("one", "bound"),
    [(wrapped(2), b"bound"), (wrapped(1), b"other"), (WrappedDek(b"n", b"vault:v1:1"), b"bound")],
)
def test_another_ciphertext_or_binding_finds_nothing(clock: Clock, one: WrappedDek, bound: bytes) -> None:
    dek_cache.put(wrapped(1), b"bound", bytearray(b"d" * 32))
    assert dek_cache.get(one, bound) is None


def test_entry_goes_when_its_time_is_over_and_is_wiped(clock: Clock) -> None:
    dek_cache.put(wrapped(1), b"bound", bytearray(b"d" * 32))
    (entry,) = held()
    clock.now += 29.9
    assert dek_cache.get(wrapped(1), b"bound")
    # Used or not: time counts from when it was unwrapped.
    clock.now += 0.2
    assert dek_cache.get(wrapped(1), b"bound") is None
    assert entry == bytes(32)


def test_oldest_entry_makes_room_and_is_wiped(clock: Clock) -> None:
    for number in range(3):
        dek_cache.put(wrapped(number), b"bound", bytearray(b"d" * 32))
    oldest = held()[0]
    dek_cache.put(wrapped(3), b"bound", bytearray(b"d" * 32))
    assert [dek_cache.get(wrapped(number), b"bound") is None for number in range(4)] == [
        True,
        False,
        False,
        False,
    ]
    assert oldest == bytes(32)


def test_everything_is_wiped_when_told(clock: Clock) -> None:
    for number in range(3):
        dek_cache.put(wrapped(number), b"bound", bytearray(b"d" * 32))
    entries = held()
    assert dek_cache.forget() == 3
    assert entries == [bytes(32)] * 3
    assert dek_cache.forget() == 0


@pytest.mark.parametrize("name", ["KEYGUARD_DEK_CACHE_SECONDS", "KEYGUARD_DEK_CACHE_KEYS"])
def test_nothing_is_kept_when_the_settings_say_so(clock: Clock, settings: Any, name: str) -> None:
    setattr(settings, name, 0)
    dek_cache.put(wrapped(1), b"bound", bytearray(b"d" * 32))
    assert held() == []


def test_last_entry_goes_although_nobody_asks_any_more(settings: Any) -> None:
    settings.KEYGUARD_DEK_CACHE_SECONDS = 0.05
    dek_cache.put(wrapped(1), b"bound", bytearray(b"d" * 32))
    (entry,) = held()
    until = time.monotonic() + 5
    while any(entry) and time.monotonic() < until:
        time.sleep(0.01)
    assert entry == bytes(32)


def test_forked_process_starts_with_none(clock: Clock) -> None:
    dek_cache.put(wrapped(1), b"bound", bytearray(b"d" * 32))
    (entry,) = held()
    dek_cache._in_child()
    assert entry == bytes(32)
    assert dek_cache.get(wrapped(1), b"bound") is None
