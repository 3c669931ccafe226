"""docs/reference/errors.md names every error code there is, and none that is gone."""

import re
from collections.abc import Iterator
from pathlib import Path

import keyguard.errors
import signer.errors
import workflows.errors

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "errors.md").read_text()
BASES = [workflows.errors.WorkflowError, signer.errors.SignerError, keyguard.errors.KeyguardError]
# Where a code is written out: a step's error, a problem of the API, the error of a transaction.
LITERAL = re.compile(
    r"""(?:(?:Permanent|Transient|Problem)Error\(\s*(?:\d+,\s*)?|"code": |CODE = |, )"([A-Z]+_[A-Z_]+)",?"""
)


def subclasses(base: type) -> Iterator[type]:
    for child in base.__subclasses__():
        if child.__module__.startswith(("workflows", "signer", "keyguard", "dalp")):
            yield child
            yield from subclasses(child)


def codes_in_the_sources() -> set[str]:
    found: set[str] = set()
    for package in ("workflows", "signer", "keyguard", "dalp"):
        for file in (ROOT / package).rglob("*.py"):
            if not {"migrations", "local"} & set(file.parts):
                found |= set(LITERAL.findall(file.read_text()))
    prefixes = ("API_", "TRANSACTION_", "STEP_", "WORKFLOW_", "CHAIN_", "ASSET_", "PLATFORM_", "IDENTITY_")
    return {code for code in found if code.startswith(prefixes) and code != "TRANSACTION_"}


def test_every_error_class_is_listed_with_its_remedy() -> None:
    for base in BASES:
        for error in subclasses(base):
            assert f"`{error.code}`" in PAGE, error  # type: ignore[attr-defined]
            assert error.remedy in PAGE, error  # type: ignore[attr-defined]


def test_every_code_in_the_sources_is_listed() -> None:
    missing = {code for code in codes_in_the_sources() if f"`{code}`" not in PAGE}
    assert missing == set()


def test_every_listed_code_exists() -> None:
    sources = "".join(
        file.read_text()
        for package in ("workflows", "signer", "keyguard", "dalp")
        for file in (ROOT / package).rglob("*.py")
    )
    listed = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE))
    assert len(listed) > 50
    assert {code for code in listed if f'"{code}"' not in sources} == set()
