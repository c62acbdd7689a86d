"""What long work says of itself where there is no terminal."""

from __future__ import annotations

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
