"""The errors a user can meet; the base and the image and bundle errors are those of `cvtune_edge`.

CvtuneError               exit code 2
|- ImageError             an image that cannot be read
|- BundleError            not a bundle, or a bundle whose files were changed
|- DataError              the folder of images: missing, empty, one class, too few images
|- ConfigError            a config file or a flag: unknown keys, values out of range
|- WeightsError           pretrained weights that cannot be found or do not fit
|- ModelError             an unknown backbone, or one that cannot be used
|- TrainingError          a stage whose loss is not a finite number
|- RunError               a run directory that is in use, taken, or not a run
`- GateError              exit code 3: the exported model does not answer like the trained one
"""

from __future__ import annotations

from typing import ClassVar

from cvtune_edge.errors import BundleError, CvtuneError, ImageError


class DataError(CvtuneError):
    """The folder of images cannot be used as it is."""


class ConfigError(CvtuneError):
    """A config file or a flag is wrong; all problems are listed at once."""


class WeightsError(CvtuneError):
    """Pretrained weights cannot be found, may not be used, or do not fit the backbone."""


class ModelError(CvtuneError):
    """The backbone is unknown or cannot be used."""


class TrainingError(CvtuneError):
    """A stage of training cannot go on; the model of the stage before is kept."""


class RunError(CvtuneError):
    """The run directory is in use by another process, already holds something else, or is not a run."""


class GateError(CvtuneError):
    """The exported model does not answer like the trained one; no bundle was written."""

    exit_code: ClassVar[int] = 3


__all__ = [
    "BundleError",
    "ConfigError",
    "CvtuneError",
    "DataError",
    "GateError",
    "ImageError",
    "ModelError",
    "RunError",
    "TrainingError",
    "WeightsError",
]
