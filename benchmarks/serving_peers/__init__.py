"""Servers that ``benchmarks.serving`` compares with: each is one script here, which says itself what it needs and what it answers.

A script begins with inline metadata (PEP 723): its dependencies, and under ``tool.serving`` its name, the package whose version is
told, and the path for each form of body. It is run in an environment of its own, as ``script PORT FOLDER``; see ``scorer``.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", re.MULTILINE)
INSTALL_SECONDS = 1200
REASON = 300  # characters of why something failed


class Unavailable(Exception):
    """A server cannot be installed, or does not start, or answers something else."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server in a script; ``paths`` are by the form of body that is sent there, see ``bodies``."""

    script: Path
    name: str
    package: str
    dependencies: tuple[str, ...]
    paths: dict[str, str]

    @classmethod
    def of(cls, script: Path) -> Peer | None:
        """The peer in a script; None where it has no metadata."""
        found = BLOCK.search(script.read_text())
        if not found:
            return None
        lines = (line.removeprefix("#").removeprefix(" ") for line in found["content"].splitlines())
        metadata = tomllib.loads("\n".join(lines))
        said = metadata["tool"]["serving"]
        return cls(script, said["name"], said["package"], tuple(metadata["dependencies"]), said["paths"])

    def interpreter(self, folder: Path) -> Path:
        """Python of the peer's own environment, which is made below ``folder`` unless it is there already. Raises Unavailable."""
        place = folder / self.script.stem
        python, made = place / "bin/python", place / "made"
        wanted = "\n".join(self.dependencies)
        if not made.exists() or made.read_text() != wanted:
            venv.create(place, with_pip=True, clear=True)
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.dependencies]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            except subprocess.CalledProcessError as error:
                *_, last = error.stderr.splitlines() or [f"pip ends with {error.returncode}"]
                raise Unavailable(f"cannot be installed: {last[-REASON:]}") from None
            except subprocess.TimeoutExpired:
                raise Unavailable(f"was not installed within {INSTALL_SECONDS} s") from None
            made.write_text(wanted)
        return python

    def version(self, python: Path) -> str:
        code = f"from importlib.metadata import version; print(version({self.package!r}))"
        return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def peers() -> list[Peer]:
    """All peers, by the names of their scripts."""
    return [peer for script in sorted(Path(__file__).parent.glob("*.py")) if (peer := Peer.of(script))]
