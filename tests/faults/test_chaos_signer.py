"""Transactions on two chains under faults, for some minute. `make chaos-signer` does so for ten thousand of them."""

import os
import sys
from pathlib import Path

import pytest

from dalp.local.processes import Process


@pytest.mark.timeout(300)
@pytest.mark.case("S12", "S16", "S62", "S63", "S70", "PC1", "PC3", "PC5")
@pytest.mark.postgresql("its servers are its own")
def test_each_transaction_is_executed_once_whatever_strikes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.chaos_signer", "--directory", str(tmp_path / "chaos")]
    command += ["--transactions", "1200", "--seconds", "60", "--patience", "180"]
    process = Process("chaos", command, log=tmp_path / "output", env=dict(os.environ))
    try:
        process.wait(290)
    finally:
        process.stop()
        print(process.output())
    assert process.returncode == 0
