"""The notebooks as they lie in the repository: whole, small, without a trace of a machine, and quiet in a browser.

`make notebooks` executes them; that takes minutes. Here is what their saved form must hold.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks are read with nbformat: pip install 'faithprobe[dev]'")

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name[0])
PLOTLY = "application/vnd.plotly.v1+json"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium"))), None
)
# Where people keep files; a saved output that names one tells whose machine it was.
MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|var|mnt|private|opt|usr)/[\w.-]+|[A-Z]:\\\\Users")


def load_tool():
    spec = importlib.util.spec_from_file_location("execute_notebooks", FOLDER / "execute.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(output) -> str:
    """What an output holds, but for pictures, which are bytes."""
    data = {mime: held for mime, held in output.get("data", {}).items() if not mime.startswith("image/")}
    return json.dumps([data, output.get("text", ""), output.get("traceback", "")])


def test_they_are_numbered_in_order():
    assert [path.name.partition("_")[0] for path in NOTEBOOKS] == [str(k + 1) for k in range(len(NOTEBOOKS))]
    assert NOTEBOOKS, "notebooks/ holds no notebook"


@EACH
def test_it_is_valid_and_its_cells_keep_their_ids(path):
    notebook = read(path)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert not [id_ for id_ in ids if re.fullmatch(r"[0-9a-f]{8}", id_)], "ids drawn at random change with every save"
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata


@EACH
def test_it_begins_with_what_the_reader_will_know(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.name[0]}. ")
    assert "**At the end you " in first.source


@EACH
def test_prose_and_code_are_short(path):
    for cell in read(path).cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 60, f"{cell.id}: {len(lines)} lines"
        assert max(map(len, lines)) <= 130, f"{cell.id}: a line of {max(map(len, lines))} characters"
        if cell.cell_type == "code":
            ast.parse(cell.source)
            assert cell.outputs is not None


@EACH
def test_it_was_executed_from_top_to_bottom_without_an_error(path):
    cells = code(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", f"{cell.id}: {output.get('evalue')}"
            assert output.get("name") != "stderr", f"{cell.id}: {output.get('text', '')[:200]}"


@EACH
def test_it_is_small_and_holds_no_library(path):
    assert path.stat().st_size < 500_000
    text = path.read_text(encoding="utf-8")
    assert "Plotly.newPlot" not in text
    assert "<script" not in json.dumps([text_of(o) for cell in code(read(path)) for o in cell.outputs])


@EACH
def test_it_says_nothing_of_the_machine(path):
    for cell in code(read(path)):
        assert set(cell.metadata) <= {"tags"}, f"{cell.id}: {set(cell.metadata)}"
        for output in cell.outputs:
            assert not MACHINE.findall(text_of(output)), f"{cell.id}: {MACHINE.findall(text_of(output))}"
            assert "\x1b[" not in output.get("text", ""), f"{cell.id}: terminal colours"


@EACH
def test_every_figure_has_a_picture(path):
    figures = [o for cell in code(read(path)) for o in cell.outputs if PLOTLY in o.get("data", {})]
    assert figures, "a notebook without a figure"
    assert all("image/png" in figure.data for figure in figures)


@EACH
def test_it_imports_only_what_is_public(path):
    for cell in code(read(path)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("faithprobe"):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{cell.id} imports {private}"
                assert "._" not in node.module


@EACH
def test_its_links_lead_somewhere(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", cell.source):
                if "://" not in target:
                    assert (FOLDER / target).exists(), f"{cell.id}: {target}"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser and is not installed")
    pytest.importorskip("nbconvert", reason="nbconvert makes the pages and is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH; no page can be opened")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.mark.browser
@EACH
def test_its_page_is_silent_and_asks_for_nothing(path, browser, tmp_path):
    page_file = tmp_path / "notebook.html"
    page_file.write_text(load_tool().as_html(read(path), path.stem), encoding="utf-8")
    noise: list[str] = []
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("data:", page_file.as_uri())) else noise.append(r.url[:90]))
    page.goto(page_file.as_uri())
    page.wait_for_load_state("load")
    figures = sum(PLOTLY in o.get("data", {}) for cell in code(read(path)) for o in cell.outputs)
    drawn = "[...document.images].filter((i) => i.naturalWidth > 400).length"
    assert page.evaluate(drawn) >= figures
    assert page.evaluate("document.documentElement.scrollWidth") <= 1100
    page.close()
    assert noise == []


def test_cleaning_takes_what_changes_from_run_to_run():
    tool = load_tool()
    cell = nbformat.v4.new_code_cell("1", metadata={"execution": {"iopub.execute_input": "2026"}, "tags": ["kept"]})
    widget = nbformat.v4.new_output("display_data", data={tool.WIDGET: {}, "text/plain": "a bar"})
    cell.outputs = [widget, nbformat.v4.new_output("stream", name="stdout", text="said")]
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"widgets": {}, "language_info": {"name": "python", "version": "3.11.2"}}
    )
    cleaned = tool.cleaned(notebook)
    assert set(cleaned.metadata) == {"kernelspec", "language_info"}
    assert cleaned.metadata.language_info == {"name": "python"}
    assert cleaned.cells[0].metadata == {"tags": ["kept"]}
    assert [o.output_type for o in cleaned.cells[0].outputs] == ["stream"]


def test_a_notebook_that_fails_is_not_written(tmp_path, monkeypatch, capsys):
    nbclient = pytest.importorskip("nbclient", reason="nbclient executes notebooks and is not installed")
    tool = load_tool()
    monkeypatch.setattr(tool, "HERE", tmp_path)
    cells = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "1_bad.ipynb")
    monkeypatch.setattr("sys.argv", ["execute.py", "--out", str(tmp_path / "out")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        tool.main()
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr("sys.argv", ["execute.py", "9_none"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "1_bad.ipynb" in capsys.readouterr().err
