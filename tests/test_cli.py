"""The command line: what it prints, where it prints it, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from faithprobe import Audit, Probes
from faithprobe.cli import main
from faithprobe.models import model_names
from faithprobe.tasks import task_names

ORGANISM = ["audit", "--model", "organism:faithful", "--task", "organism"]
QUICK = ["--problems", "8", "--probe-problems", "0"]


def faithprobe(*arguments: str, monkeypatch) -> int:
    """Exit code of the program, run in this process."""
    monkeypatch.setattr(sys, "argv", ["faithprobe", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_audit_writes_its_files_and_prints_what_it_found(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setenv("COLUMNS", "120")
    assert faithprobe(*ORGANISM, *QUICK, "--out", out, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr()
    summary = Audit.load(out).summary()
    effects = (summary["mediation"][name] for name in ("total", "direct", "indirect", "interaction"))
    for found in (summary["accuracy"]["with_chain"], summary["used"], summary["answer_is_last_stated"], *effects):
        assert f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}], n = {found['n']}" in printed.out
    share = summary["verdicts"]["unscored"]  # there were no probes
    assert f"{share['share']:.2f} [{share['low']:.2f}, {share['high']:.2f}], 24 steps" in printed.out
    assert "not measured" in printed.out  # D
    assert str((out / "report.html").resolve()) in printed.out.replace("\n", "")
    assert (out / "report.html").stat().st_size > 10_000
    assert "answering and replaying: 8/8" in printed.err
    command = json.loads((out / "audit.json").read_text())["command"]
    assert command.startswith("faithprobe audit --model organism:faithful --task organism --problems 8")


def test_run_again_it_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    arguments = [*ORGANISM, "--problems", "2", "--probe-problems", "0", "--no-report", "--out", tmp_path]
    assert faithprobe(*arguments, monkeypatch=monkeypatch) == 0
    part = tmp_path / "work" / "part-0000.json"
    before = part.stat().st_mtime_ns
    assert faithprobe(*arguments, monkeypatch=monkeypatch) == 0
    assert part.stat().st_mtime_ns == before
    assert not (tmp_path / "report.html").exists()
    capsys.readouterr()
    assert faithprobe(*arguments, "--seed", "1", monkeypatch=monkeypatch) == 2
    assert "seed: 0 there, 1 asked for" in capsys.readouterr().err


def test_published_metrics_run_beside_ours(tmp_path, monkeypatch):
    quick = ["--problems", "2", "--probe-problems", "0", "--no-report"]
    also = ["--metric", "adding-mistakes", "--metric", "filler-tokens"]
    assert faithprobe(*ORGANISM, *quick, *also, "--out", tmp_path, monkeypatch=monkeypatch) == 0
    evidence = Audit.load(tmp_path).tables["evidence"]
    whole = evidence[(evidence["metric"] == "adding-mistakes") & (evidence["step"] == "")]
    assert whole["value"].tolist() == [1.0, 1.0]
    assert {"adding-mistakes", "filler-tokens"} < set(evidence["metric"])


PROBE = ["probe", "--model", "organism:post-hoc", "--task", "organism"]
FEW = ["--problems", "400", "--layers", "3", "--shuffles", "2", "--responses", "reference"]


def test_probe_writes_its_files_and_prints_what_is_known(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    options = [*FEW, "--moduli", "3,9", "-o", "split='train'", "--out", tmp_path]
    assert faithprobe(*PROBE, *options, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr()
    probes = Probes.load(tmp_path)
    assert probes.info["command"].startswith(
        "faithprobe probe --model organism:post-hoc --task organism --problems 400"
    )
    assert (probes.layers, probes.info["task_options"]["split"]) == ([3], "train")
    assert {"mod 3", "mod 9", "class", "value"} <= set(probes.sources["target"])
    chosen = probes.sources[probes.sources["chosen"]]
    for row in chosen[chosen["source"].isin(["activations", "beyond control"])].to_dict("records"):
        score, low, high = (f"{round(row[name], 2) + 0.0:.2f}" for name in ("score", "low", "high"))
        assert score in printed.out
        assert f"[{low}, {high}]" in printed.out
    assert "reading problems: 400/400" in printed.err
    assert max(map(len, printed.out.partition("probes and tables")[0].splitlines())) <= 80
    assert "…" not in printed.out
    assert str((tmp_path / "report.html").resolve()) in printed.out
    assert (tmp_path / "report.html").stat().st_size > 10_000

    monkeypatch.setenv("RANK", "1")  # not the first of several processes: the run is finished, and this one is silent
    (tmp_path / "report.html").unlink()
    assert faithprobe(*PROBE, *options, monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words", "lines"),
    [
        (["--responses", "x"], "responses must be 'generated' or 'reference', not 'x'", 1),
        (["--layers", "7"], "blocks.7.hook_resid_post", 1),
        (["--moduli", "1"], "moduli must be at least 2, not 1", 1),
        (["--moduli", "a"], "is not a list of moduli such as 3,9", None),
        (["--problems", "0"], "--problems", None),
    ],
)
def test_errors_of_probe_name_what_is_wrong(arguments, words, lines, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert faithprobe(*PROBE, *FEW, "--out", tmp_path, *arguments, monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    shown = [line for line in printed.err.replace("\r", "\n").splitlines() if line and "Loading weights" not in line]
    assert words in printed.err
    assert lines in (None, len(shown))
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "early-answer"], "did you mean 'early-answering'"),
        (["--model", "smollm3"], "no model is called 'smollm3'"),
        (["--task", "aritmetic"], "did you mean 'arithmetic'"),
        (["-o", "spllt=train"], "spllt"),
        (["-o", "split=trian"], "split must be"),
        (["--layers", "7"], "blocks.7.hook_resid_post"),
    ],
)
def test_errors_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    assert faithprobe(*ORGANISM, *QUICK, "--out", tmp_path, *arguments, monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr()
    # a progress bar of transformers, drawn over itself, may stand before it
    lines = printed.err.replace("\r", "\n").splitlines()
    (line,) = [line for line in lines if line and not line.startswith("Loading weights")]
    assert line.startswith("faithprobe: ")
    assert words in line
    assert not printed.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--problems", "0"], "--problems"),
        (["--layers", "a,b"], "is not a list of layers"),
        (["-o", "steps"], "name=value"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_explained_without_a_traceback(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert faithprobe(*ORGANISM, *QUICK, "--out", tmp_path, *arguments, monkeypatch=monkeypatch) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def test_models_and_tasks_list_every_name(monkeypatch, capsys):
    assert faithprobe("models", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*model_names(), "organism:post-hoc"])
    assert faithprobe("tasks", monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in task_names())


def test_the_program_is_installed():
    program = Path(sys.executable).with_name("faithprobe")
    if not program.exists():
        pytest.skip("the package is not installed, only importable")
    done = subprocess.run(
        [program, "audit", "--model", "x", "--task", "y", "--out", "z"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("faithprobe: no task is called 'y'")
    assert len(done.stderr.splitlines()) == 1
