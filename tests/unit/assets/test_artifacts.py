from pathlib import Path

import pytest

from dalp.assets import artifacts
from dalp.assets.contracts.compile import FOLDER, artifact_text

SOURCES = [*sorted(FOLDER.glob("*.vy")), *sorted((Path(__file__).parents[2] / "contracts").glob("*.vy"))]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_kept_artifact_is_what_the_source_compiles_to(source: Path) -> None:
    kept = source.with_suffix(".json").read_text()
    assert artifact_text(source) == kept, "run: python -m dalp.assets.contracts.compile " + str(source)


def test_every_contract_the_platform_uses_has_bytecode() -> None:
    for name in (*artifacts.PUBLISHED, *artifacts.OWN):
        assert len(artifacts.artifact(name).bytecode) > 1000


def test_missing_packages_are_named_with_the_command_that_gets_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(artifacts, "PACKAGES", tmp_path / "node_modules")
    artifacts.artifact.cache_clear()
    with pytest.raises(artifacts.ArtifactMissingError, match="make setup"):
        artifacts.artifact("Token")
    assert artifacts.artifact("MaxBalance").name == "MaxBalance"
