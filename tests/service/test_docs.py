"""What the documents name exists, and what exists is named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from service import problems
from service.app import create_app
from service.cli import app
from service.metrics import Metrics
from service.settings import Settings
from service.store import Store

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = {"make", "farfield", "curl", "git", "cd", "pip", "python", "docker", "helm", "kubectl", "redis-cli"}
COMMANDS = {name: command.loaded() for name, command in get_command(app).commands.items()}

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def spans(text: str) -> list[str]:
    """What stands in backquotes, outside of blocks; a bar escaped for a table is a bar."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", BLOCKS.sub("", text))]


def words(pattern: str) -> set[str]:
    """Whole names of this form that stand in backquotes."""
    return {found for span in spans(TEXT) for found in re.findall(rf"(?<![\w.-]){pattern}(?![\w-])", span)}


def console_lines(text: str) -> Iterator[str]:
    """Commands of the console blocks, with lines that end in a backslash joined."""
    for language, block in BLOCKS.findall(text):
        if language == "console":
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    yield line.removeprefix("$ ")


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line, without comment and without variables set for it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word in ("|", "||", "&", "&&", ";"):
            if command:
                yield command
            command = []
        elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
            command.append(word)


def assert_parses(command: list[str]) -> None:
    """``farfield`` with these words is a command that exists, with arguments and options as it takes them."""
    assert command[1] in COMMANDS, command
    COMMANDS[command[1]].make_context(command[1], command[2:])


def test_every_setting_is_described_and_none_besides() -> None:
    """Each FARFIELD_* variable that the documents name is one that is read, and the other way round."""
    known = {f"FARFIELD_{name.upper()}" for name in Settings.model_fields}
    assert words(r"FARFIELD_[A-Z_]*[A-Z]") == known


def test_defaults_are_as_described() -> None:
    """The default that stands behind a variable in the table is the one in the code."""
    rows = re.findall(r"^\| (`FARFIELD_[^|]+) \| ([^|]+) \|", TEXT, re.MULTILINE)
    described = {
        name.removeprefix("FARFIELD_").lower(): value.strip("` ")
        for names, values in rows
        for name, value in zip(re.findall(r"FARFIELD_\w+", names), values.split(","), strict=True)
    }
    assert described == {name: written(field.default) for name, field in Settings.model_fields.items()}


def written(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_every_route_is_described_and_none_besides(embedded_store: Store) -> None:
    """As METHOD and path, word for word."""
    document = create_app(Settings(), embedded_store).openapi()
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    named = {span for span in spans(TEXT) if re.match(r"(GET|HEAD|POST|PUT|DELETE|PATCH) /", span)}
    assert named == routes | {"GET /", "GET /docs"}


def metric_names() -> set[str]:
    names = set()
    for family in Metrics().registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        names.add(family.name + suffix)
    return names


def test_every_metric_is_described_and_none_besides() -> None:
    """By the name under which it is scraped."""
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in words(r"farfield_[a-z_]+")}
    assert named == metric_names()


def test_every_problem_is_described_and_none_besides() -> None:
    """With the status that it has."""
    rows = re.findall(r"^\| `urn:farfield:problem:([a-z-]+)` \| (\d+) \|", TEXT, re.MULTILINE)
    assert sorted((int(status), slug) for slug, status in rows) == sorted(problems.STATUS.values())


def test_every_command_is_described() -> None:
    """As ``farfield COMMAND``; and so is every option, at one command at least."""
    named = {span.split()[1] for span in spans(TEXT) if span.startswith("farfield ")}
    assert named - {"COMMAND"} == set(COMMANDS)
    options = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= words("--[a-z-]+")


@by_page
def test_console_blocks_can_be_typed(page: Path) -> None:
    """Each line is of known programs; farfield's own lines parse, with all that they give, and make's targets exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in console_lines(page.read_text()):
        for command in simple_commands(line):
            assert command[0] in PROGRAMS, line
            if command[0] == "farfield":
                assert_parses(command)
            if command[0] == "make":
                assert {word for word in command[1:] if "=" not in word} <= targets, line


@by_page
def test_commands_in_the_text_can_be_typed(page: Path) -> None:
    """So do those in backquotes that are no synopsis."""
    for span in spans(page.read_text()):
        if span.startswith("farfield ") and not re.search(r"[\[|…]|COMMAND", span):
            assert_parses(shlex.split(span))


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of this repository finds it, and every link to a heading of a page finds that."""
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCKS.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not heading or heading in anchors(found.read_text()), target


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", BLOCKS.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
