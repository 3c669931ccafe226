"""At every crash point of every shape of workflow a process really dies, and another finishes what it was doing."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.services import Live

pytestmark = pytest.mark.sqlite_too

SETTINGS = {
    "DALP_APPS": "tests.chaos",
    "DALP_WORKFLOWS_LEASE_SECONDS": "2",
    "DALP_WORKFLOWS_SWEEP_GRACE_SECONDS": "1",
    "LOG_LEVEL": "ERROR",
}
TESTS = Path(__file__).parents[1]


@pytest.fixture
def swept(live: Live, tmp_path: Path) -> dict[str, Any]:
    """What the sweep found; it is carried out once for all the promises below."""
    file = tmp_path / "sweep.json"
    process = live.run("-m", "tests.chaos.crash_sweep", str(file), env=SETTINGS, timeout=240)
    assert file.exists(), process.tail(60)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.timeout(300)
@pytest.mark.case("E1", "E2", "E3", "E4", "E5", "E39", "E41")
def test_nothing_is_lost_or_done_twice_wherever_a_process_dies(swept: dict[str, Any]) -> None:
    assert swept["unreached"] == [], (
        "these crash points are reached by no shape of the sweep: add one that does"
    )
    assert swept["survivors"] == [], "these processes should have died and did not"
    assert swept["violations"] == {}
    assert len(swept["died while recovering"]) >= 5, "too few deaths of those who took over from the dead"
    occurrences = {(shape, point) for shape, point, occurrence in swept["cases"] if occurrence > 1}
    assert len(occurrences) >= len(swept["reached"]) * 4, "too few deaths in the middle of a run"
    source = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    unnamed = [point for point in swept["elsewhere"] if point not in source]
    assert unnamed == [], "these crash points lie outside the sweep, and no other test names them"
