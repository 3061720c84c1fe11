"""From the bytes of an image to the tensor that a network wants, as declarative data kept with a version."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from models.errors import ImageError, ImageTooLargeError, PreprocessingError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # decoders that input may reach; others are attack surface
DEFAULT_MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns; ``decode`` has one that refuses

Resize = Literal["stretch", "crop", "pad"]
Layout = Literal["NCHW", "NHWC"]
Colour = Literal["rgb", "bgr", "grey"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]
TensorType = Literal["float32", "uint8"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes a tensor: resize, colour order, ``(pixel - mean) / std``, layout, type.

    Parameters
    ----------
    height, width : size of the tensor in pixels
    resize : "stretch" takes the whole image whatever its aspect; "crop" scales the shorter side and
        takes the centre; "pad" scales the longer side and pads with black
    mean, std : per channel, in pixel values 0 to 255; must be 0 and 1 for dtype "uint8"

    >>> Preprocessing(height=2, width=2, dtype="uint8", layout="NHWC")(decode(_a_grey_png())).shape
    (2, 2, 3)
    """

    height: int
    width: int
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    colour: Colour = "rgb"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    layout: Layout = "NCHW"
    dtype: TensorType = "float32"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise PreprocessingError(f"preprocessing: {name} must be one of {choices}, not {getattr(self, name)!r}")
        if type(self.height) is not int or type(self.width) is not int or not (0 < self.height <= 8192 and 0 < self.width <= 8192):
            raise PreprocessingError(f"preprocessing: size {self.height} x {self.width} must be whole numbers of pixels from 1 to 8192")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not np.isfinite(values).all():
                raise PreprocessingError(f"preprocessing: {name} needs {self.channels} finite numbers, not {list(values)}")
        if min(self.std) <= 0:
            raise PreprocessingError(f"preprocessing: std must be positive, not {list(self.std)}")
        if self.dtype == "uint8" and (any(self.mean) or set(self.std) != {1.0}):
            raise PreprocessingError("preprocessing: dtype 'uint8' takes pixels as they are; mean and std must be 0 and 1")

    @property
    def channels(self) -> int:
        return 1 if self.colour == "grey" else 3

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        """Tensor of one image, without the batch axis, in the declared layout."""
        image = self._resized(image.convert("L" if self.colour == "grey" else "RGB"))
        pixels = np.asarray(image).reshape(self.height, self.width, self.channels)
        if self.colour == "bgr":
            pixels = pixels[:, :, ::-1]
        planes = pixels.transpose(2, 0, 1)
        if self.dtype == "float32":  # plane by plane, which takes a sixth of the time that all at once takes
            mean, std = (np.array(value, np.float32)[:, None, None] for value in (self.mean, self.std))
            planes = np.subtract(planes, mean, out=np.empty(planes.shape, np.float32))
            planes /= std
        return np.ascontiguousarray(planes if self.layout == "NCHW" else planes.transpose(1, 2, 0))

    def _resized(self, image: Image.Image) -> Image.Image:
        size, resampling = (self.width, self.height), _RESAMPLING[self.interpolation]
        if self.resize == "crop":
            return ImageOps.fit(image, size, resampling)
        if self.resize == "pad":
            return ImageOps.pad(image, size, resampling)
        return image.resize(size, resampling)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The preprocessing that ``to_json`` gave; unknown or missing fields raise PreprocessingError."""
        if not isinstance(data, dict):
            raise PreprocessingError(f"preprocessing: an object with its fields is needed, not {type(data).__name__}")
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        try:
            return cls(**fields)
        except TypeError as error:
            raise PreprocessingError(f"preprocessing: {error}") from None


_CHOICES: dict[str, tuple[str, ...]] = {
    "resize": get_args(Resize),
    "interpolation": get_args(Interpolation),
    "colour": get_args(Colour),
    "layout": get_args(Layout),
    "dtype": get_args(TensorType),
}

# Value ranges that published networks expect, as (mean, std) per RGB channel in pixel values.
RANGES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "symmetric": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "pixels": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The image in ``data``, upright and decoded. Its size is read from the header before any pixel is.

    Raises ImageError for data that is no image and for a truncated one, ImageTooLargeError for more than ``max_pixels``.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise ImageTooLargeError(f"the image has {image.width} x {image.height} pixels; at most {max_pixels} are decoded")
        image.load()
        return _eight_bit(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        start = data[:8].hex(" ") or "nothing"
        raise ImageError(f"not an image in any of the formats {', '.join(FORMATS)}: the data begins with {start}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"the image cannot be decoded: {error}") from None


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; as it is where these are damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  # Pillow lets through whatever its parser of damaged data raises
        return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey levels scaled to 8 bits, which Pillow's own conversion would clip at 255, and palettes with transparency resolved."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))


def _a_grey_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 128).save(buffer, "PNG")
    return buffer.getvalue()
