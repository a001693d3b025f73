"""Another film beside the case, on real MRML, and with the real panel and the real server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from MammoReviewLib import comparison
from MammoReviewLib.client import Client
from MammoReviewLib.failures import Failure
from MammoReviewLib.findings import Finding, ImageInfo
from MammoReviewLib.geometry import pixel_to_ras
from MammoReviewLib.jobs import Job
from MammoReviewLib.opening import fetch
from MammoReviewLib.scene import Scene
from MammoReviewLib.worklist import Worklist
from panel_morning import Morning, quick_morning
from panel_scene import events_pass, scene_on
from panel_screen import Screen
from slicer_qt.core import SlicerCore
from test_panel_scene import IMAGE, document, finding, nodes, write_dicom

from monailabel_app.lib.datastore import MammogramStore

OTHER = ImageInfo("1.2.3.5", IMAGE.width, IMAGE.height, IMAGE.spacing_mm, "L", "MLO")


@pytest.fixture(scope="module")
def core() -> Iterator[SlicerCore]:
    core = SlicerCore()
    yield core
    core.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("films")
    return write_dicom(folder / "case.dcm"), write_dicom(folder / "other.dcm")


@pytest.fixture
def scene(core: SlicerCore) -> Iterator[Scene]:
    with scene_on(core) as scene:
        yield scene
    core.lay_out()


def both(core: SlicerCore, scene: Scene, films: tuple[Path, Path], *beside: Finding) -> None:
    """Opens a case and another film, in a window that has been laid out."""
    scene.open(films[0], document())
    scene.make_room(left=False)
    scene.compare(films[1], OTHER, beside)
    core.lay_out()
    events_pass(scene)


def coloured(pixels: Any) -> int:
    """How many pixels are drawn in the colour of malignant masses."""
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return int(((red > green + 60) & (green > blue + 20)).sum())


# --- the scene -------------------------------------------------------------------------------


def test_what_is_drawn_on_one_film_is_not_on_the_other(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path]
) -> None:
    both(core, scene, films, finding("F1", 60, 200, 100))
    assert coloured(core.view.render()) == 0 < coloured(core.beside.render())
    scene.show((finding("F1", 150, 350, 60),), "F1")
    mine, other = core.view.render(), core.beside.render()
    assert min(coloured(mine), coloured(other)) > 0
    assert not np.array_equal(mine, other)
    scene.compare(films[1], OTHER, ())
    assert coloured(core.beside.render()) == 0 < coloured(core.view.render())
    scene.compare(films[1], OTHER, (finding("F1", 60, 200, 100),))
    scene.set_visible(False)
    assert coloured(core.render()) == 0


def test_no_click_or_brush_on_the_other_film_reaches_the_case(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path]
) -> None:
    clicked: list[Any] = []
    placed: list[Any] = []
    scene.clicked.connect(clicked.append)
    scene.box_placed.connect(placed.append)
    both(core, scene, films)
    scene.show((finding("F1", 100, 250, 100),), "F1")
    core.render()
    depth = scene.companion.view.place.depth_mm

    def there(x: float, y: float) -> tuple[int, int]:
        return core.beside.xy(pixel_to_ras([[x, y]], OTHER.spacing_mm, depth)[0])

    bounds = [0.0] * 6
    scene.volume.GetRASBounds(bounds)
    plane = core.beside.logic.GetSliceOffset()
    assert not bounds[4] <= plane <= bounds[5], "a brush paints where its view cuts"
    core.beside.click(*there(150, 300))
    core.beside.drag(there(100, 250), there(60, 220))
    assert clicked == []
    scene.place_box()
    core.beside.click(*there(120, 260))
    core.beside.click(*there(180, 330))
    events_pass(scene)
    assert placed == []
    core.view.click(*core.view.xy(pixel_to_ras([[120, 260]], IMAGE.spacing_mm)[0]))
    core.view.click(*core.view.xy(pixel_to_ras([[180, 330]], IMAGE.spacing_mm)[0]))
    events_pass(scene)
    (box,) = placed
    assert box == pytest.approx((120, 260, 60, 70), abs=3)


def scale(view: Any) -> float:
    """Millimetres on a pixel of the screen, as it is drawn."""
    drawn = abs(view.node.GetXYToRAS().GetElement(0, 0))
    assert view.node.GetFieldOfView()[0] / view.size[0] == pytest.approx(drawn)
    return float(drawn)


def resize(core: SlicerCore, scene: Scene, width: int, height: int) -> None:
    """Slicer gives both views another size."""
    for view in (core.view, core.beside):
        view.resize(width, height)
    events_pass(scene)


def zoom(view: Any) -> float:
    """A person looks closer, at half the scale that there was."""
    width, height, depth = view.node.GetFieldOfView()
    view.node.SetFieldOfView(width / 2, height / 2, depth)
    return scale(view)


BREAST = 1.04 * 0.07 * np.array([300, 520])  # of `write_dicom`, with its margin, in mm


@pytest.mark.parametrize("size", [(350, 900), (200, 900), (350, 300), (400, 700), (900, 1200)])
def test_both_fill_their_views_at_one_scale_whatever_their_size(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path], size: tuple[int, int]
) -> None:
    both(core, scene, films)
    resize(core, scene, *size)
    wanted = max(BREAST / size)
    assert scale(core.view) == pytest.approx(wanted, rel=0.03)
    assert scale(core.beside) == scale(core.view), "sizes can be compared"


def test_pixels_and_millimetres_are_not_compared(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path]
) -> None:
    both(core, scene, films)
    pixels = ImageInfo("1.2.3.6", IMAGE.width, IMAGE.height, None, "L", "MLO")
    scene.compare(films[1], pixels, ())
    assert scale(core.beside) == pytest.approx(scale(core.view) / 0.07)


def test_what_a_person_chose_to_see_stays(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path]
) -> None:
    scene.open(films[0], document())
    core.lay_out()
    events_pass(scene)
    closer = zoom(core.view)
    scene.make_room(left=False)
    scene.compare(films[1], OTHER, ())
    assert scale(core.view) == pytest.approx(closer), "when the other film arrives"
    resize(core, scene, 300, 900)
    assert scale(core.view) == pytest.approx(closer), "when Slicer resizes the views"
    assert scale(core.beside) == pytest.approx(max(BREAST / (300, 900)), rel=0.03)
    zoom(core.beside)
    scene.fit()
    assert scale(core.view) == scale(core.beside)
    assert scale(core.view) == pytest.approx(max(BREAST / (300, 900)), rel=0.03)


def test_nothing_moves_under_a_brush_or_a_held_box(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path]
) -> None:
    wider = ImageInfo("1.2.3.7", IMAGE.width, IMAGE.height, (0.14, 0.14), "L", "MLO")
    scene.open(films[0], document())
    core.lay_out()
    events_pass(scene)
    scene.show((finding("F1", 100, 250, 100),), "F1")
    before = scale(core.view)
    scene.begin_mask("F1")
    scene.make_room(left=False)
    scene.compare(films[1], wider, ())
    events_pass(scene)
    assert scale(core.view) == before < scale(core.beside)
    scene.end_mask()
    events_pass(scene)
    assert scale(core.view) == scale(core.beside) > before
    scene.make_room(left=False)
    core.view.interactor.InvokeEvent("LeftButtonPressEvent")
    scene.compare(films[1], OTHER, ())
    held = scale(core.view)
    core.view.interactor.InvokeEvent("LeftButtonReleaseEvent")
    events_pass(scene)
    assert scale(core.view) == scale(core.beside) < held


def test_pointing_at_a_place_in_one_film_moves_no_other(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path]
) -> None:
    both(core, scene, films)
    before = core.render()
    node = core.view.node
    # As Slicer's crosshair does it, with Shift and the mouse in the red view.
    node.JumpAllSlices(core.scene, -10, -10, 0, node.OffsetJumpSlice, node.GetViewGroup(), node)
    np.testing.assert_array_equal(core.render(), before)
    core.beside.logic.SetSliceOffset(0)  # by whatever
    assert not np.array_equal(core.render(), before)
    scene.fit()
    np.testing.assert_array_equal(core.render(), before)


def test_both_views_are_given_back(
    core: SlicerCore, scene: Scene, films: tuple[Path, Path], tmp_path: Path
) -> None:
    layout = core.scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    core.beside.node.SetOrientationToCoronal()
    core.beside.node.SetViewGroup(3)
    composite = core.beside.logic.GetSliceCompositeNode()
    composite.SetLinkedControl(True)
    before, field = nodes(core), core.beside.node.GetFieldOfView()
    theirs = state(core)
    scene.open(films[0], document())
    assert layout.GetViewArrangement() == layout.SlicerLayoutOneUpRedSliceView
    scene.make_room(left=True)
    assert core.shown == [core.beside, core.view]
    scene.make_room(left=False)
    assert core.shown == [core.view, core.beside]
    scene.compare(films[1], OTHER, (finding("F1", 60, 200, 100),))
    assert not composite.GetLinkedControl(), "two films are two places"
    assert not core.frame.shown and not core.frame_beside.shown
    titles = core.scene.GetNodesByName("MammoReview title")
    (said,) = (t for t in map(titles.GetItemAsObject, range(2)) if t.GetNumberOfControlPoints())
    assert said.GetNthControlPointLabel(0) == "L MLO, to compare"
    scene.make_room(left=False)
    assert core.scene.GetNodesByName("MammoReview title").GetNumberOfItems() == 1, "a film has gone"
    layout.AddMaximizedViewNode(core.beside.node)  # a double click
    scene.stop_comparing()
    assert layout.GetNumberOfMaximizedViewNodes() == 0, "or the case were not on the screen"
    assert layout.GetViewArrangement() == layout.SlicerLayoutOneUpRedSliceView
    assert not core.frame.shown and core.frame_beside.shown
    scene.make_room(left=True)
    scene.compare(films[1], OTHER, ())
    core.scene.Commit(str(tmp_path / "saved.mrml"))
    saved = (tmp_path / "saved.mrml").read_text()
    assert not re.search("MammoReview|<Layout|<Slice|5310", saved), "nothing of ours is for others"
    scene.close()
    core.scene.Commit(str(tmp_path / "saved.mrml"))
    saved = (tmp_path / "saved.mrml").read_text()
    assert "<Layout" in saved and saved.count("<Slice\n") == 2, "and theirs is"
    assert state(core) == theirs
    assert nodes(core) == before and composite.GetLinkedControl()
    assert core.beside.node.GetOrientation() == "Coronal"
    assert core.beside.node.GetFieldOfView() == pytest.approx(field)
    scene.open(films[0], document())
    scene.make_room(left=True)
    scene.forget()  # Slicer closes its scene, and keeps its views
    assert state(core) == theirs and core.beside.node.GetOrientation() == "Coronal"
    assert core.frame.shown and core.frame_beside.shown


def state(core: SlicerCore) -> tuple[int, int, int]:
    """Layout and view groups."""
    layout = core.scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    groups = core.view.node.GetViewGroup(), core.beside.node.GetViewGroup()
    return layout.GetViewArrangement(), *groups


# --- the list --------------------------------------------------------------------------------


def test_films_of_one_examination_are_compared(samples: Path, tmp_path: Path) -> None:
    studies, workspace = tmp_path / "studies", tmp_path / "workspace"
    studies.mkdir()
    workspace.mkdir()
    names = {}
    for year in ("2024", "2026"):
        for film in ("L_CC", "L_MLO", "R_CC", "R_MLO")[: 4 if year == "2024" else 3]:
            copy = pydicom.dcmread(samples / f"P_00820_{film}.dcm")
            copy.StudyInstanceUID = f"1.2.840.{year}"
            copy.SOPInstanceUID = f"{copy.StudyInstanceUID}.{len(names)}"
            copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
            copy.save_as(studies / f"{year}_{film}.dcm")
            names[copy.SOPInstanceUID] = f"{year} {film}"
    worklist = Worklist()
    worklist.load(MammogramStore(studies, workspace).json())
    letters = {names[row.id][:4]: row.patient[8:] for row in worklist.rows}
    assert sorted(letters.values()) == [" a", " b"], "which films belong together"
    assert all(row.patient[8:] == letters[names[row.id][:4]] for row in worklist.rows)
    compared = {}
    for image_id, name in names.items():
        worklist.set_current(image_id)
        rows = [worklist.compared(with_breast=with_breast) for with_breast in (False, True)]
        compared[name] = [row and names[row.id] for row in rows]
        year = [other for other in names.values() if other[:4] == name[:4]]
        assert sorted(names[row.id] for row in worklist.views()) == sorted(year)
    assert compared == {
        "2024 L_CC": ["2024 L_MLO", "2024 R_CC"],
        "2024 L_MLO": ["2024 L_CC", "2024 R_MLO"],
        "2024 R_CC": ["2024 R_MLO", "2024 L_CC"],
        "2024 R_MLO": ["2024 R_CC", "2024 L_MLO"],
        "2026 L_CC": ["2026 L_MLO", "2026 R_CC"],
        "2026 L_MLO": ["2026 L_CC", None],
        "2026 R_CC": [None, "2026 L_CC"],
    }


# --- the panel -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Iterator[Morning]:
    with quick_morning(tmp_path_factory.mktemp("morning"), untrained) as morning:
        session = morning.screen.panel.session
        session.connect(morning.server.url, client_id="ann")
        morning.screen.wait(lambda: session.connection.info and session.worklist.rows)
        yield morning


@pytest.fixture
def screen(morning: Morning) -> Screen:
    return morning.screen


def open_case(screen: Screen, title: str) -> None:
    """A view of the woman, with nothing left to wait for."""
    screen.answer = "Keep as draft"
    (row,) = (r for r in screen.panel.session.worklist.rows if r.title == title)
    screen.panel.worklist.open(row.id)
    screen.wait(lambda: screen.case is not None and screen.case.image.id == row.id)
    settle(screen)


def settle(screen: Screen) -> None:
    screen.wait(lambda: not screen.panel.session.jobs.is_running("comparing"))
    screen.look()


def beside(screen: Screen) -> tuple[str, int]:
    """Which film stands beside the case, and how many findings are drawn on it."""
    shown = screen.panel.scene.companion.image
    count = len(screen.panel.comparison.comparison.findings)
    return "" if shown is None else shown.title, count


def test_a_key_goes_round_and_the_choice_holds_for_the_next_case(
    morning: Morning, screen: Screen
) -> None:
    screen.panel.comparison.comparison.choice = "view"
    screen.press("V")  # where there is nothing to compare yet
    assert screen.panel.comparison.comparison.choice == "view"
    screen.panel.comparison.comparison.choice = "alone"
    open_case(screen, "L CC")
    screen.press("V")
    assert screen.ui.compareButton.text() == "Beside: L MLO"
    for _number in range(2):
        screen.press("V")
    assert screen.ui.compareButton.text() == "Beside: none" and beside(screen) == ("", 0)
    assert screen.core.shown == [screen.core.view]
    screen.press("V")
    settle(screen)
    assert screen.ui.compareButton.text() == "Beside: L MLO"
    title, count = beside(screen)
    assert title == "L MLO" and count > 0
    case, other = screen.core.view, screen.core.beside
    assert screen.core.shown == [case, other], "CC before MLO"
    morning.shot("beside")
    held = requests.get(f"{morning.server.url}/datastore/?output=all", timeout=60).json()
    states = {
        row["image"]["info"]["view"]: row["image"]["info"]["state"]
        for row in held["objects"].values()
        if row["image"]["info"]["laterality"] == "L"
    }
    assert states == {"CC": "held", "MLO": "read"}, "what is looked at is free for others"
    screen.ui.thresholdSlider.setValue(1000)
    assert beside(screen) == ("L MLO", 0), "the slider is both films'"
    open_case(screen, "R MLO")
    assert beside(screen)[0] == "R CC" and screen.core.shown == [other, case]
    screen.press("V")
    settle(screen)
    assert beside(screen)[0] == "L MLO", "the other breast"
    assert screen.core.shown == [case, other], "chest walls meet in the middle"
    morning.shot("breasts")
    screen.press("V")
    assert beside(screen)[0] == "" and screen.core.shown == [screen.core.view]
    screen.press("V")
    settle(screen)


def test_what_the_reader_said_of_it_is_what_it_shows(screen: Screen) -> None:
    open_case(screen, "L CC")
    screen.panel.scene.box_placed.emit((300.0, 900.0, 200.0, 200.0))
    open_case(screen, "L MLO")
    screen.ui.thresholdSlider.setValue(1000)
    assert [f.status for f in screen.panel.comparison.comparison.findings] == ["added"], "a draft"
    open_case(screen, "L CC")
    screen.ui.thresholdSlider.setValue(1000)
    screen.wait(lambda: not screen.panel.session.asking.is_under_way(screen.case))
    screen.press("S")
    screen.wait(lambda: screen.case.based_on == 1)
    open_case(screen, "L MLO")
    assert [f.status for f in screen.panel.comparison.comparison.findings] == ["added"], "a label"


def test_a_label_that_arrives_while_its_film_is_fetched_is_shown(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_case(screen, "R CC")
    session, beside_it = screen.panel.session, screen.panel.comparison.comparison
    (row,) = (r for r in session.worklist.rows if r.title == "L CC")
    assert row.state == "labelled"
    # The list still says that nobody labelled it, and nothing waits here any more.
    monkeypatch.setattr(session, "refresh", lambda: None)  # the panel's own look at the server
    session.worklist.rows = tuple(
        replace(r, state="read", version=0) if r.id == row.id else r for r in session.worklist.rows
    )
    session.look_first = True
    open_case(screen, "L MLO")
    screen.press("H")
    settle(screen)
    assert beside(screen) == ("L CC", 0)
    monkeypatch.undo()
    session.refresh()
    screen.wait(lambda: beside_it.findings)
    assert [f.status for f in beside_it.findings] == ["added"]
    session.look_first = False


def test_a_film_is_fetched_again_when_the_server_is_back(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_case(screen, "R CC")
    session = screen.panel.session
    for cached in session.images.folder.iterdir():
        cached.unlink()

    def fails(*_args: Any, **_options: Any) -> None:
        raise Failure("cut", "The connection was cut.")

    said: list[str] = []
    session.said.connect(said.append)
    monkeypatch.setattr(comparison, "AGAIN_SECONDS", 0.1)
    with monkeypatch.context() as away:
        away.setattr(Client, "download_image", fails)
        screen.panel.comparison.comparison.choose("breast")
        end = time.monotonic() + 1
        screen.wait(lambda: time.monotonic() > end)
        assert beside(screen)[0] == "" and said == ["The connection was cut."], "once"
    screen.wait(lambda: beside(screen)[0] == "L CC")
    session.said.disconnect(said.append)
    screen.panel.comparison.comparison.choose("view")
    open_case(screen, "L CC")


def test_before_the_readers_own_look_it_is_a_film_alone(screen: Screen) -> None:
    screen.panel.worklist.look_first.setChecked(True)
    open_case(screen, "R CC")
    assert screen.case.veiled
    assert beside(screen) == ("R MLO", 0)
    screen.press("H")
    settle(screen)
    assert beside(screen) == ("R MLO", 0), "that film's own first look is still to come"
    open_case(screen, "L MLO")
    assert screen.case.veiled and beside(screen) == ("L CC", 0)
    screen.press("H")
    settle(screen)
    assert beside(screen) == ("L CC", 1), "a label is no model's"
    screen.panel.worklist.look_first.setChecked(False)


def test_one_film_may_be_fetched_twice_at_once(screen: Screen, tmp_path: Path) -> None:
    session = screen.panel.session
    client, row = session.connection.client, session.worklist.rows[0]
    stop = Job("", None, None, False)

    def fetched(_number: int) -> str:
        file = fetch(client, row, tmp_path, 0.5, stored=True, stop=stop).image_file
        header = pydicom.dcmread(file)
        assert header.pixel_array.shape == (row.height, row.width)
        return str(header.file_meta.TransferSyntaxUID.name)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(fetched, range(4))) == {"Explicit VR Little Endian"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_film_that_cannot_be_had_leaves_the_case_alone_and_is_told(
    morning: Morning, screen: Screen
) -> None:
    open_case(screen, "L CC")
    (file,) = morning.studies.glob("*_R_MLO.dcm")
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:4000])
        for cached in screen.panel.session.images.folder.iterdir():
            cached.unlink()
        open_case(screen, "R CC")
        assert beside(screen)[0] == "" and screen.said() != ""
        assert screen.case.image.title == "R CC" and len(screen.core.shown) == 2
    finally:
        file.write_bytes(whole)
