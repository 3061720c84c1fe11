"""Data for training and scoring: files and URLs of many forms, in bounded chunks or whole."""

from service.sources.ahead import ahead
from service.sources.losses import Loss, Losses
from service.sources.parts import Chunk, Keys, Part
from service.sources.source import Source, open_source
from service.sources.split import hashed, held_out
from service.sources.whole import Data, ImageFiles, aligned, read, whole

__all__ = [
    "Chunk",
    "Data",
    "ImageFiles",
    "Keys",
    "Loss",
    "Losses",
    "Part",
    "Source",
    "ahead",
    "aligned",
    "hashed",
    "held_out",
    "open_source",
    "read",
    "whole",
]
