"""Which failure cases have a test. `python -m tests.cases` lists them; the cases stand in cases.txt."""

import re
import sys
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def titles() -> dict[str, str]:
    """Return each case's title by its id."""
    lines = (TESTS / "cases.txt").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines if line)


def covered() -> dict[str, list[str]]:
    """Return, by case, the files whose tests name it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for arguments in re.findall(r"mark\.case\(([^)]*)\)", path.read_text()):
            for case in re.findall(r"""["'](\w+)["']""", arguments):
                if path.relative_to(TESTS).as_posix() not in found[case]:
                    found[case].append(path.relative_to(TESTS).as_posix())
    return found


def main() -> int:
    known, named = titles(), covered()
    for case, title in known.items():
        print(f"{'x' if case in named else ' '} {case:5} {title}  {' '.join(named.get(case, []))}".rstrip())
    print(f"\n{len(named.keys() & known.keys())} of {len(known)} cases have a test.")
    unknown = sorted(named.keys() - known.keys())
    if unknown:
        print(f"Named by a test but not in cases.txt: {', '.join(unknown)}")
    return bool(unknown)


if __name__ == "__main__":
    sys.exit(main())
