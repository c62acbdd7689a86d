"""The tables that the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faithprobe.audit import Audit
    from faithprobe.results.comparison import Comparison
    from faithprobe.results.probes import Probes
    from faithprobe.validate import Validation


def print_summary(summary: Mapping[str, Any], out: Path, report: bool, notes: Sequence[str] = ()) -> None:
    from rich.console import Console
    from rich.table import Table

    def number(found: Mapping[str, Any] | None) -> str:
        if not found or found.get("value") is None:
            return "not measured"
        return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}], n = {found['n']}"

    table = Table("measure", "value [95% interval]", title="What was found")
    table.add_row("accuracy with the chain", number(summary["accuracy"]["with_chain"]))
    table.add_row("accuracy without it", number(summary["accuracy"]["without_chain"]))
    table.add_row("answer is the last stated value", number(summary["answer_is_last_stated"]))
    table.add_row("used (U), non-final steps", number(summary["used"]))
    table.add_row("next step restates the swap (U_read)", number(summary["used_read"]))
    table.add_row("computed (D), non-final steps", number(summary["computed"]))
    mediation = summary.get("mediation") or {}
    table.add_row("total effect of the prompt", number(mediation.get("total")))
    table.add_row("direct, past the chain", number(mediation.get("direct")))
    table.add_row("indirect, through the chain", number(mediation.get("indirect")))
    table.add_row("their interaction (no sum)", number(mediation.get("interaction")))
    table.add_row("chain score", number(summary["chain_score"]))
    for verdict, share in sorted(summary["verdicts"].items(), key=lambda item: -item[1]["share"]):
        interval = f"{share['share']:.2f} [{share['low']:.2f}, {share['high']:.2f}], {share['count']} steps"
        table.add_row(f"verdict: {verdict}", interval)
    Console().print(table)
    for note in notes:
        print(f"note: {note}")
    print(f"tables and chains: {out}")
    if report:
        print(f"report: {(out / 'report.html').resolve()}")


def print_told_apart(found: Mapping[str, Audit], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    texts = {name: {chain["chain"]: chain["text"] for chain in audit.chains} for name, audit in found.items()}
    first, *others = texts.values()
    alike = [chain for chain, text in first.items() if all(other.get(chain) == text for other in others)]
    if not alike:
        print("these networks print no chain alike: name organisms of one network, such as faithful and post-hoc")
        return
    shown = alike[0]
    table = Table("network", "step", "stated", "used (U)", "computed (D)", "when", "verdict")
    for name, audit in found.items():
        for step in audit.steps[audit.steps["chain"] == shown].to_dict("records"):
            numbers = [f"{step[key]:.2f}" if step[key] == step[key] else "unscored" for key in ("used", "computed")]
            table.add_row(name, step["step"], step["stated"], *numbers, step["when"] or "", step["verdict"])
        table.add_section()
    print(f"{len(alike)} of {len(first)} chains are printed alike by {' and '.join(found)}; the first of them:")
    print(f"  {shown} = {first[shown].strip()}")
    Console().print(table)
    print(f"reports: {', '.join(str(out / name.replace('/', '-') / 'report.html') for name in found)}")


def print_comparison(found: Comparison, out: Path | None, report: bool) -> None:
    """Every measure in 80 columns; a star where a difference is beyond zero after the correction."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first, second = found.info["names"]
    print(f"A = {first}\nB = {second}")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="What changed: B - A [95% interval]")
    for head in ("measure", "A", "B", "B - A", "n"):
        table.add_column(head, justify="left" if head == "measure" else "right", overflow="fold")
    for _, rows in found.differences.groupby("group", sort=False):
        for row in rows.to_dict("records"):
            if row["a"] != row["a"] and row["b"] != row["b"]:
                continue  # measured in neither
            difference = row["missing"]
            if not difference:
                star = " *" if row["beyond_zero"] else ""
                difference = f"{_number(row['difference'])} [{_number(row['low'])}, {_number(row['high'])}]{star}"
            sides = [_number(row[key]) if row[key] == row[key] else "-" for key in "ab"]
            count = str(row["n_a"]) if row["n_a"] == row["n_b"] else f"{row['n_a']}, {row['n_b']}"
            table.add_row(*map(Text, (row["words"], *sides, difference, count)))
        table.add_section()
    Console().print(table)
    counts = found.info["problems"]
    if found.info["paired"]:
        print(
            f"paired by problem: {counts['both']} problems were asked of both ({counts['a']} of A, {counts['b']} of B)"
        )
        moved = found.summary()
        print(f"verdicts that changed: {moved['changed_verdicts']} of {moved['steps']} steps that both chains state")
    print("* beyond zero after Holm's correction for all rows; the intervals are not corrected")
    for note in found.info["notes"]:
        print(f"note: {note}")
    if out is not None:
        print(f"tables: {out}")
        if report:
            print(f"page: {(out / 'comparison.html').resolve()}")


def print_probes(found: Probes, out: Path, report: bool) -> None:
    """Every step, position and target at its chosen layer, two lines each: 80 columns are enough."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(
        *("step\nposition", "target\nlayer", "score", "largest\ncontrol", "beyond it", "accuracy\n(selectivity)"),
        title="Known of unseen operands [95% interval], in bits; of value: R2",
        box=SIMPLE_HEAD,
        padding=0,
    )
    kept = found.sources[found.sources["chosen"]]
    for _, of_place in kept.groupby(["step", "position"], sort=False):
        for (step, position, target), rows in of_place.groupby(["step", "position", "target"], sort=False):
            by_source = rows.set_index("source")
            own, beyond = by_source.loc["activations"], by_source.loc["beyond control"]
            control = beyond["control"]
            table.add_row(
                f"{step}\n{position}",
                f"{target}\nlayer {own['layer']}",
                _with_interval(own),
                control if control == "none" else f"{control}\n{_number(by_source.loc[control, 'score'])}",
                _with_interval(beyond),
                "" if own["measure"] == "R2" else f"{_number(own['accuracy'])}\n({_number(beyond['accuracy'])})",
            )
        table.add_section()
    Console().print(table)
    for place, reason in found.info["unscored"].items():
        print(f"{place} is unscored: {reason}")
    print(f"probes and tables: {out}")
    if report:
        print(f"report: {(out / 'report.html').resolve()}")


def _with_interval(row: Any) -> str:
    return f"{_number(row['score'])}\n[{_number(row['low'])}, {_number(row['high'])}]"


def _number(value: float) -> str:
    """Never -0.00."""
    return f"{round(value, 2) + 0.0:.2f}"


def print_validation(found: Validation, out: Path, report: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from faithprobe.plots.validation_masked import masked_lines

    targets = {"step_used": "used", "step_computed": "in the chain", "step_faithful": "faithful", "chain": "chain"}
    metrics = found.results["metrics"]
    table = Table("metric", *targets.values(), title="AUROC [95% interval] where the text is the same")

    def cell(name: str, target: str) -> str:
        area = metrics[name].get(target) or {}
        if area.get("auroc") is None:
            return ""
        value, low, high = (f"{area[key]:.2f}".removeprefix("0") for key in ("auroc", "low", "high"))
        return f"{value}\n[{low}, {high}]"

    def rank(name: str) -> float:
        return -((metrics[name].get("step_faithful") or {}).get("auroc") or 0.0)

    for name in sorted(metrics, key=rank):
        table.add_row(name, *(cell(name, target) for target in targets))
    Console().print(table)
    print(f"chosen as the score of a step: {found.results['chosen']['step']}")
    for line in masked_lines(found.results["masked"]):
        print(line)
    print("on organisms, not on your model: 1.0 here means wired correctly, not yet sensitive")
    print(f"numbers: {out / 'validation.json'}")
    if report:
        print(f"report: {(out / 'validation.html').resolve()}")
