"""The documentation tells the truth: blocks run as they stand, command lines parse, links lead somewhere, pages that
list what exists list all of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
OTHERS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}
ELSEWHERE = {
    "usage/your_own_task.md": "tests/tasks/test_your_own_task.py",
    **dict.fromkeys(
        (f"contributing/{page}.md" for page in ("a_task", "a_metric", "an_organism")), "tests/test_contributing.py"
    ),
}
"""Pages whose blocks are files of a commit, or are looked into: the tests that run them."""
LONG = {"usage/validate.md", "usage/training_guards.md"}
"""Pages with blocks that take more than 10 seconds on a busy machine."""


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of one language, in lists too (then without their indent)."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


CODE = [
    pytest.param(page, block, id=f"{page}-{number}", marks=[pytest.mark.slow] if page in LONG else [])
    for page, text in PAGES.items()
    if page not in ELSEWHERE
    for number, block in enumerate(blocks(text, "python"), 1)
]


@pytest.mark.parametrize(("page", "block"), CODE)
def test_the_blocks_of_a_page_run_as_they_stand(page, block, monkeypatch, tmp_path):
    needs = re.match(r"# needs: (\w+)\n", block)
    if not needs:
        monkeypatch.chdir(tmp_path)
        exec(compile(block, page, "exec"), {"__name__": "__main__"})
        return
    # In a process of its own: nnsight reads the source of a block from its file, and adds a method to every object.
    if find_spec(needs[1]) is None:
        pytest.skip(f"{needs[1]} is not installed; the page says with which version it was run")
    (tmp_path / "block.py").write_text(block, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.run(
        [sys.executable, "block.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_no_block_is_left_out():
    """A fence that says more than `python` is no block of the test above; such pages have a test of their own."""
    titled = {page for page, text in PAGES.items() if re.search(r"^ *```python\b.+", text, re.MULTILINE)}
    assert titled <= set(ELSEWHERE)
    for page, test in ELSEWHERE.items():
        folder, _, name = page.rpartition("/")
        source = (ROOT / test).read_text(encoding="utf-8")
        assert folder in source, f"{test} does not read docs/{page}"
        assert name in source or ".md" in source, f"{test} does not read docs/{page}"


def command_lines() -> list[tuple[str, str]]:
    """Every `faithprobe ...` of every shell block and of every code span, with the page that shows it."""
    found = []
    for page, text in {**PAGES, **OTHERS}.items():
        for block in blocks(text, "bash"):
            for line in re.sub(r"\\\n", " ", block).splitlines():
                if re.match(r"(torchrun .*)?(-m )?faithprobe |python -m faithprobe ", line.strip()):
                    found.append((page, line.strip()))
        spans = re.findall(r"`(faithprobe [^`\n]+)`", prose(text))
        found += [(page, span) for span in spans if re.match(r"faithprobe [a-z]+( |$)", span)]
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_command_lines_parse(page, line):
    """The command exists, and so does every option, with a value of its type; nothing is run."""
    import typer

    from faithprobe.cli import app

    words = shlex.split(line.split("#")[0] if " # " in line else line)
    words = words[words.index("faithprobe") + 1 :]
    group = typer.main.get_command(app)
    command = group.get_command(None, words[0])
    assert command is not None, f"{page} shows `{line}`, and there is no such command"
    if words[1:] in ([], ["--help"]) or command.params == []:
        return
    if len(words) > 1 and any(word.startswith("-") for word in words):
        arguments = [word for word in words[1:] if word not in ("[...]", "...")]
        given = {word.split("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert given <= known | {"--help"}, f"{page} shows `{line}`: {sorted(given - known)} do not exist"
        required = {tuple(p.opts) for p in command.params if p.required and p.param_type_name == "option"}
        if all(given & set(options) for options in required):  # a code span may show the one option that it is about
            command.make_context(words[0], arguments)


def test_make_targets_and_scripts_that_are_shown_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, text in {**PAGES, **OTHERS}.items():
        shell = "\n".join([*blocks(text, "bash"), *re.findall(r"`([^`\n]+)`", prose(text))])
        named = set(re.findall(r"^\s*make ([a-z][a-z-]*)", shell, re.MULTILINE))
        assert named <= targets, f"{page}: make has no {sorted(named - targets)}"
        for script in re.findall(r"python ([a-z_/]+\.py)", shell):
            assert (ROOT / script).exists(), f"{page} runs {script}"


def test_links_lead_to_files_and_headings():
    for page, text in {**{f"docs/{name}": text for name, text in PAGES.items()}, **OTHERS}.items():
        here = ROOT / page
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", prose(text)):
            if "://" in target:
                continue
            goal = (here.parent / target).resolve() if target else here
            assert goal.exists(), f"{page} links to {target}"
            if anchor and goal.suffix == ".md":
                heads = re.findall(r"^#+ (.+)$", goal.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
                assert anchor[1:] in slugs, f"{page} links to {target}{anchor}; there are {sorted(slugs)}"


def test_pages_of_docs_that_code_names_exist():
    for path in [*ROOT.glob("faithprobe/**/*.py"), *ROOT.glob("experiments/*.py"), *ROOT.glob("benchmarks/*.py")]:
        for name in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}"


def test_every_page_is_on_a_shelf():
    """The navigation lists each page once, and only pages that exist (the reference is added when it is built)."""
    listed = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(PAGES)


def test_every_public_module_is_in_the_reference():
    spec = spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    hooks = module_from_spec(spec)
    spec.loader.exec_module(hooks)
    rooms = hooks.public_modules(ROOT / "faithprobe")
    listed = [name for modules in rooms.values() for name in modules]
    files = [p.relative_to(ROOT).with_suffix("").parts for p in (ROOT / "faithprobe").rglob("*.py")]
    modules = {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in files}
    assert set(listed) == modules - {"faithprobe", "faithprobe.__main__"}
    assert len(listed) == len(set(listed))
    import faithprobe

    names = [name for names in hooks.public_names(ROOT / "faithprobe" / "__init__.py").values() for name in names]
    assert sorted(names) == sorted(faithprobe.__all__)


@pytest.mark.parametrize("figure", sorted((DOCS / "figures").glob("*.svg")), ids=lambda path: path.name)
def test_schematic_figures_are_small_and_stand_alone(figure):
    """A title and a description for those who cannot see it, colours for a dark page, nothing from anywhere else."""
    text = figure.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert len(text) < 12_000
    assert "prefers-color-scheme:dark" in text
    assert [child.tag.rpartition("}")[2] for child in root][:2] == ["title", "desc"]
    assert not re.search(r"(?:href|src|url)\s*[=(]\s*[\"']?(?!#)(?!http://www\.w3\.org)\w", text)
    assert "<script" not in text
    assert any(f"figures/{figure.name}" in page for page in PAGES.values()), "no page shows it"


def test_every_concept_has_its_figure_its_formula_and_its_code():
    for page, text in PAGES.items():
        if page.startswith("concepts/") and page not in ("concepts/index.md", "concepts/limits.md"):
            assert len(re.findall(r"^!\[.+\]\(\.\./figures/\w+\.svg\)$", text, re.MULTILINE)) == 1, page
            assert blocks(text, "text"), f"{page} has no formula"
            assert "../../faithprobe/" in text, f"{page} points to no code"


def test_families_and_keys_that_are_named_exist():
    """The tables name every family that is shipped, and every key of `validation.json`."""
    from faithprobe.organisms.families import FAMILIES
    from faithprobe.results.validation import RESULTS

    organisms, validation = PAGES["usage/organisms.md"], PAGES["usage/validate.md"]
    spanned = {f"dose-{ninths}" for ninths in range(1, 9)}  # written as a range
    assert not [name for name in FAMILIES if f"`{name}`" not in organisms and name not in spanned]
    assert not [key for key in RESULTS if not re.search(rf"^\| `{key}\b", validation, re.MULTILINE)]


def test_columns_options_and_verdicts_that_are_named_exist():
    import inspect

    from faithprobe.audit import audit
    from faithprobe.scores.tables import STEPS, TABLES
    from faithprobe.scores.verdict import VERDICTS

    page = PAGES["usage/audit.md"]
    rows = page.partition("| columns of `steps` | say |")[2].partition("\n\n")[0]
    named = {
        name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert named
    assert named <= set(STEPS)
    assert set(STEPS) - named == {"chain", "step", "position", "plausibility"}  # ids; and what is in gotchas
    options = page.partition("## What to choose")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", options, re.MULTILINE)) <= set(inspect.signature(audit).parameters)
    assert all(f"`{name}.parquet`" in page for name in TABLES)
    assert all(
        re.search(rf"^\| {re.escape(name)} \|", PAGES["concepts/verdicts.md"], re.MULTILINE) for name in VERDICTS
    )


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; the site cannot be opened")
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed; `make docs` installs it and builds")
def test_the_site_builds_without_a_warning_and_opens_without_a_request(tmp_path):
    """Light, dark and on a phone: nothing is fetched from elsewhere, nothing is wider than the page, no error."""
    from playwright.sync_api import sync_playwright

    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(
        build, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    handler = partial(QuietHandler, directory=str(tmp_path / "site"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/"
    trouble: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
            page = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
            ).new_page()
            page.on("request", lambda request: request.url.startswith((home, "data:")) or trouble.append(request.url))
            page.on("console", lambda said: said.type == "error" and trouble.append(said.text))
            page.on("pageerror", lambda error: trouble.append(str(error)))
            for name in ("index", "concepts/lead", "usage/published_metrics", "gotchas", "reference/scores/verdict"):
                page.goto(f"{home}{name}.html")
                wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                broken = page.evaluate(
                    "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
                )
                assert wider <= 0, f"{name} is {wider} pixels wider than the page at {width}"
                assert not broken, f"{name} lacks {broken}"
            shown = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
            assert shown == {"light": "default", "dark": "slate"}[scheme]
        browser.close()
    server.shutdown()
    assert not trouble


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Not on standard error."""
