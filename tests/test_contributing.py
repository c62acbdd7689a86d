"""What CONTRIBUTING says is so: its map is the table that `test_project.py` holds the imports to, and the commits of
docs/contributing/ work: every block is put where its title says, and every test in them passes."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import faithprobe
from faithprobe import tasks
from faithprobe.tasks import task_names
from tests.test_project import ALSO, EVIDENCE, GROUND, MAY_KNOW, PACKAGE, RECORDS, TOP

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "contributing").glob("*.md")}


def files_of(page: str) -> dict[str, str]:
    """Path -> text of every Python block that has a path as its title."""
    return dict(re.findall(r'^```python title="(.+?)"\n(.*?)^```', PAGES[page], re.DOTALL | re.MULTILINE))


def load(path: str, text: str, folder: Path, monkeypatch):
    """The block as the module that it would be at `path`."""
    name = path.removesuffix(".py").replace("/", ".")
    assert importlib.util.find_spec(name) is None, f"{path} exists: the page needs another example"
    file = folder / Path(path).name
    file.write_text(text, encoding="utf-8")
    spec = spec_from_file_location(name, file)
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run_tests_of(module) -> int:
    found = [value for name, value in vars(module).items() if name.startswith("test_")]
    for test in found:
        test()
    return len(found)


def test_the_commit_of_a_task_works(tmp_path, monkeypatch):
    (family, text), (test, checks) = files_of("a_task").items()
    assert len(text.splitlines()) < 50
    monkeypatch.setattr(tasks, "_FAMILIES", {**tasks._FAMILIES, "tickets": "tickets:Tickets"})
    assert '+    "tickets": "tickets:Tickets",' in PAGES["a_task"]
    load(family, text, tmp_path, monkeypatch)
    assert "tickets" in task_names()
    assert run_tests_of(load(test, checks, tmp_path, monkeypatch)) == 4


def test_the_commit_of_a_metric_works(tmp_path, monkeypatch):
    (metric, text), (test, checks) = files_of("a_metric").items()
    load(metric, text, tmp_path, monkeypatch)
    assert run_tests_of(load(test, checks, tmp_path, monkeypatch)) == 4


def test_the_commit_of_an_organism_works(tmp_path, monkeypatch):
    from faithprobe.organisms import families

    (place, text), (test, checks) = files_of("an_organism").items()
    assert place == "faithprobe/organisms/families.py"
    assert not hasattr(families, "recited"), "the page needs another example"
    before = dict(vars(families))
    try:
        exec(compile(text, place, "exec"), vars(families))
        module = load(test, checks, tmp_path, monkeypatch)
        row = re.search(r'^\+    "recited": (Intended\(.+\)),$', PAGES["an_organism"], re.MULTILINE)
        assert f"INTENDED = {row[1]}" in checks
        assert run_tests_of(module) == 3
    finally:
        for name in set(vars(families)) - set(before):
            delattr(families, name)


# The map


def rows() -> dict[str, tuple[str, str]]:
    """Room -> what is in it, what it may know; several rooms may share a row."""
    table = GUIDE.split("| room | what is in it | may know |\n|---|---|---|\n")[1].split("\n\n")[0]
    found = {}
    for line in table.splitlines():
        names, what, may_know = (cell.strip() for cell in line.strip("|").split("|"))
        found |= {
            name.rstrip("/").removesuffix(".py"): (what, may_know) for name in re.findall(r"`(\w+(?:/|\.py))`", names)
        }
    return found


def meant(words: str) -> set[str]:
    """The rooms that a cell names, with the two groups of them that the guide names above its table."""
    found = {name.rstrip("/").removesuffix(".py") for name in re.findall(r"`(\w+(?:/|\.py))`", words)}
    if re.search(r"\b(records|evidence)\b", words):
        found |= RECORDS - GROUND
    return found | (EVIDENCE - GROUND if "evidence" in words else set())


def test_every_room_is_on_the_map():
    homes = {
        path.name if path.is_dir() else path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()
    }
    homes -= {"__init__", "__main__", "__pycache__"}
    assert homes == set(rows())


def test_the_map_says_what_imports_are_held_to():
    assert "*Records* are `tasks/`, `models/`, `chains/` and `scores/`" in GUIDE
    assert {"tasks", "models", "chains", "scores"} == RECORDS - GROUND
    assert "*evidence* is records, `probes/`, `interventions/` and `metrics/`" in GUIDE
    assert {"probes", "interventions", "metrics"} == EVIDENCE - RECORDS
    for room, (_, words) in rows().items():
        if room in TOP:
            assert words == "everything"
            continue
        also = {home for path, homes in ALSO.items() if path.split("/")[0] == room for home in homes}
        if room in GROUND:
            assert meant(words) == MAY_KNOW[room], room
        else:
            assert meant(words) - {room} == (MAY_KNOW[room] - GROUND - {room}) | also, room


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_guide_leads_to_every_page(page):
    assert f"docs/contributing/{page}.md" in GUIDE


def test_every_target_that_the_guide_names_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", GUIDE)) <= targets
    listed = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert listed == targets, f"no help is written for {targets - listed}"


# What is shipped


def test_every_file_of_the_package_is_in_the_wheel():
    """Pages, styles, scripts, weights and `py.typed` are no modules: the build takes only those that are named."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.search(r"^\[tool\.setuptools\.package-data\]\nfaithprobe = \[(.+)\]$", project, re.MULTILINE)[1]
    shipped = {path for pattern in re.findall(r'"(.+?)"', named) for path in PACKAGE.glob(pattern) if path.is_file()}
    found = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    left_out = {path for path in found - shipped if path.suffix != ".py"}
    assert not left_out, f"pyproject.toml, package-data: {sorted(map(str, left_out))} would not be installed"
    assert PACKAGE / "py.typed" in shipped


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {faithprobe.__version__}\n" in citation
    assert "\ncff-version: 1.2.0\n" in f"\n{citation}"
    assert not re.search(r"doi|url", citation, re.IGNORECASE)  # there is none yet; an invented one would be worse


def test_hooks_run_what_make_check_runs_and_fetch_nothing():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^  - repo: (\S+)$", hooks, re.MULTILINE) == ["local"]
    assert set(re.findall(r"language: (\S+)", hooks)) == {"system"}
    check = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ncheck:")[1].split("\n\n")[0]
    for program in re.findall(r"\$\(BIN\)/([a-z]+(?: [a-z]+)?)", check):
        assert f".venv/bin/{program}" in hooks
