"""The versions of the model: what is in service is always one whole, known file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from monailabel_app.lib.models import ModelRegistry, UnknownVersion, sha256_of


def weights(folder: Path, text: str) -> Path:
    file = folder / f"{text}.safetensors"
    file.write_text(text)
    return file


def test_a_version_is_kept_and_published_in_one_step(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    assert registry.current() is None
    first = registry.begin_with(weights(tmp_path, "starter"), origin="starter")
    assert (first.version, first.origin) == ("1", "starter")
    second = registry.add(weights(tmp_path, "trained"), origin="training", parent="1")
    assert registry.current() == first, "a candidate is not in service"
    registry.publish("2", reason="better")
    assert registry.current() == second
    assert registry.path(second).read_text() == "trained"
    assert second.sha256 == sha256_of(tmp_path / "trained.safetensors")
    assert [p["version"] for p in registry.publications()] == ["1", "2"]
    pointer = json.loads((tmp_path / "models" / "current.json").read_text())
    assert (pointer["version"], pointer["sha256"]) == ("2", second.sha256)


def test_a_restart_does_not_undo_a_publication(tmp_path: Path) -> None:
    starter = weights(tmp_path, "starter")
    registry = ModelRegistry(tmp_path / "models")
    registry.begin_with(starter, origin="starter")
    trained = registry.add(weights(tmp_path, "trained"), origin="training")
    registry.publish(trained.version, reason="")
    again = ModelRegistry(tmp_path / "models")
    assert again.begin_with(starter, origin="starter").version == "2"
    assert len(again.versions()) == 2
    assert again.begin_with(weights(tmp_path, "other"), origin="given").version == "3"


def test_unknown_versions_are_refused_and_change_nothing(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.begin_with(weights(tmp_path, "starter"), origin="starter")
    for name in ("2", "../1", "", "01"):
        with pytest.raises(UnknownVersion, match="Versions: 1"):
            registry.publish(name, reason="")
    current = registry.current()
    assert current is not None and current.version == "1"


def test_another_process_is_noticed_at_once(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.begin_with(weights(tmp_path, "starter"), origin="starter")
    script = (
        "import sys; from pathlib import Path; from monailabel_app.lib.models import ModelRegistry;"
        "r = ModelRegistry(Path(sys.argv[1]));"
        "r.publish(r.add(Path(sys.argv[2]), origin='training').version, reason='')"
    )
    for number in range(2, 5):
        file = weights(tmp_path, f"trained {number}")
        subprocess.run([sys.executable, "-c", script, tmp_path / "models", file], check=True)
        current = registry.current()
        assert current is not None and current.version == str(number)
