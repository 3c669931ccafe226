"""What to do about an incident: its section of docs/operating.md, wherever people are told of it."""

import re
from functools import lru_cache
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operating.md"
_SECTION = re.compile(r"^### ([A-Z_]+)\n(.*?)(?=^#{1,3} |\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


@lru_cache(maxsize=1)
def sections() -> dict[str, str]:
    """Return the text of each section that is named for a kind of incident; nothing where the page is not installed."""
    try:
        page = PAGE.read_text()
    except OSError:
        return {}
    return {kind: _plain(text) for kind, text in _SECTION.findall(page)}


def _plain(text: str) -> str:
    """Return Markdown as plain text: paragraphs and list items as one line each."""
    lines: list[str] = []
    for line in _LINK.sub(r"\1", text).replace("`", "").replace("*", "").strip().splitlines():
        begins = not lines or not line.strip() or not lines[-1] or re.match(r"\s*(?:-|\d+\.) ", line)
        if begins:
            lines.append(line.strip())
        else:
            lines[-1] += f" {line.strip()}"
    return "\n".join(lines)


def what_to_do(kind: str) -> str:
    """Return what docs/operating.md says about this kind of incident."""
    return sections().get(kind) or f"See docs/operating.md, section {kind}."


def where(kind: str) -> str:
    """Return where that stands."""
    return f"docs/operating.md#{kind.lower()}"
