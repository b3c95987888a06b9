"""Computer vision with OpenCV: edges, sharpness and QR codes of a grey picture."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]

# A change of brightness above the high threshold is an edge. One above the low
# threshold is an edge if it continues another edge.
CANNY_LOW = 100
CANNY_HIGH = 200

# Each worker process has one core. Threads of OpenCV would only compete for it.
cv2.setNumThreads(1)


def find_edges(grey: Grey) -> Grey:
    """Return a picture of the same size, white at the edges and black elsewhere."""
    edges: Any = cv2.Canny(grey, CANNY_LOW, CANNY_HIGH)
    return np.asarray(edges, np.uint8)


def measure_sharpness(grey: Grey) -> float:
    """Return how sharp a picture is: the variance of its Laplacian.

    A blurred picture has a lower value than a sharp one of the same scene. Values can
    only be compared between pictures of the same size.
    """
    laplacian = cv2.Laplacian(grey, cv2.CV_64F)
    return float(laplacian.var())


def read_qr_codes(grey: Grey) -> list[str]:
    """Return the texts of the QR codes that can be read, sorted."""
    texts: Any
    _, texts, _, _ = cv2.QRCodeDetector().detectAndDecodeMulti(grey)
    # A code that was found but could not be read has an empty text.
    return sorted(text for text in texts if text)
