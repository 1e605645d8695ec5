"""Pictures that the player brings: decoded with care, kept small, forgotten oldest first."""

from __future__ import annotations

import io
import secrets
from collections import OrderedDict
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES: Final = 20 * 2**20
MAX_PIXELS: Final = 64_000_000
MIN_SIDE: Final = 16
STORED_SHORT_SIDE: Final = 720
MAX_STORED: Final = 16
# Its reader starts Ghostscript, a program, on the uploaded file.
_REFUSED_FORMATS: Final = frozenset({"EPS"})


def decode_picture(data: bytes, name: str = "the file") -> Image.Image:
    """Decode an uploaded picture of any format that Pillow knows.

    The picture is turned upright (EXIF), transparency is laid over white, an animation gives its first frame,
    and a short side above `STORED_SHORT_SIDE` pixels is scaled down to it.

    Args:
        data: the file's bytes.
        name: what to call it in messages.

    Returns:
        An RGB picture.

    Raises:
        ValueError: too many bytes or pixels, too small, broken, or no picture at all.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} is larger than {MAX_BYTES // 2**20} MB: choose a smaller picture")
    if not data:
        raise ValueError(f"{name} is empty: choose a picture such as a JPEG or PNG")
    Image.init()
    formats = [known for known in Image.OPEN if known not in _REFUSED_FORMATS]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as opened:
            _check_size(opened, name)
            upright = ImageOps.exif_transpose(opened)
            upright.load()
            return _shrunk(_rgb(upright))
    except _RefusedError as refusal:
        raise ValueError(str(refusal)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name} has far too many pixels: at most {MAX_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture: choose a JPEG, PNG, WebP, GIF, ...") from None
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise ValueError(f"{name} is a damaged picture ({error}): save it again and retry") from None


class _RefusedError(Exception):
    """A picture that can be read but not used."""


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _RefusedError(f"{name} is {width}x{height} pixels: at most {MAX_PIXELS // 10**6} megapixels")
    if min(width, height) < MIN_SIDE:
        raise _RefusedError(f"{name} is {width}x{height} pixels: at least {MIN_SIDE}x{MIN_SIDE}")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bit(np.asarray(image, dtype=np.float64))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _eight_bit(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale deep grey to 8 bits: 16-bit range when the values need it, [0, 1] or [0, 255] otherwise."""
    values = np.nan_to_num(values)
    highest = values.max()
    scale = 255.0 if highest <= 1.0 else 1.0 if highest <= 255.0 else 255.0 / max(65535.0, float(highest))
    scaled: NDArray[np.uint8] = np.clip(values * scale, 0.0, 255.0).round().astype(np.uint8)
    return scaled


def _shrunk(image: Image.Image) -> Image.Image:
    factor = STORED_SHORT_SIDE / min(image.size)
    if factor >= 1:
        return image
    width, height = image.size
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def preview_jpeg(image: Image.Image, width: int, height: int) -> bytes:
    """Return a centre-cropped JPEG of `width` x `height` for the page's strip of pictures."""
    buffer = io.BytesIO()
    ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class UploadStore:
    """The newest `MAX_STORED` uploads, in memory."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Image.Image] = OrderedDict()

    def add(self, image: Image.Image) -> str:
        """Keep a picture and return its id."""
        identifier = secrets.token_urlsafe(9)
        self._pictures[identifier] = image
        while len(self._pictures) > MAX_STORED:
            self._pictures.popitem(last=False)
        return identifier

    def get(self, identifier: str) -> Image.Image:
        """Return a picture.

        Raises:
            ValueError: no such upload, or one that was forgotten.
        """
        if identifier not in self._pictures:
            raise ValueError("this upload is no longer here: upload the picture again")
        return self._pictures[identifier]
