"""What belongs to the peers: a virtual environment and a server under .peers/, which `make bench-peers` installs."""

import json
import subprocess
from pathlib import Path

from dalp.local.processes import ROOT, LocalError

DIRECTORY = ROOT / ".peers"
PACKAGES = ("dbos", "restate-sdk", "hypercorn", "sqlalchemy", "psycopg")
_ADVICE = "run `make bench-peers`, which installs it under .peers/."


def python() -> Path:
    found = DIRECTORY / "venv/bin/python"
    if not found.exists():
        raise LocalError(f"The peers' virtual environment is missing: {_ADVICE}")
    return found


def restate_binary() -> Path:
    for binary in sorted(
        (DIRECTORY / "node_modules/@restatedev").glob("restate-server-*/bin/restate-server")
    ):
        return binary
    raise LocalError(f"The Restate server is missing: {_ADVICE}")


def versions() -> dict[str, str]:
    """Return the version of everything of theirs that was measured."""
    asked = (
        f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {PACKAGES}}}))"
    )
    packages = json.loads(subprocess.check_output([python(), "-c", asked], text=True))
    server = subprocess.check_output([restate_binary(), "--version"], text=True)
    return {**packages, "restate-server": server.split()[-1]}
