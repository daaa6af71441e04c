"""OpenCV's decoder, with what it would say on stderr switched off."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

# No rotation: OpenCV 5.0 turns a grey TIFF wrongly (4 stays as it is, 3 is only mirrored), and no file read unchanged.
AS_RGB: Final = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # [H, W, 3]
UNCHANGED: Final = cv2.IMREAD_UNCHANGED  # [H, W], [H, W, 3] in BGR or [H, W, 4] in BGRA

# The reason goes into the ImageError; OpenCV's own lines on stderr would come once more for each bad file.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def imdecode(data: bytes, flags: int) -> NDArray[Any] | None:
    """Decode; None where OpenCV refuses.

    Raises:
        MemoryError: it lacked memory, which says nothing about the file.
    """
    try:
        pixels: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        return None
    return pixels
