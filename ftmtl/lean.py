"""MONAI without what it would take along.

`import monai` imports every module of MONAI, and each of those whatever it finds of mlflow, ignite,
pandas, ITK … Nothing of that is used here, and it is four fifths of the time that takes.
Only programs of our own call this: it would not do for a library to decide for its caller what her
MONAI finds.
"""

from __future__ import annotations

import sys

# Each stands behind MONAI's `optional_import`, so that it does without.
TAKEN_ALONG = (
    "clearml", "cucim", "cupy", "ignite", "itk", "lmdb", "matplotlib", "mlflow", "nibabel",
    "openslide", "pandas", "scipy.signal", "skimage", "sklearn", "tensorboard", "tensorboardX",
    "tifffile", "torchvision", "transformers",
)


def load_monai() -> None:
    """Import MONAI while these are not to be found; afterwards they are, as before."""
    absent = [name for name in TAKEN_ALONG if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: not to be found
    try:
        import monai  # noqa: F401
    finally:
        for name in absent:
            del sys.modules[name]
