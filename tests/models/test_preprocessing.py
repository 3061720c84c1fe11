"""From the bytes of an image to the tensor of a network: what is decoded, how, and what is refused."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from models import RANGES, ImageError, ImageTooLargeError, Preprocessing, PreprocessingError, decode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
BOMB_SIDE = 50_000

# Decodes a file in a process of its own; prints the error, the seconds and the growth of its memory in MiB.
MEASURED = """
import resource, sys, time
from pathlib import Path
from models import ImageError, decode
data = Path(sys.argv[1]).read_bytes()
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    decode(data)
except ImageError as error:
    print(error)
print(time.process_time() - start)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(pixels=PIXELS):
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_give_their_pixels(kind, options):
    """PNG, BMP and lossless WEBP come back exactly."""
    np.testing.assert_array_equal(np.asarray(decode(encoded(picture(), kind, **options))), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(kind):
    """JPEG and lossy WEBP of a smooth picture come back within a few levels."""
    smooth = np.add.outer(np.arange(0, 128, 2), np.arange(0, 128, 2))[:, :, None].repeat(3, axis=2).astype(np.uint8)
    found = np.asarray(decode(encoded(picture(smooth), kind, quality=95)).convert("RGB"))
    assert np.abs(found.astype(int) - smooth).max() <= 6


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_pictures_are_turned_upright(kind, orientation):
    """The camera's orientation tag is applied, each of its eight values."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(encoded(picture(), kind, exif=exif.tobytes(), **options))
    np.testing.assert_array_equal(np.asarray(found), UPRIGHT[orientation](PIXELS))


def test_a_turned_jpeg_has_its_sides_exchanged():
    """The same tag in a JPEG, where cameras write it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(picture(), "JPEG", exif=exif.tobytes())).size == (6, 9)


def test_sixteen_bit_grey_is_scaled():
    """16-bit levels become 8-bit ones by their upper byte; nothing is clipped."""
    levels = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    found = decode(encoded(Image.fromarray(levels)))
    np.testing.assert_array_equal(np.asarray(found), levels >> 8)
    tensor = Preprocessing(6, 8, dtype="uint8", layout="NHWC")(found)
    np.testing.assert_array_equal(tensor, (levels >> 8)[:, :, None].repeat(3, axis=2))


def test_sixteen_bit_colour_is_scaled():
    """A 16-bit RGB PNG is decoded by its upper bytes too."""
    deep = (PIXELS.astype(np.uint16) << 8) | 37
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in deep)
    data = png(9, 6, depth=16, colour=2, stream=zlib.compress(lines))
    np.testing.assert_array_equal(np.asarray(decode(data)), PIXELS)


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "LA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("colour", ["rgb", "bgr", "grey"])
def test_every_kind_of_pixel_becomes_the_tensor(mode, colour):
    """Palettes, transparency, grey, bits and print colours all become the tensor that was declared."""
    image = Image.fromarray(PIXELS[:, :, 0] * np.uint16(257)) if mode == "I;16" else picture().convert(mode)
    decoded = decode(encoded(image, "JPEG" if mode == "CMYK" else "PNG"))
    channels = 1 if colour == "grey" else 3
    tensor = Preprocessing(4, 5, colour=colour, mean=(0.0,) * channels, std=(1.0,) * channels)(decoded)
    assert tensor.shape == (channels, 4, 5)
    assert tensor.dtype == np.float32
    assert 0 <= tensor.min() < tensor.max() <= 255


def test_a_palette_gives_its_colours():
    """Indexed pixels are looked up, those of a palette with a transparent entry too."""
    few = (PIXELS // 128) * 255
    indexed = picture(few).quantize(8)
    for data in (encoded(indexed), encoded(indexed, transparency=0)):
        tensor = Preprocessing(6, 9, layout="NHWC", dtype="uint8")(decode(data))
        np.testing.assert_array_equal(tensor, few)


def test_transparency_is_dropped():
    """The colour of a transparent pixel counts as if it were opaque."""
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(RNG.integers(0, 256, (6, 9), dtype=np.uint8)))
    tensor = Preprocessing(6, 9, layout="NHWC", dtype="uint8")(decode(encoded(image)))
    np.testing.assert_array_equal(tensor, PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_image_is_refused(kind, share):
    """A file that breaks off raises ImageError, not half a picture."""
    data = encoded(picture(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    with pytest.raises(ImageError):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize("data", [b"", b"x", b"hello, world", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", bytes(1000)])
def test_what_is_no_image_is_refused(data):
    """Other data raises ImageError that lists the formats and shows how the data begins."""
    with pytest.raises(ImageError, match="not an image in any of the formats PNG, JPEG, WEBP, BMP"):
        decode(data)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_refused(kind):
    """Formats that are not on the list never reach their decoders."""
    with pytest.raises(ImageError, match="not an image in any of the formats"):
        decode(encoded(picture(), kind))


def png(width, height, *, depth, colour, stream):
    """A PNG around a compressed stream of scan lines."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="module")
def bomb():
    """A valid PNG of 50 000 x 50 000 pixels, one bit each: 300 MB of zeros in a file of well below 1 MB."""
    line, compress = bytes(1 + BOMB_SIDE // 8), zlib.compressobj(9)
    stream = b"".join(compress.compress(line * 100) for _ in range(BOMB_SIDE // 100)) + compress.flush()
    data = png(BOMB_SIDE, BOMB_SIDE, depth=1, colour=0, stream=stream)
    assert len(data) < 1_000_000
    return data


def test_a_decompression_bomb_is_refused_by_its_header(bomb, tmp_path):
    """2.5 thousand million pixels are refused at once and without memory."""
    with pytest.raises(ImageTooLargeError, match="50000 x 50000"):
        decode(bomb)
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb)
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=True)
    message, seconds, mebibytes = done.stdout.splitlines()
    assert "pixels" in message
    assert float(seconds) < 0.5
    assert float(mebibytes) < 30


def test_the_limit_on_pixels_is_exact():
    """As many pixels as allowed are decoded, one line more is refused with both numbers."""
    assert decode(encoded(Image.new("L", (10, 10))), max_pixels=100).size == (10, 10)
    with pytest.raises(ImageError, match=r"10 x 11 pixels; at most 100"):
        decode(encoded(Image.new("L", (10, 11))), max_pixels=100)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_the_tensor_is_the_formula(layout, colour):
    """(pixel - mean) / std per channel, in the declared colour order and layout, where no resizing is needed."""
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    tensor = Preprocessing(6, 9, colour=colour, mean=mean, std=std, layout=layout)(picture())
    expected = (PIXELS[:, :, :: -1 if colour == "bgr" else 1] - np.array(mean)) / std
    np.testing.assert_allclose(tensor, expected.transpose(2, 0, 1) if layout == "NCHW" else expected, rtol=1e-6, atol=1e-6)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous


def test_bytes_stay_bytes():
    """dtype uint8 gives the pixels themselves."""
    tensor = Preprocessing(6, 9, dtype="uint8", layout="NHWC")(picture())
    np.testing.assert_array_equal(tensor, PIXELS)
    assert tensor.dtype == np.uint8


def half_and_half():
    """Twice as wide as high: left half dark, right half light."""
    return picture(np.repeat(np.repeat(np.array([[20, 220]], np.uint8), 8, axis=0), 8, axis=1)[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("resize", "columns"),
    [
        ("stretch", [20, 20, 220, 220]),  # all of it, narrower
        ("crop", [20, 20, 220, 220]),  # the middle, where the halves meet
        ("pad", [20, 20, 220, 220]),  # all of it, with black above and below
    ],
)
def test_resizing_keeps_what_it_promises(resize, columns):
    """Stretch and crop fill the tensor; pad keeps the aspect and fills up with black."""
    tensor = Preprocessing(4, 4, resize=resize, interpolation="nearest", layout="NHWC", dtype="uint8")(half_and_half())[:, :, 0]
    np.testing.assert_array_equal(tensor[1], columns)
    np.testing.assert_array_equal(tensor[0], [0] * 4 if resize == "pad" else columns)


def test_crop_takes_the_centre():
    """Of a picture three times as wide as high, crop sees the middle third."""
    thirds = np.repeat(np.array([[10, 120, 240]], np.uint8), 8, axis=0).repeat(8, axis=1)
    tensor = Preprocessing(8, 8, resize="crop", colour="grey", mean=(0.0,), std=(1.0,))(Image.fromarray(thirds))
    assert (tensor == 120).all()


def test_interpolations_differ():
    """The declared interpolation is the one that is used."""
    found = {name: Preprocessing(3, 3, interpolation=name)(picture()).tobytes() for name in ("nearest", "bilinear", "bicubic")}
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("name", RANGES)
def test_named_ranges_map_pixels_as_published(name):
    """The ranges of published networks: unit is 0 to 1, symmetric -1 to 1, pixels 0 to 255, imagenet about -2 to 2.6."""
    mean, std = RANGES[name]
    ends = [Preprocessing(1, 1, mean=mean, std=std)(Image.new("RGB", (1, 1), (v, v, v))).ravel() for v in (0, 255)]
    expected = {"unit": (0, 1), "symmetric": (-1, 1), "pixels": (0, 255)}.get(name)
    if expected:
        np.testing.assert_allclose(ends, [[expected[0]] * 3, [expected[1]] * 3], atol=1e-6)
    else:
        np.testing.assert_allclose(ends, [[-2.1179, -2.0357, -1.8044], [2.2489, 2.4286, 2.64]], atol=1e-3)


def test_json_round_trip():
    """``from_json`` of ``to_json``, through JSON text, gives an equal value."""
    preprocessing = Preprocessing(7, 9, resize="pad", colour="bgr", mean=(1.5, 2, 3), std=(4, 5, 6), layout="NHWC")
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotate": 90}, "rotate"),
        ({"resize": "squash"}, "resize must be one of"),
        ({"interpolation": "lanczos"}, "interpolation must be one of"),
        ({"colour": "hsv"}, "colour must be one of"),
        ({"layout": "HWC"}, "layout must be one of"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"height": 0}, "whole numbers of pixels from 1 to 8192"),
        ({"width": 8193}, "whole numbers of pixels from 1 to 8192"),
        ({"height": "8"}, "preprocessing"),
        ({"mean": [0, 0]}, "mean needs 3 finite numbers"),
        ({"mean": [0, 0, float("nan")]}, "mean needs 3 finite numbers"),
        ({"mean": ["a", "b", "c"]}, "preprocessing"),
        ({"mean": 0}, "preprocessing"),
        ({"std": [1, 1, 0]}, "std must be positive"),
        ({"std": [1, -1, 1]}, "std must be positive"),
        ({"colour": "grey"}, "mean needs 1 finite numbers"),
        ({"dtype": "uint8", "std": [255, 255, 255]}, "mean and std must be 0 and 1"),
    ],
)
def test_what_is_not_well_formed_is_refused(change, message):
    """Unknown fields and values out of range raise PreprocessingError that names the field."""
    with pytest.raises(PreprocessingError, match=message):
        Preprocessing.from_json(Preprocessing(8, 8).to_json() | change)


@pytest.mark.parametrize("field", ["height", "width"])
def test_a_missing_size_is_refused(field):
    """The size has no default."""
    fields = Preprocessing(8, 8).to_json()
    del fields[field]
    with pytest.raises(PreprocessingError, match=field):
        Preprocessing.from_json(fields)
