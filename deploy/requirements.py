"""Print what farfield requires, one a line, so that an image can have it in a layer of its own, below the source.

``python requirements.py gpu,s3`` reads pyproject.toml in the working directory and adds these extras.
With ``gpu``, onnxruntime's CUDA build and the CUDA libraries take the place of its CPU build, beside which it cannot stand.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict[str, object], extras: list[str]) -> list[str]:
    """The requirements of ``[project]``, and of these of its extras. Raises SystemExit for one that it does not have."""
    known: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]  # as pyproject.toml has it
    required: list[str] = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in extras:
        if extra not in known:
            raise SystemExit(f"there is no extra {extra!r}; there are {', '.join(known)}")
        required += known[extra]
    if "gpu" in extras:
        required = [line for line in required if not re.match(r"onnxruntime\W", line) or line.startswith("onnxruntime-gpu")]
        required = [line.replace("onnxruntime-gpu", "onnxruntime-gpu[cuda,cudnn]") for line in required]
    return required


if __name__ == "__main__":
    asked = [extra.strip() for extra in " ".join(sys.argv[1:]).split(",") if extra.strip()]
    print("\n".join(requirements(tomllib.loads(Path("pyproject.toml").read_text())["project"], asked)))
