"""The versions of the model: what is in service is always one whole, known file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ftmtl.digest import sha256_of
from monailabel_app.lib.models import ModelRegistry, RefusedVersion, UnknownVersion
from monailabel_app.lib.scoring import ScoreHistory


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


def test_a_new_starter_goes_past_no_gate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = ModelRegistry(tmp_path / "models")

    def update(name: str) -> str:
        return registry.begin_with(weights(tmp_path, name), origin="starter").version

    assert [update("one"), update("two"), update("two")] == ["1", "2", "2"], "nobody chose these"
    assert update("one") == "2" and len(registry.publications()) == 2, "known ones change nothing"
    registry.bring_back("1")
    assert [update("three"), update("three")] == ["1", "1"], "a person chose it"
    assert caplog.text.count("version 3, a candidate. Version 1, which came here") == 1
    trained = registry.add(weights(tmp_path, "trained"), origin="training", verdict="better")
    registry.publish(trained.version, reason="publish: gate; better")
    assert update("five") == "4" and [v.version for v in registry.versions()][-1] == "5"
    assert registry.bring_back("5").version == "5", "it waits for a person"


def test_the_anchor_is_the_last_that_was_more_than_not_worse(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.begin_with(weights(tmp_path, "starter"), origin="starter")

    def anchor() -> str | None:
        version = registry.anchor()
        return version and version.version

    seen = [anchor()]
    for number, verdict in enumerate(("not worse", "better", "not judged", "worse"), start=2):
        registry.add(weights(tmp_path, f"trained {number}"), origin="training", verdict=verdict)
        if verdict != "worse":
            registry.publish(str(number), reason="training")
            seen.append(anchor())
    assert seen == ["1", "1", "3", "4"]
    registry.bring_back("2")
    registry.add(weights(tmp_path, "trained 6"), origin="training", verdict="not worse")
    registry.publish("6", reason="training")
    assert anchor() == "2", "a person's choice"
    registry.path(registry.get("2")).unlink()
    assert anchor() == "4", "its weights are gone"
    # What was in service before it was found worse may come back; what never was may not.
    with pytest.raises(RefusedVersion):
        registry.bring_back("5")
    registry.publish("5", reason="training")
    registry.bring_back("1")
    assert registry.bring_back("5").version == "5"


def test_without_any_history_a_starter_serves_only_where_nothing_passed(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    registry = ModelRegistry(folder)
    registry.begin_with(weights(tmp_path, "starter"), origin="starter")
    registry.add(weights(tmp_path, "trained"), origin="training", verdict="better")
    registry.publish("2", reason="training")
    registry.begin_with(weights(tmp_path, "newer"), origin="starter")  # waits as version 3
    for name in ("current.json", "current.copy.json"):
        (folder / name).write_text(CUT)
    current = ModelRegistry(folder).current()
    assert current is not None and current.version == "2"


def test_the_tenth_version_comes_after_the_ninth(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    for number in range(1, 12):
        registry.add(weights(tmp_path, str(number)), origin="training")
    told = [v.version for v in ModelRegistry(tmp_path / "models").versions()]
    assert told == [str(number) for number in range(1, 12)]


def test_unknown_versions_are_refused_and_change_nothing(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.begin_with(weights(tmp_path, "starter"), origin="starter")
    for name in ("2", "../1", "", "01"):
        with pytest.raises(UnknownVersion, match="Versions: 1"):
            registry.publish(name, reason="")
    current = registry.current()
    assert current is not None and current.version == "1"


CUT = '{"version": "3", "fi'


@pytest.mark.parametrize(
    ("damage", "serves"),
    [
        ({"current.json": CUT}, "3"),
        ({"current.json": ""}, "3"),
        ({"current.json": "[1]"}, "3"),
        ({"current.json": None}, "3"),  # gone
        ({"0003.json": ""}, "2"),
        ({"0003.safetensors": None}, "2"),
        ({"current.json": CUT, "0003.json": "{}"}, "2"),
        ({"current.json": CUT, "current.copy.json": CUT}, "4"),  # what the gate let through
        ({"0001.json": "", "0002.json": "", "0003.json": "", "0004.json": ""}, "6"),
    ],
)
def test_damaged_files_never_stop_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: dict[str, str | None], serves: str
) -> None:
    """In service were 1, 4, 2 and last 3; 5 was refused."""
    starter, folder = weights(tmp_path, "starter"), tmp_path / "models"
    registry = ModelRegistry(folder)
    registry.begin_with(starter, origin="starter")
    for number, verdict in ((2, "better"), (3, "not judged"), (4, "not worse"), (5, "worse")):
        file = weights(tmp_path, f"trained {number}")
        registry.add(file, origin="training", verdict=verdict)
    for number in ("4", "2", "3"):
        registry.publish(number, reason="")
    for name, content in damage.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(content)
    later = ModelRegistry(folder)
    current = later.begin_with(starter, origin="starter")
    assert (current.version, later.path(current).exists()) == (serves, True)
    assert ModelRegistry(folder).current() == current and later.current() == current
    assert f"version {serves} is in service instead" in caplog.text or serves == "6"
    for name, content in damage.items():
        if content and "copy" not in name:
            assert f"{name} is damaged" in caplog.text
            assert (folder / f"{name}.damaged-1").read_text() == content
    assert later.add(starter, origin="given").version > "5", "no weights are written over"


def test_what_a_newer_program_wrote_of_a_version_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starter, folder = weights(tmp_path, "starter"), tmp_path / "models"
    registry = ModelRegistry(folder)
    registry.begin_with(starter, origin="starter")
    for number in (2, 3):
        registry.add(weights(tmp_path, f"trained {number}"), origin="training", verdict="better")
        registry.publish(str(number), reason="")
    record = json.loads((folder / "0003.json").read_text())

    def start(content: str) -> str:
        (folder / "0003.json").write_text(content)
        caplog.clear()
        serves = ModelRegistry(folder).begin_with(starter, origin="starter")
        assert (folder / "0003.json").read_text() == content
        assert not list(folder.glob("*.damaged-*")) and "damaged" not in caplog.text
        assert caplog.text.count("0003.json was written by a newer program") == 1
        return serves.version

    assert start(json.dumps(record | {"audit": [], "signed": "x"})) == "3"
    assert "it also tells of audit, signed. What this program knows of it counts" in caplog.text
    assert start(json.dumps({"version": "3", "sha": "x"})) == "2", "too little of it is known"
    assert "This program cannot use it" in caplog.text


def test_a_version_whose_weights_are_gone_is_not_taken_into_service(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    registry.begin_with(weights(tmp_path, "starter"), origin="starter")
    trained = registry.add(weights(tmp_path, "trained"), origin="training", verdict="better")
    registry.path(trained).unlink()
    with pytest.raises(UnknownVersion, match=r"gone: 0002.safetensors. Restore"):
        registry.bring_back("2")
    current = registry.current()
    assert current is not None and current.version == "1"


def test_a_damaged_history_of_scores_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    row = {"sha256": "a", "labels": {"1.2": 1}, "unseen_images": ["1.2"]}
    for content in ('[{"version": "1", "sha', "", "{}3", '{"a": 1}', "[3]", '[{"version": "1"}]'):
        file.write_text(content)
        history = ScoreHistory(file)
        assert history.rows() == history.shown() == []
        history.add(row)
        assert ScoreHistory(file).rows() == [row]
    assert len(list(tmp_path.glob("scores.json.damaged-*"))) == 6


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
