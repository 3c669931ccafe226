"""docs/reference/settings.md names every setting there is, and none that is gone."""

import re
from pathlib import Path

from django.conf import settings

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_and_the_code_name_the_same_settings() -> None:
    code = (ROOT / "dalp" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', code))
    knobs = {
        f"DALP_{group}_{name.upper()}"
        for group in ("WORKFLOWS", "SIGNER", "KEYGUARD")
        for name in getattr(settings, group)
    }
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert set(re.findall(r"^\| `([A-Z_]+)`", page, re.MULTILINE)) == read | knobs
