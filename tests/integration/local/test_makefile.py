"""What `make` says on a machine that lacks something: one sentence, and nothing half done."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dalp.local.processes import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh checkout's build files, and a PATH of its own without Python and Node."""
    for name in ("Makefile", "requirements-dev.txt", "package.json", "package-lock.json"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "test", "touch", "mkdir", "rm", "awk", "env"):
        (programs / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def make(checkout: Path, *arguments: str) -> tuple[int, list[str]]:
    """Return make's exit code and what it said, without make's own lines."""
    command = [str(checkout / "bin/make"), "-C", str(checkout), *arguments]
    environment = {"PATH": str(checkout / "bin")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return result.returncode, [line for line in result.stdout.splitlines() if not line.startswith("make")]


def program(checkout: Path, name: str, script: str) -> None:
    path = checkout / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def python_is_ready(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv/.installed").touch()


def test_no_python(checkout: Path) -> None:
    code, said = make(checkout, "setup")
    assert code
    assert said == ["Python 3.11 is missing: install Debian's packages python3 and python3-venv."]


def test_no_venv_module(checkout: Path) -> None:
    program(checkout, "python3.11", 'case "$2" in *ensurepip*) exit 1;; esac')
    code, said = make(checkout, "setup")
    assert code
    assert said == ["This Python cannot make virtual environments: install Debian's package python3-venv."]
    assert not (checkout / ".venv").exists()


def test_no_node(checkout: Path) -> None:
    python_is_ready(checkout)
    code, said = make(checkout, "setup")
    assert code
    assert said == [
        "Node.js is missing: install Node 20 with npm, which brings the contracts and the local chain."
    ]


def test_no_network(checkout: Path) -> None:
    python_is_ready(checkout)
    program(checkout, "node", "exit 0")
    program(checkout, "npm", "echo getaddrinfo ENOTFOUND; exit 1")
    code, said = make(checkout, "setup")
    assert code
    assert re.fullmatch(
        r"The npm packages could not be installed \(is .* reachable\?\): .* says why\.", said[-1]
    )
    assert "ENOTFOUND" in (checkout / ".npm-install.log").read_text()
    assert not (checkout / "node_modules/.installed").exists()


def test_the_second_set_up_does_nothing(checkout: Path) -> None:
    python_is_ready(checkout)
    (checkout / "node_modules").mkdir()
    (checkout / "node_modules/.installed").touch()
    assert make(checkout, "setup") == (0, [])


def test_help_lists_every_target(checkout: Path) -> None:
    declared = re.search(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert declared
    code, said = make(checkout, "help")
    assert code == 0
    assert {line.split()[1] for line in said} == set(declared[1].split())
