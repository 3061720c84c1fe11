"""The arguments that several commands share, and what they stand for."""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from service import errors
from service.settings import Settings

StoreOption = Annotated[str | None, typer.Option("--store", help="Where versions are kept; FARFIELD_STORE by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
DataOption = Annotated[
    str, typer.Option("--data", help="A file of rows (.npy .npz .csv .parquet .arrow), a glob, a folder of them or of images, or a URL.")
]
AttributeByOption = Annotated[
    Literal["feature", "level", "component"] | None, typer.Option("--attribute-by", help="What --attribute counts.")
]
AlphaOption = Annotated[float, typer.Option("--alpha", help="Accepted false-alarm rate.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the split into fit and calibration rows.")]


def settings_of(**given: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except tomllib.TOMLDecodeError as error:
        raise errors.InvalidInput(f"farfield.toml is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several settings together, some of which are nobody's business
            raise errors.InvalidInput(f"settings: {first['msg']}") from None
        raise errors.InvalidInput(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from None
