"""MammoReview: reading mammograms with a model that learns from its readers."""

from __future__ import annotations

import unittest
from pathlib import Path

import qt
import slicer
from MammoReviewLib import i18n
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class MammoReview(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Mammography Review")
        parent.categories = ["Breast"]
        parent.dependencies = ["SegmentEditor"]
        parent.contributors = ["The FT-MTL-Net contributors"]
        parent.helpText = _(
            "Shows what a model finds in a mammogram, lets a reader correct it and lets the model "
            "learn from that. It needs the address of an FT-MTL-Net server. For research only."
        )
        parent.acknowledgementText = _(
            "The model is FT-MTL-Net (Gao et al.); the server is built on MONAI Label."
        )


class MammoReviewWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Puts the panel into Slicer."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None

    def setup(self):
        """Called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        i18n.use(translate)
        from MammoReviewLib.segment_editor import SlicerMaskEditor
        from MammoReviewLib.widget import Panel, Surroundings, ask_in_window

        loaded = slicer.util.loadUI(self.resourcePath("UI/MammoReview.ui"))
        self.layout.addWidget(loaded)
        self.ui = slicer.util.childWidgetVariables(loaded)
        window = slicer.util.mainWindow()
        place = qt.QStandardPaths.writableLocation(qt.QStandardPaths.AppDataLocation)
        self.logic = MammoReviewLogic()
        around = Surroundings(
            make_scene=self.logic.make_scene,
            editor=SlicerMaskEditor(slicer.mrmlScene),
            ask=ask_in_window(window),
            settings=qt.QSettings(),
            folder=Path(place) / "MammoReview",
            window=window if window is not None else self.parent,
        )
        self.panel = Panel(self.ui, around)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)

    def cleanup(self):
        """Slicer closes, or the module is loaded again."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def enter(self):
        """The module is shown."""
        if self.panel is not None:
            self.panel.enter()

    def exit(self):
        """Another module is shown."""
        if self.panel is not None:
            self.panel.exit()

    def onSceneStartClose(self, caller, event):
        """The scene is emptied: the case is closed, its edits stay as a draft."""
        if self.panel is not None:
            self.panel.scene_closes()

    def onSceneEndClose(self, caller, event):
        """Nothing is open; the work list is there to go on from."""


class MammoReviewLogic(ScriptedLoadableModuleLogic):
    """What the module does with Slicer's own parts."""

    def make_scene(self):
        """The case's room in Slicer's scene: its red slice view, and the yellow one beside it."""
        from MammoReviewLib.scene import Scene
        from MammoReviewLib.scene_companion import Companion
        from MammoReviewLib.scene_view import ALONE, RIGHT, SliceView
        from MammoReviewLib.slice_frame import SlicerSliceFrame

        scene, layout = slicer.mrmlScene, slicer.app.layoutManager()

        def view(name, place):
            widget = layout.sliceWidget(name)
            if widget is None:  # Slicer makes a view when a layout first has it
                before = layout.layout
                layout.setLayout(place.layout)
                layout.setLayout(before)
                widget = layout.sliceWidget(name)
            mouse, frame = widget.sliceView().interactor(), SlicerSliceFrame(widget)
            return SliceView(scene, widget.sliceLogic(), mouse, frame, place)

        companion = Companion(scene, view("Yellow", RIGHT))
        return Scene(
            scene, view("Red", ALONE), companion, lambda call: qt.QTimer.singleShot(0, call)
        )


class MammoReviewTest(ScriptedLoadableModuleTest):
    """Run by Slicer's own test button: what only a full Slicer can show."""

    def setUp(self):
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """The tests of Testing/Python, which lie beside this file in a source tree."""
        self.setUp()
        folder = Path(__file__).parent / "Testing" / "Python"
        if not folder.is_dir():
            raise RuntimeError(_("The tests are not installed; use the module's source folder."))
        tests = unittest.defaultTestLoader.discover(str(folder), pattern="MammoReview*.py")
        result = unittest.TextTestRunner(verbosity=2).run(tests)
        self.assertTrue(result.wasSuccessful())
