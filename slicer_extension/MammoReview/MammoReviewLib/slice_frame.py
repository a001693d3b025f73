"""What a full Slicer shows around and over its red slice view: put away while a mammogram is open.

The bar above the view moves through slices, of which a mammogram has one; texts in the corners
name patient and place. Only a full Slicer has either.
"""

from __future__ import annotations

from typing import Any

import slicer


class SlicerSliceFrame:
    """`scene_view.Frame` by Slicer's qMRMLSliceWidget and its Data Probe."""

    def __init__(self, slice_widget: Any) -> None:
        self._widget = slice_widget
        self._before: tuple[bool, bool] | None = None  # bar, texts

    def hide(self) -> None:
        """The slice alone."""
        bar, texts = self._widget.sliceController(), _corner_texts()
        if self._before is None:
            shown = texts is not None and bool(texts.sliceViewAnnotationsEnabled)
            self._before = not bar.isHidden(), shown
        self._show(False, False)

    def give_back(self) -> None:
        """As it was before `hide`."""
        if self._before is not None:
            self._show(*self._before)
            self._before = None

    def _show(self, bar: bool, texts: bool) -> None:
        self._widget.sliceController().setVisible(bar)
        corners = _corner_texts()
        if corners is not None and bool(corners.sliceViewAnnotationsEnabled) != texts:
            corners.sliceViewAnnotationsEnabled = texts
            corners.updateSliceViewFromGUI()


def _corner_texts() -> Any:
    """The Data Probe's texts; None where that module is switched off."""
    probe = getattr(slicer.modules, "DataProbeInstance", None)
    return getattr(getattr(probe, "infoWidget", None), "sliceAnnotations", None)
