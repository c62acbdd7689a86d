"""What long work says of itself where there is no terminal, and in a notebook."""

from __future__ import annotations

import json
import sys
import types

import pytest

from faithprobe import progress as module
from faithprobe.progress import Progress


def test_lines_say_how_far_what_and_how_long(capsys, monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    with Progress() as shown:
        stage = shown.stage("answering", 4)
        shown.say("used")
        shown.tick(32)
        stage.advance(2)
        stage.advance(2)
        other = shown.stage("fitting", 1)
        shown.note("a note")
        other.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "answering: 0/4"
    assert lines[1] == "answering: 0/4 (used)"
    assert lines[2] == "answering: 0/4 (used, 32 rows)"
    assert lines[3].startswith("answering: 2/4, 0 s so far, about 0 s left (used")
    assert lines[4] == "answering: 4/4, 0 s so far, about 0 s left"
    assert lines[5] == "fitting: 0/1"  # what the stage before was doing is not said of this one
    assert lines[6] == "a note"


def test_a_rush_of_ticks_is_not_a_rush_of_lines(capsys):
    with Progress() as shown:
        stage = shown.stage("answering", 1000)
        for _ in range(999):
            stage.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_silence(capsys):
    with Progress(shown=False) as shown:
        shown.stage("answering", 1).advance()
        shown.note("a note")
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


NOTEBOOK = """
from faithprobe.progress import Progress
with Progress() as progress:
    first = progress.stage("answering <b>", 300)
    progress.note("a note")
    for _ in range(300):
        progress.say("used")
        progress.tick(32)
        first.advance()
    progress.stage("fitting", 2).advance(2)
"""


def test_a_notebook_holds_one_bar_that_was_replaced_in_place():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    messages = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message, cell, index):
            messages.append(message["msg_type"])
            return super().process_message(message, cell, index)

    failing = "with Progress() as progress:\n    progress.stage('counting', 4).advance()\n    raise KeyboardInterrupt"
    cells = [nbformat.v4.new_code_cell(NOTEBOOK), nbformat.v4.new_code_cell(failing)]
    cells[1].metadata["tags"] = ["raises-exception"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    Client(notebook, timeout=60, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert output.data["text/plain"] == "answering <b> 300/300; fitting 2/2"
    assert "answering &lt;b&gt; 300/300 in 0 s, fitting 2/2 in 0 s" in output.data["text/html"]
    assert "\x1b" not in json.dumps(output)
    assert messages.count("update_display_data") < 30  # 900 changes; a look is worth sending five times a second
    stopped = notebook.cells[1].outputs[0].data["text/html"]
    assert "counting 1/4" in stopped
    assert "stopped: KeyboardInterrupt" in stopped


def test_a_terminal_shell_is_no_notebook(monkeypatch):
    class TerminalInteractiveShell:
        kernel = None

    fake = types.SimpleNamespace(get_ipython=TerminalInteractiveShell)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    assert not module.in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not module.in_notebook()
