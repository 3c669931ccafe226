"""How much is measured: the section [tool.benchmarks] of pyproject.toml."""

import tomllib
from pathlib import Path

_SECTION = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["benchmarks"]

ROUNDS: int = _SECTION["rounds"]
RUNS: int = _SECTION["runs"]
TRANSACTIONS: int = _SECTION["transactions"]
