"""A fitted detector as JSON and plain arrays, and back. Nothing is executed; the unknown is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from detectors.base import Detector

FORMAT = 1  # of the JSON text; raised when its meaning changes

Arrays = dict[str, NDArray[Any]]


def dumps(kind: str, detector: Detector[Any]) -> tuple[str, Arrays]:
    """JSON text and named arrays of a fitted detector registered as ``kind``.

    Names are the paths of the state's fields: ``levels.0.mean``. ``statistics`` and all below it
    serve updates alone and may be left out by who stores them.
    """
    header = {
        "format": FORMAT,
        "type": kind,
        "parameters": detector.parameters(),
        "n_features": int(detector.n_features_in_),
    }
    return json.dumps(header, sort_keys=True, allow_nan=False), arrays_of(detector.state_)


def loads(text: str, arrays: Arrays, registry: dict[str, type[Detector[Any]]]) -> Detector[Any]:
    """The detector that ``dumps`` was given, but for scikit-learn's threshold on training rows.

    Raises ValueError for another format, an unknown type, an unknown or illegal parameter, and for
    arrays that are missing, left over, or of another type than the state declares.
    """
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise ValueError(f"state format {found!r} is unknown: this build reads format {FORMAT}")
    if missing := {"type", "parameters", "n_features"} - set(header):
        raise ValueError(f"the state's header lacks {sorted(missing)}")
    cls = registry.get(header["type"])
    if cls is None:
        raise ValueError(f"detector type {header['type']!r} is unknown: this build has {sorted(registry)}")
    unknown = set(header["parameters"]) - set(cls().get_params(deep=False))
    if unknown:
        raise ValueError(f"parameters {sorted(unknown)} are unknown to detector type {header['type']!r}")
    detector = cls(**header["parameters"])
    detector._validate_params()
    left = dict(arrays)
    detector.state_ = _build(cls.State, "", left)
    if left:
        raise ValueError(f"arrays {sorted(left)} belong to no field of {cls.State.__name__}")
    detector.n_features_in_ = header["n_features"]
    return detector


def arrays_of(state: Any, prefix: str = "") -> Arrays:
    """Arrays of a state by the path of their field; numbers become arrays without dimensions."""
    arrays: Arrays = {}
    for field in dataclasses.fields(state):
        name, value = prefix + field.name, getattr(state, field.name)
        if isinstance(value, tuple):
            for index, item in enumerate(value):
                arrays |= arrays_of(item, f"{name}.{index}.")
        elif dataclasses.is_dataclass(value):
            arrays |= arrays_of(value, f"{name}.")
        elif value is not None:
            arrays[name] = np.asarray(value)
    return arrays


def rebuilt(cls: type, field: str, arrays: Arrays) -> Any:
    """The value of one field of the dataclass ``cls`` that gave ``arrays_of`` it; raises ValueError where they do not make one."""
    left = {f"{field}.{name}": array for name, array in arrays.items()}
    value = _field(get_type_hints(cls)[field], field, left)
    if left:
        raise ValueError(f"arrays {sorted(left)} belong to no field of {field}")
    return value


def _build(cls: type, prefix: str, arrays: Arrays) -> Any:
    """An instance of dataclass ``cls`` from the arrays below ``prefix``, which are taken out of ``arrays``."""
    hints = get_type_hints(cls)
    return cls(**{f.name: _field(hints[f.name], prefix + f.name, arrays) for f in dataclasses.fields(cls)})


def _field(hint: Any, name: str, arrays: Arrays) -> Any:
    if get_origin(hint) is tuple:
        items: list[Any] = []
        while any(key.startswith(f"{name}.{len(items)}.") for key in arrays):
            items.append(_build(get_args(hint)[0], f"{name}.{len(items)}.", arrays))
        if not items:
            raise ValueError(f"arrays {name + '.0.*'!r} are missing")
        return tuple(items)
    optional = [arg for arg in get_args(hint) if dataclasses.is_dataclass(arg)]
    if optional:
        present = any(key.startswith(f"{name}.") for key in arrays)
        return _build(optional[0], f"{name}.", arrays) if present else None  # type: ignore[arg-type]
    if dataclasses.is_dataclass(hint):
        return _build(hint, f"{name}.", arrays)  # type: ignore[arg-type]
    if name not in arrays:
        raise ValueError(f"array {name!r} is missing")
    array = arrays.pop(name)
    if hint in (int, float):
        if array.shape != () or array.dtype.kind not in "iuf":
            raise ValueError(f"array {name!r} must be one number, not {array.dtype} of shape {array.shape}")
        return hint(array)
    if array.dtype.kind != "f":
        raise ValueError(f"array {name!r} must hold floating-point numbers, not {array.dtype}")
    return array
