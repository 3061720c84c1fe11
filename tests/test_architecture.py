"""The rules that keep the three packages apart, small and safe, read off the source itself."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("detectors", "models", "service")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

ALLOWED = {
    "detectors": {"detectors", "faiss", "numpy", "scipy", "sklearn", "threadpoolctl"},
    "models": {"models", "numpy", "onnx", "onnxruntime", "PIL", "google.protobuf"},
}
PURE = ROOT / "service" / "engine.py"  # fit and score: no web, no store
WEB_AND_STORE = {"fastapi", "starlette", "redis", "pydantic", "uvicorn", "httpx", "httpx2", "prometheus_client", "typer"}
CODE_IN_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}

LONGEST = 300  # lines


def name(path):
    return path.relative_to(ROOT).as_posix()


def tree(path):
    return ast.parse(path.read_text())


def imports(path):
    """Dotted names of all modules that ``path`` imports, at any depth; ``from a import b`` gives ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative imports hide where things come from"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def stem(module):
    return module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_packages_import_one_way(path):
    """detectors and models import the numerical libraries and themselves alone; neither knows the other or the service."""
    allowed = ALLOWED.get(path.relative_to(ROOT).parts[0])
    if allowed is not None:
        foreign = {
            m for m in imports(path) if stem(m) not in sys.stdlib_module_names and not allowed & {stem(m), ".".join(m.split(".")[:2])}
        }
        assert foreign <= {"google"}  # the namespace package of google.protobuf


def test_the_engine_knows_no_web_and_no_store():
    """service.engine, and every module of ours that it reaches, imports no web framework, settings or store library."""
    reached, waiting = set(), [PURE]
    while waiting:
        path = waiting.pop()
        reached.add(path)
        for module in imports(path):
            assert stem(module) not in WEB_AND_STORE, f"{name(path)} imports {module}"
            base = ROOT.joinpath(*module.split("."))
            files = [base.with_suffix(".py"), base / "__init__.py"] if stem(module) in PACKAGES else []
            waiting.extend(file for file in files if file.exists() and file not in reached)
    assert {"detectors/base.py", "models/extractor.py"} <= {name(path) for path in reached}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_stored_is_ever_executed(path):
    """No module imports a format that can carry code, calls eval or exec, or lets numpy unpickle."""
    assert not {m for m in imports(path) if stem(m) in CODE_IN_DATA}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            assert called not in {"eval", "exec", "compile", "__import__"}, f"{name(path)}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"{name(path)}:{node.value.lineno}"
            assert node.value.value is False, f"{name(path)}:{node.value.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_stay_short(path):
    """A file has at most 300 lines."""
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST, f"{lines} lines: split it"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_module_says_what_it_is(path):
    """Each module begins with a docstring of at least one full line."""
    assert len(ast.get_docstring(tree(path)) or "") > 20


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_names_that_say_nothing(path):
    """A module is named for what it holds."""
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}
