"""Reading JSON bodies: bounded, and refusing what could not be stored, before any of it is looked at."""

import json
import re
from typing import Any, NoReturn

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from ninja.parser import Parser

from dalp.api.problems import ProblemError, standard

BODY_BYTES_MAX = 1024 * 1024
# Six blobs are 1.5 MB of hexadecimal digits. Django's own limit, in the settings, is as high.
TRANSACTION_BYTES_MAX = 2 * BODY_BYTES_MAX
DEPTH_MAX = 50
# Possessive: an endless string must not make the search try every way to end it.
STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
BRACKETS = re.compile(r"[\[\]{}]")


def malformed(detail: str) -> ProblemError:
    """Return the problem of a body that is not the JSON we take."""
    return ProblemError(400, "API_MALFORMED_BODY", detail, "Send one JSON object in UTF-8.")


def refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python would read although they are no JSON."""
    raise malformed(f"{name} is not JSON.")


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, refusing one that has a name twice: two readers could see two different requests."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise malformed("An object has the same name twice.")
    return found


def check_depth(text: str) -> None:
    """Refuse nesting that is too deep, before it is parsed.

    Python's JSON reader calls itself for each level. Its own limit is no protection: py_ecc, under
    eth-account, raises it to 100,000, and a body of brackets then ends the process with a segmentation fault.
    """
    depth = 0
    for bracket in BRACKETS.finditer(STRINGS.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > DEPTH_MAX:
            raise malformed(f"The body is nested deeper than {DEPTH_MAX} levels.")


def check_storable(value: Any) -> None:
    """Refuse text that PostgreSQL cannot hold."""
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise malformed("A text holds a NUL character or half a surrogate pair.")
    elif isinstance(value, dict):
        for name, item in value.items():
            check_storable(name)
            check_storable(item)
    elif isinstance(value, list):
        for item in value:
            check_storable(item)


def read_json(request: HttpRequest) -> dict[str, Any]:
    """Return the request's body, an object; raises ProblemError (400, 413)."""
    most = TRANSACTION_BYTES_MAX if request.path.endswith("/transactions") else BODY_BYTES_MAX
    if int(request.META.get("CONTENT_LENGTH") or 0) > most:
        raise standard(413)
    try:
        text = request.body.decode("utf-8")
        check_depth(text)
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique_pairs)
    except RequestDataTooBig:
        raise standard(413) from None
    except UnicodeDecodeError:
        raise malformed("The body is not UTF-8.") from None
    except ValueError:
        raise malformed("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise malformed("The body is not a JSON object.")
    check_storable(value)
    return value


class BoundedParser(Parser):
    """Parses bodies with `read_json`."""

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        """Return the body as ninja wants it."""
        return read_json(request)
