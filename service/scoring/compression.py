"""Bodies without their ``Content-Encoding``, never larger than allowed."""

from __future__ import annotations

import zlib

import pyarrow as pa

from service.errors import InvalidInput, TooLarge, UnsupportedMedia

WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's name for each encoding of a body
ZSTD = "zstd"
READ = ", ".join([*WINDOWS, ZSTD])


def decompressed(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """A body without its encoding, which takes at most ``limit`` bytes of memory and a small window besides.

    Raises TooLarge as soon as it passes ``limit``, InvalidInput where it is damaged, UnsupportedMedia for other encodings.

    >>> decompressed(zlib.compress(bytes(50)), "deflate", 50) == bytes(50)
    True
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in {*WINDOWS, ZSTD}:
        raise UnsupportedMedia(f"a body in {encoding[:40]!r} encoding is not read: send it as it is, or in one of {READ}")
    try:
        data = _unpacked_zstd(body, limit) if encoding == ZSTD else _unpacked(body, encoding, limit)
    except (zlib.error, OSError) as error:
        raise InvalidInput(f"the body is not {encoding}: {error}", "#") from None
    if len(data) > limit:
        raise TooLarge(f"the {encoding} body unpacks to more than the limit of {limit} bytes")
    return data


def _unpacked(body: bytes | bytearray, encoding: str, limit: int) -> bytes:
    unpacker = zlib.decompressobj(WINDOWS[encoding])
    data = unpacker.decompress(body, limit + 1)
    if len(data) <= limit and (not unpacker.eof or unpacker.unused_data):
        raise InvalidInput(f"the {encoding} body is {'followed by other bytes' if unpacker.eof else 'cut off'}", "#")
    return data


def _unpacked_zstd(body: bytes | bytearray, limit: int) -> bytearray:
    """In steps, because one read of ``limit`` bytes would take as much memory at once."""
    data = bytearray()
    with pa.CompressedInputStream(pa.BufferReader(body), ZSTD) as stream:
        while len(data) <= limit and (piece := stream.read(2**20)):
            data += piece
    return data
