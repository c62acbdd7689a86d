"""The command line: `faithprobe audit | compare | probe | validate | organisms | models | tasks`."""

from __future__ import annotations

import ast
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from faithprobe.cli_tables import print_comparison, print_probes, print_summary, print_told_apart, print_validation
from faithprobe.errors import FaithprobeError, is_out_of_memory

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Was each value of a chain of thought computed before it was written, and did the answer use it?",
)

# Options that several commands take
Model: TypeAlias = Annotated[
    str, typer.Option(help="A name of `faithprobe models`, a folder, a .gguf file, or owner/name.")
]
TaskName: TypeAlias = Annotated[str, typer.Option(help="A name of `faithprobe tasks`.")]
Layers: TypeAlias = Annotated[str | None, typer.Option(help="Layers to probe, such as 9,19,29; default: six.")]
TaskOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--task-option", "-o", help="name=value, such as steps=3; may be repeated.")
]
Chat: TypeAlias = Annotated[bool, typer.Option(help="Ask through the model's chat template.")]
Temperature: TypeAlias = Annotated[float, typer.Option(min=0.0, help="0 is greedy.")]
BatchSize: TypeAlias = Annotated[int, typer.Option(min=1, help="Rows that go through the model together.")]
Dtype: TypeAlias = Annotated[str | None, typer.Option(help="float32, bfloat16, ...; default: float32 on a CPU.")]
Report: TypeAlias = Annotated[bool, typer.Option(help="Write report.html.")]
TrustRemoteCode: TypeAlias = Annotated[bool, typer.Option(help="Run code that comes with the model.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from faithprobe import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def _option(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise typer.BadParameter(f"{text!r} is not of the form name=value, such as steps=3")
    try:
        return name.replace("-", "_"), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.replace("-", "_"), value


def _numbers(text: str, example: str = "layers such as 9,19,29") -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of {example}") from None


def _names(given: list[str] | None) -> list[str] | None:
    """Names that were given one by one, or several with commas between them."""
    return None if given is None else [name.strip() for text in given for name in text.split(",") if name.strip()]


@app.command()
def audit(
    model: Model,
    task: TaskName,
    out: Annotated[Path, typer.Option(help="Folder for the results; an interrupted audit goes on there.")],
    problems: Annotated[int, typer.Option(min=1, help="Problems that the model answers.")] = 50,
    seed: Annotated[int, typer.Option(help="Of problems, replacements, partners and splits.")] = 0,
    probe_problems: Annotated[
        int, typer.Option(min=0, help="Problems that probes are fitted on; under 250, D and the score are unscored.")
    ] = 1000,
    replacements: Annotated[int, typer.Option(min=1, help="Per stated value; a score needs 3.")] = 4,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Also run a published metric, such as early-answering (docs/usage/published_metrics.md); repeatable."
        ),
    ] = None,
    battery: Annotated[bool, typer.Option("--battery", help="Also run all published metrics.")] = False,
    task_option: TaskOption = None,
    layers: Layers = None,
    chat: Chat = False,
    temperature: Temperature = 0.0,
    batch_size: BatchSize = 32,
    dtype: Dtype = None,
    report: Report = True,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Audit a model on a family of problems; writes tables, chains and a report, and prints what was found."""
    from faithprobe.audit import audit as run_audit
    from faithprobe.metrics.published import PUBLISHED, published
    from faithprobe.models import load_model
    from faithprobe.tasks import load_task

    also = published([*(metric or []), *(PUBLISHED if battery else [])])
    chosen = load_task(task, **dict(map(_option, task_option or [])))
    found = run_audit(
        load_model(model, dtype=dtype, trust_remote_code=trust_remote_code),
        chosen,
        problems=problems,
        seed=seed,
        probe_problems=probe_problems,
        replacements=replacements,
        layers=None if layers is None else _numbers(layers),
        chat=chat,
        temperature=temperature,
        batch_size=batch_size,
        out=out,
        metrics=also,
        command="faithprobe " + shlex.join(sys.argv[1:]),
    )
    if report:
        found.report(out / "report.html")
    print_summary(found.summary(), out, report, found.advice())


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of an audit: what is compared with, such as before training.")],
    b: Annotated[Path, typer.Argument(help="Folder of another audit of the same task: what changed.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the tables and the page; default: only print.")] = None,
    names: Annotated[str | None, typer.Option(help="What to call them, such as before,after; default: models.")] = None,
    report: Annotated[bool, typer.Option(help="Write comparison.html.")] = True,
) -> None:
    """Say what changed from audit A to audit B, with intervals: paired by problem where both asked the same ones."""
    import warnings

    from faithprobe.compare import compare as run_compare

    called = _names([names]) if names else None
    if called is not None and len(called) != 2:
        raise typer.BadParameter(f"{names!r} is not two names with a comma between them, such as before,after")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its notes are printed below
        found = run_compare(
            a,
            b,
            names=None if called is None else (called[0], called[1]),
            out=out,
            command="faithprobe " + shlex.join(sys.argv[1:]),
        )
    if out is not None and report:
        found.report(out / "comparison.html")
    print_comparison(found, out, report)


@app.command()
def probe(
    model: Model,
    task: TaskName,
    out: Annotated[Path, typer.Option(help="Folder for the results; an interrupted run goes on there.")],
    problems: Annotated[int, typer.Option(min=1, help="That are read; memory does not grow with them.")] = 2000,
    layers: Layers = None,
    responses: Annotated[
        str, typer.Option(help="generated, the model's own; or reference, teacher-forced and several times as fast.")
    ] = "generated",
    seed: Annotated[int, typer.Option(help="Of problems, splits, shuffles and the random twin.")] = 0,
    moduli: Annotated[
        str | None, typer.Option(help="Residues to read besides parity and last digit, such as 3,9.")
    ] = None,
    shuffles: Annotated[int, typer.Option(min=0, help="Shuffled labels for each target.")] = 20,
    task_option: TaskOption = None,
    chat: Chat = False,
    temperature: Temperature = 0.0,
    batch_size: BatchSize = 32,
    dtype: Dtype = None,
    report: Report = True,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Fit probes with all their controls while the model answers; several processes: torchrun -m faithprobe probe."""
    from faithprobe.models import load_model
    from faithprobe.probe import probe as run_probe
    from faithprobe.tasks import load_task

    chosen = load_task(task, **dict(map(_option, task_option or [])))
    found = run_probe(
        load_model(model, dtype=dtype, device=_device_of_this_process(), trust_remote_code=trust_remote_code),
        chosen,
        problems=problems,
        seed=seed,
        layers=None if layers is None else _numbers(layers),
        responses=responses,  # type: ignore[arg-type]  # checked there
        moduli=() if moduli is None else _numbers(moduli, "moduli such as 3,9"),
        shuffles=shuffles,
        chat=chat,
        temperature=temperature,
        batch_size=batch_size,
        out=out,
        command="faithprobe " + shlex.join(sys.argv[1:]),
    )
    if os.environ.get("RANK", "0") != "0":
        return  # the first process speaks for all
    if report:
        found.report(out / "report.html")
    print_probes(found, out, report)


def _device_of_this_process() -> str | None:
    """Under `torchrun` each process has a GPU of its own, where there are enough; None leaves the choice."""
    if "LOCAL_RANK" not in os.environ:
        return None
    import torch

    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}" if torch.cuda.is_available() else None


@app.command()
def validate(
    out: Annotated[Path, typer.Option(help="Folder for the results; an interrupted validation goes on there.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics", "--metric", help="Published metrics to score beside ours, by comma. Default: three cheap ones."
        ),
    ] = None,
    organisms: Annotated[
        list[str] | None,
        typer.Option("--organisms", "--organism", help="[NETWORK/]FAMILY[@SEED], by comma. Default: all."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="One seed of seven families: under two minutes.")] = False,
    problems: Annotated[int, typer.Option(min=1, help="That each organism answers.")] = 12,
    probe_problems: Annotated[int, typer.Option(min=0, help="That probes are fitted on, by organism.")] = 350,
    replacements: Annotated[int, typer.Option(min=1, help="Per stated value; a score needs 3.")] = 4,
    seed: Annotated[int, typer.Option(help="Of problems, replacements, partners and splits.")] = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core.")] = None,
    masked: Annotated[
        list[str] | None,
        typer.Option(help="A real model to measure under masks as well, such as smollm2: takes minutes; repeatable."),
    ] = None,
    masked_problems: Annotated[int, typer.Option(min=1, help="That each masked model answers.")] = 4,
    report: Annotated[bool, typer.Option(help="Write validation.html.")] = True,
) -> None:
    """Score every metric on networks whose faithfulness is known by construction."""
    from faithprobe.validate import validate as run_validation

    found = run_validation(
        metrics=_names(metrics),
        organisms=_names(organisms),
        quick=quick,
        problems=problems,
        probe_problems=probe_problems,
        replacements=replacements,
        seed=seed,
        jobs=jobs,
        masked=masked or (),
        masked_problems=masked_problems,
        out=out,
        command="faithprobe " + shlex.join(sys.argv[1:]),
    )
    if report:
        found.report(out / "validation.html")
    print_validation(found, out, report)


@app.command()
def organisms(
    out: Annotated[Path, typer.Option(help="Folder for one audit of each.")],
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Two or more organisms; default: faithful and post-hoc.")
    ] = None,
    problems: Annotated[int, typer.Option(min=1, help="That each answers.")] = 8,
    seed: Annotated[int, typer.Option(help="Of problems, replacements, partners and splits.")] = 0,
) -> None:
    """Show one chain that several networks print alike, byte for byte, and tell by audit which of them means it."""
    from faithprobe.audit import audit as run_audit
    from faithprobe.organisms.networks import OrganismName

    found = {}
    for name in names or ["faithful", "post-hoc"]:
        organism = OrganismName.parse(name)
        found[name] = run_audit(
            f"organism:{name}",
            organism.task(split="held-out"),
            problems=problems,
            seed=seed,
            probe_problems=400,
            out=out / name.replace("/", "-"),
            command=f"faithprobe audit --model organism:{name} --task organism",
        )
        found[name].report(out / name.replace("/", "-") / "report.html")
    print_told_apart(found, out)


@app.command()
def models() -> None:
    """List the models that are known by name."""
    from faithprobe.models import model_names

    for name, summary in model_names().items():
        print(f"{name:24} {summary}")
    print("...or a folder, a .gguf file, or a Hugging Face id (owner/name)")


@app.command()
def tasks() -> None:
    """List the families of problems."""
    from faithprobe.tasks import task_class, task_names

    for name in task_names():
        print(f"{name:16} {task_class(name).summary}")


def main() -> None:
    """Entry point: errors that faithprobe raises on purpose are one line, without a traceback."""
    try:
        app()
    except FaithprobeError as error:
        print(f"faithprobe: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        words = str(error).strip().partition("\n")[0]
        print(
            f"faithprobe: out of memory ({words}). Try a smaller --batch-size, --dtype bfloat16, fewer --layers or "
            "fewer --probe-problems; what is finished is kept in --out",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:
            print("stopped; what is finished is kept in --out, and the same command goes on there", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
