"""What only a full Slicer can show; `ctest` runs it there, and so does "Reload and Test".

It needs no server: the module's panel is made in a real Slicer, with PythonQt's own widgets, and a
label goes through Slicer's own segment editor, writer and reader.
"""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import numpy as np
import slicer
from MammoReviewLib import masks
from MammoReviewLib.client import Client
from MammoReviewLib.failures import Failure
from MammoReviewLib.findings import Finding, Findings, ImageInfo, verdict_of, with_mask
from MammoReviewLib.scene_label_files import SlicerLabelFiles
from MammoReviewLib.slice_frame import SlicerSliceFrame


class MammoReviewInSlicer(unittest.TestCase):
    """Runs inside Slicer."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def test_the_module_is_there_and_its_panel_opens(self) -> None:
        self.assertTrue(hasattr(slicer.modules, "mammoreview"))
        slicer.util.selectModule("MammoReview")
        widget = slicer.modules.mammoreview.widgetRepresentation()
        self.assertTrue(widget.visible)
        slicer.util.selectModule("Data")  # and leaving it is no trouble either

    def test_only_the_slice_is_shown_and_the_rest_comes_back(self) -> None:
        red = slicer.app.layoutManager().sliceWidget("Red")
        corners = slicer.modules.DataProbeInstance.infoWidget.sliceAnnotations

        def shown() -> tuple[bool, bool]:
            return not red.sliceController().isHidden(), bool(corners.sliceViewAnnotationsEnabled)

        before, frame = shown(), SlicerSliceFrame(red)
        frame.hide()
        self.assertEqual(shown(), (False, False))
        frame.give_back()
        self.assertEqual(shown(), before)

    def test_both_slice_views_are_made_and_the_layout_stays(self) -> None:
        layout, alone = slicer.app.layoutManager(), slicer.vtkMRMLLayoutNode.SlicerLayoutOneUp3DView
        layout.setLayout(alone)
        slicer.util.getModuleWidget("MammoReview").logic.make_scene()
        self.assertEqual(layout.layout, alone)
        for name in ("Red", "Yellow"):
            self.assertIsNotNone(layout.sliceWidget(name))

    def test_a_label_goes_through_slicers_own_writer_and_reader(self) -> None:
        image = ImageInfo("1.2.3", 60, 40, (0.1, 0.1), "L", "CC", None)
        mask = np.zeros((40, 60), bool)
        mask[10:20, 30:45] = True
        finding = Finding("A1", "malignant", masks.box_of(mask), "annotator", "added")
        findings = (with_mask(finding, mask, "annotated", image),)
        label = Findings(image, findings, verdict_of(findings))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "label.seg.nrrd"
            files = SlicerLabelFiles()
            files.write(label, file)
            self.assertEqual(files.read(file, image).findings, label.findings)

    def test_a_server_that_is_not_there_is_one_sentence(self) -> None:
        with self.assertRaises(Failure) as caught:
            Client("127.0.0.1:9").info()
        self.assertIn("Nothing answers", str(caught.exception))
