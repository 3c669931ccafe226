"""What a person's regular expression must be before texts of nodes are put to it. Pure.

Two things can be wrong with one: it can take for ever on some text, and it can match what it does not mean. Every match
has a time limit, which `re` does not know and `regex` does; so an expression that blows up on a text that nobody
thought of costs that time and matches nothing. Before it is stored it is tried on texts that are made to blow it up,
and on one that means nothing.
"""

import re
from typing import Any

import regex

PATTERN_LENGTH = 300
# No words of a node that matter come later than this; the longer a text, the longer a bad expression takes.
TEXT_LENGTH = 1000
# Processor time. A sound expression takes less than a thousandth of it.
MATCH_SECONDS = 0.05
# Letters, digits, spaces and signs without a word in it: what matches here matches nearly everything.
NONSENSE = "wq 0 vk-zj: 17, xo."


class PatternError(ValueError):
    """The expression may not be used; the message says why and what to do."""


class Pattern:
    """A regular expression, case and the width of white space ignored, that gives up after a moment."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._compiled: Any = regex.compile(text, regex.IGNORECASE)
        except (regex.error, OverflowError, RecursionError) as error:
            raise PatternError(f"This is not a regular expression: {error}.") from None

    def matches(self, text: str) -> bool:
        """Return whether it is found in the text. Raises TimeoutError."""
        line = " ".join(text[:TEXT_LENGTH].split())
        return self._compiled.search(line, timeout=MATCH_SECONDS) is not None


def check_pattern(text: str) -> None:
    """Raise PatternError unless this is an expression that may be put to what nodes say."""
    if not text.strip():
        raise PatternError("Say which words are looked for.")
    if len(text) > PATTERN_LENGTH:
        raise PatternError(
            f"It is longer than {PATTERN_LENGTH} characters: look for the few words that matter."
        )
    pattern = Pattern(text)
    try:
        if pattern.matches("") or pattern.matches(NONSENSE):
            raise PatternError("It matches nearly every text: name words that only this refusal has.")
        for trap in _traps(text):
            pattern.matches(trap)
    except TimeoutError:
        raise PatternError(
            "It takes for ever on some texts: write nothing like (a+)+ or (a|aa)*, where one text can be divided up in "
            "many ways."
        ) from None


def _traps(text: str) -> list[str]:
    """Return texts on which an expression with repetitions inside repetitions goes through every division of them.

    What repeats has to be in the text, so they are made of what the expression itself consists of; and they have to
    fail at their end, so they end in what no expression asks for.
    """
    words = set(re.findall(r"\w{1,20}", text)) | set(re.sub(r"\\.", "", text))
    units = sorted(words | {"a", "0", " ", "a ", "0 ", "a0", "x,", "-"})
    return [(unit * TEXT_LENGTH)[: TEXT_LENGTH - 1] + "\x00" for unit in units[:60]]
