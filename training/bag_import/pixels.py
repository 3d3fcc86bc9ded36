"""Image messages as files: JPEG and PNG are copied as they are, all else is encoded."""

from typing import Any, Literal

import cv2
import numpy as np

from bevdistill_ros.core.image_size import check_image_size
from bevdistill_ros.inference.decode import decode_image, image_size, is_complete
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE
from bevdistill_ros.node.images import FULL_WIDTH, compressed_image, raw_image
from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.camera_info import CameraInfoMatrices, read_calibration
from bevdistill_ros.node.rig.rectifier import Rectifier
from training.bag_import.records import FileContent

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"
_MOSAIC = "bayer_"


class ImageEncoder:
    """Makes files of the images of one camera.

    Args:
        calibration: Of the camera; lens distortion is removed, since a data set in nuScenes format has none.
        image_format: Of images that are not copied.
        jpeg_quality: Of such images, 1...100.
    """

    def __init__(self, calibration: Calibration, *, image_format: Literal["jpg", "png"], jpeg_quality: int) -> None:
        self._calibration = calibration
        self._format: Literal["jpg", "png"] = image_format
        self._options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if image_format == "jpg" else []
        self._rectifier = Rectifier()

    def file_of(self, message: Any, message_type: str) -> FileContent:
        """The file of a sensor_msgs/Image or CompressedImage.

        Raises:
            ValueError: It is damaged, or its encoding is not known.
        """
        if message_type == COMPRESSED_IMAGE:
            content = message.data.tobytes()
            if self._calibration.distortion is None and not message.format.startswith(_MOSAIC):
                copied = _copied(content)
                if copied is not None:
                    return copied
            pixels = _decoded(content, message.format)
        else:
            pixels = _of_raw(message)
        check_image_size(*pixels.shape[:2])
        pixels = self._rectifier.rectify(pixels, self._calibration)
        done, encoded = cv2.imencode(f".{self._format}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), self._options)
        assert done, f"OpenCV cannot write {self._format}"
        return FileContent(content=encoded.tobytes(), suffix=self._format, size=(pixels.shape[0], pixels.shape[1]))


def calibration_of(info: Any, *, rectified: bool, image_topic: str) -> Calibration:
    """Calibration of a sensor_msgs/CameraInfo, read as the node reads it; a ValueError says what cannot be right."""
    given = CameraInfoMatrices(
        k=np.array(info.k, dtype=np.float64).reshape(3, 3),
        p=np.array(info.p, dtype=np.float64).reshape(3, 4)[:, :3],
        d=np.array(info.d, dtype=np.float64),
        model=info.distortion_model,
    )
    return read_calibration(
        given,
        size=(int(info.height), int(info.width)),
        frame_id=info.header.frame_id.lstrip("/"),
        rectified=rectified,
        image_topic=image_topic,
    )


def _copied(content: bytes) -> FileContent | None:
    """The very bytes of a JPEG or PNG; None for another format."""
    if not content.startswith((_JPEG, _PNG)):
        return None
    if not is_complete(content):
        raise ValueError(f"the image is cut off ({len(content)} bytes)")
    size = image_size(content)
    check_image_size(*size)
    return FileContent(content=content, suffix="jpg" if content.startswith(_JPEG) else "png", size=size)


def _decoded(content: bytes, form: str) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB; formats that only OpenCV knows are left to it."""
    if content.startswith((_JPEG, _PNG)):
        if not form.startswith(_MOSAIC):
            return decode_image(content, nominal_width=FULL_WIDTH, width=FULL_WIDTH)
        return compressed_image(content, form=form, nominal_width=FULL_WIDTH, width=FULL_WIDTH)
    if not content:
        raise ValueError("the image is empty")
    raise ValueError(f"the image is neither JPEG nor PNG; its format is '{form[:80]}'")


def _of_raw(message: Any) -> np.ndarray:
    rows, cols = int(message.height), int(message.width)
    check_image_size(rows, cols)
    pixels = raw_image(message.data, rows=rows, cols=cols, step=int(message.step), encoding=message.encoding)
    if pixels is None:
        raise ValueError(f"encoding '{message.encoding[:40]}' is not known; record rgb8, bgr8 or compressed images")
    return pixels
