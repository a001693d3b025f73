"""Slicer's Segment Editor inside the panel. Only a full Slicer has its widget."""

from __future__ import annotations

from typing import Any

import slicer

from .scene import Scene

EFFECTS = ["Paint", "Draw", "Erase", "Scissors", "Islands", "Smoothing"]
UNDO_STATES = 20


class SlicerMaskEditor:
    """`case_actions.MaskEditor` by qMRMLSegmentEditorWidget."""

    def __init__(self, mrml_scene: Any) -> None:
        self._scene = mrml_scene
        self._widget: Any = None
        self._node: Any = None

    def open(self, area: Any, scene: Scene, finding_id: str) -> None:
        """Shows the editor in `area`, painting on the finding's segment."""
        if self._widget is None:
            self._widget = slicer.qMRMLSegmentEditorWidget()
            self._widget.setMaximumNumberOfUndoStates(UNDO_STATES)
            self._widget.setSegmentationNodeSelectorVisible(False)
            self._widget.setSourceVolumeNodeSelectorVisible(False)
            self._widget.setSwitchToSegmentationsButtonVisible(False)
            self._widget.setAddRemoveSegmentButtonsVisible(False)  # there is the finding's alone
            self._widget.setAutoShowSourceVolumeNode(False)  # other slice views are others'
            self._widget.setEffectNameOrder(EFFECTS)
            self._widget.unorderedEffectsVisible = False
            area.layout().addWidget(self._widget)
        self._node = slicer.vtkMRMLSegmentEditorNode()
        self._node.SetSaveWithScene(False)
        self._node.SetOverwriteMode(self._node.OverwriteNone)  # masks may overlap
        self._scene.AddNode(self._node)
        self._widget.setMRMLScene(self._scene)
        self._widget.setMRMLSegmentEditorNode(self._node)
        self._widget.setSegmentationNode(scene.segmentation)
        self._widget.setSourceVolumeNode(scene.volume)
        self._widget.setCurrentSegmentID(finding_id)
        self._widget.setActiveEffectByName("Paint")
        self._widget.installKeyboardShortcuts()

    def close(self) -> None:
        """Stops drawing and takes the editor's node out of the scene."""
        if self._node is None:
            return
        self._widget.uninstallKeyboardShortcuts()
        self._widget.setActiveEffectByName("")
        self._widget.setSegmentationNode(None)
        self._widget.setMRMLSegmentEditorNode(None)
        self._scene.RemoveNode(self._node)
        self._node = None
