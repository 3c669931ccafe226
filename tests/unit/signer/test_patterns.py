"""What regular expressions of people may be put to the words of nodes."""

import time

import pytest

from signer.patterns import PATTERN_LENGTH, Pattern, PatternError, check_pattern


@pytest.mark.parametrize(
    "text",
    [
        r"nonce too (low|small)",
        r"tx .{0,40} was seen before",
        r"already (known|seen) by 0x[0-9a-f]+",
        r"^Known tx: \d+ of <[^>]+>$",
        r"(?:pool|queue) is at its limit",
    ],
)
def test_an_ordinary_expression_is_taken(text: str) -> None:
    check_pattern(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Say which words"),
        ("   ", "Say which words"),
        ("[", "not a regular expression"),
        ("(?P<a", "not a regular expression"),
        ("x" * (PATTERN_LENGTH + 1), "longer than"),
        (".*", "nearly every text"),
        ("a*", "nearly every text"),
        (r"\d+", "nearly every text"),
        ("pool|", "nearly every text"),
        ("(a+)+$", "takes for ever"),
        ("(a|aa)+$", "takes for ever"),
        ("(.*,){25}fee", "takes for ever"),
    ],
)
def test_an_expression_that_would_do_harm_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(PatternError, match=why):
        check_pattern(text)


def test_a_match_that_takes_too_long_is_given_up() -> None:
    began = time.process_time()
    with pytest.raises(TimeoutError):
        Pattern("(a|aa)+$").matches("a" * 900 + "!")
    assert time.process_time() - began < 5, "without a limit it would take longer than the sun burns"


def test_a_long_text_is_cut_off() -> None:
    assert not Pattern("at the end").matches("x" * 100_000 + "at the end")
