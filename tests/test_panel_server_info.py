"""What the panel makes of `/info/`: thresholds, false positives, progress."""

import pytest
from MammoReviewLib import training_words
from MammoReviewLib.server_info import ServerInfo, Training

MODEL = "ft_mtl_net"
POINTS = {"0.3": 0.6, "1": 0.4, "3.67": 0.1}


def info(**model) -> ServerInfo:
    return ServerInfo({"models": {MODEL: {"version": "2", **model}}})


def test_the_slider_starts_at_one_false_positive_an_image():
    held_out = info(metadata={"operating_points": POINTS})
    assert held_out.threshold == 0.4 and held_out.floor == pytest.approx(0.05)
    assert info().threshold == 0.5 and ServerInfo({}).threshold == 0.5
    assert not ServerInfo({"models": {"deepedit": {}}}).has_model


def test_false_positives_from_the_servers_own_scoring_of_the_version_in_service():
    curve = [[0.2, 2.0, 40], [0.4, 1.0, 40], [0.8, 0.25, 40]]
    old = {"version": "1", "fpi_by_threshold": [[0.1, 9.0, 7]]}
    scored = info(scores=[old, {"version": "2", "fpi_by_threshold": curve}])
    assert scored.false_positives(0.4) == (1.0, 40)
    assert scored.false_positives(0.5) == (1.0, 40), "never fewer than there may be"
    assert scored.false_positives(0.9) == (0.25, 40)


def test_without_a_scoring_from_the_held_out_figures_of_the_weights():
    held_out = info(metadata={"operating_points": POINTS}, scores=[])
    fpi, images = held_out.false_positives(0.5)
    assert fpi == pytest.approx(0.65) and images is None
    assert held_out.false_positives(0.9) is None and info().false_positives(0.5) is None


def test_how_far_a_training_is():
    assert Training(state="running").share is None
    half = Training(stage_number=2, stages=2, epoch=1, epochs=2, step=0, steps=9)
    assert half.share == 0.5
    ended = Training(stage_number=2, stages=2, epoch=2, epochs=2, step=9, steps=9)
    assert ended.share == 1.0


def test_a_training_in_words():
    gate = {"word": "not judged", "images": 2, "masses": 3, "champion": None, "candidate": None}
    done = Training(state="done", version="3", images=5, masses=6, published=True, verdict=gate)
    said = training_words.result(done)
    assert "Version 3 learned from 5 images with 6 masses." in said
    assert "not judged" in said and said.endswith("It is in service now.")
    outlines = {"masses": 11, "champion": 0.86, "candidate": 0.7512}
    spoilt = {**gate, "word": "worse", "champion": 0.7, "candidate": 0.75, "outlines": outlines}
    assert training_words.figures(spoilt) == (
        "Before 0.700, after 0.750 on 2 validation images with 3 masses; "
        "outlines (Dice, 11 drawn masses) 0.86 and 0.75: worse than the model before."
    )
    failed = training_words.result(Training(state="failed", reason="no label."))
    assert failed == "The training failed: no label."
    assert [training_words.duration(s) for s in (40, 600, 7200)] == ["40 s", "10 min", "2.0 h"]
