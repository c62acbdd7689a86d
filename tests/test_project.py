"""The project as a whole: what importing it costs, which room may know which, how long a file may be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

import faithprobe

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "faithprobe"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room with the rooms that it may know. Data flows one way: what is not listed is not imported.
GROUND = {"errors", "files", "markup", "palette", "processes", "progress"}
RECORDS = GROUND | {"tasks", "models", "chains", "scores"}
EVIDENCE = RECORDS | {"probes", "interventions", "metrics"}
MAY_KNOW = {
    "__init__": {"audit", "compare", "errors", "models", "probe", "tasks", "validate"},
    "errors": set(),
    "files": {"errors"},
    "markup": {"palette"},
    "palette": set(),
    "processes": {"errors"},
    "progress": set(),
    "tasks": GROUND,
    "models": GROUND | {"tasks"},
    "chains": GROUND | {"tasks", "models"},
    "scores": GROUND | {"tasks"},
    "probes": RECORDS,
    "interventions": RECORDS,
    "metrics": EVIDENCE,
    "organisms": RECORDS,
    "plots": GROUND | {"tasks", "chains", "scores"},
    "training": EVIDENCE,
    "results": EVIDENCE | {"plots"},
    "audit": EVIDENCE | {"plots", "results"},
    "probe": EVIDENCE | {"plots", "results"},
    "compare": EVIDENCE | {"plots", "results"},
    "masked": EVIDENCE | {"organisms", "results"},
    "validate": EVIDENCE | {"plots", "organisms", "audit", "masked", "results"},
}
ALSO = {
    "models/registry.py": {"organisms"},  # a name stands for a loader, and is imported when it is asked for
    "training/callback.py": {"audit", "validate"},  # stands above the loss
}
TOP = {"cli", "cli_tables", "__main__"}  # may know every room
WITHOUT_MODELS = {"errors", "files", "markup", "palette", "plots", "scores", "tasks"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, only_at_runtime: bool = False) -> set[str]:
    """Dotted names of every module that `path` imports, also inside functions."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if only_at_runtime and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            found.add(module)
            if module == "faithprobe":
                found.update(f"faithprobe.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def known_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("faithprobe.")} - {"__version__"}


def test_importing_takes_under_a_second_and_loads_no_tensors():
    program = (
        "import time; begin = time.perf_counter(); import faithprobe; took = time.perf_counter() - begin\n"
        "import sys; heavy = {'torch', 'transformers', 'pandas', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "print(took, *heavy)"
    )
    runs = [subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True) for _ in range(3)]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    outputs = [run.stdout.split() for run in runs]
    assert all(len(output) == 1 for output in outputs), f"importing faithprobe loads {outputs[0][1:]}"
    assert min(float(output[0]) for output in outputs) < 1


def test_the_version_is_the_same_everywhere():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared
    assert faithprobe.__version__ == declared[1]
    assert f"## {declared[1]}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", faithprobe.__all__)
def test_public_names_load(name):
    assert getattr(faithprobe, name) is not None


def test_public_names_are_listed_and_unknown_ones_refused():
    assert set(faithprobe.__all__) <= set(dir(faithprobe))
    with pytest.raises(AttributeError, match="probity"):
        faithprobe.probity  # noqa: B018


JOBS = [("audit", "Audit"), ("compare", "Comparison"), ("probe", "Probes"), ("validate", "Validation")]


WAYS = [
    "import faithprobe",
    "import faithprobe.{job}",
    "from faithprobe.{job} import {result}",
    "import importlib; importlib.import_module('faithprobe.{job}')",
    "from faithprobe import {job}",
]
FORKED = """
import os, sys, traceback
import pandas, plotly, sklearn, torch, transformer_lens  # what takes seconds is shared by all children
failed = 0
for program in {programs!r}:
    if (child := os.fork()) == 0:
        try:
            exec(program, {{}})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed = 1
        print("in:", program, file=sys.stderr)
sys.exit(failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each import needs an interpreter without faithprobe: os.fork")
def test_a_job_is_the_function_however_its_module_was_imported():
    programs = [
        f"{way.format(job=job, result=result)}\nimport faithprobe, types\n"
        f"assert isinstance(faithprobe.{job}, types.FunctionType), faithprobe.{job}\n"
        f"from faithprobe.{job} import {result}\n"
        f"assert faithprobe.{result} is {result}"
        for way in WAYS
        for job, result in JOBS
    ]
    program = FORKED.format(programs=programs)
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_imports(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__main__":
        pytest.skip("a program, not a module")
    import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def test_no_file_is_long():
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := len(path.read_text().splitlines())) > 500}
    assert not long, f"over 500 lines: {long}"
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_know_only_what_is_below_them(path):
    own = room(path)
    if own in TOP:
        return
    assert own in MAY_KNOW, f"a new room, {own!r}: say in MAY_KNOW what it may import"
    allowed = {own} | MAY_KNOW[own] | ALSO.get(path.relative_to(PACKAGE).as_posix(), set())
    assert known_rooms(path) <= allowed, f"{path.relative_to(ROOT)} may not import {known_rooms(path) - allowed}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if room(p) in WITHOUT_MODELS], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_rooms_without_a_model_import_no_tensors(path):
    heavy = {name.split(".")[0] for name in imports(path, only_at_runtime=True)} & {"torch", "transformers"}
    assert not heavy, f"{path.relative_to(ROOT)} imports {heavy}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_shapes_can_be_checked(path):
    """Shapes are resolved when a module runs: imported under TYPE_CHECKING only, they would be checked nowhere."""
    if "jaxtyping" in imports(path):
        assert "jaxtyping" in imports(path, only_at_runtime=True), "import jaxtyping and torch outside TYPE_CHECKING"
