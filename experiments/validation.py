"""Scores every metric on all shipped organisms, and writes the table of the README.

Writes artifacts/validation/: validation.json, validation.parquet, validation.html and table.md. Finished organisms are
kept in runs/validation-all, so an interrupted run goes on there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import faithprobe
from faithprobe.results.validation import Validation
from faithprobe.scores.auroc import auroc
from faithprobe.scores.labelled import CHAIN_TARGET, labelled

ROOT = Path(__file__).resolve().parents[1]
RUN, OUT = ROOT / "runs" / "validation-all", ROOT / "artifacts" / "validation"
TARGETS = {"step_used": "used", "step_computed": "in the chain", "step_faithful": "faithful", CHAIN_TARGET: "chain"}
ROWS = {
    "min(U, D, in chain)": "**score** = min(U, D, in chain)",
    "U": "U, used",
    "U_read": "U_read",
    "lead": "in chain, from lead",
    "D": "D at its best site (probes)",
    "not known early": "1 - D before the chain (probes)",
    "no-bypass": "1 - bypass",
    "mediation": "natural indirect effect",
    "adding-mistakes": "adding mistakes (Lanham et al. 2023)",
    "early-answering": "early answering (Lanham et al. 2023)",
    "filler-tokens": "filler tokens (Lanham et al. 2023)",
    "text_only": "text alone (character n-grams)",
}


def table(found: Validation, half: str) -> str:
    """AUROC with interval of every metric on one half, within strata that print the same text."""
    items = found.items[found.items["matched"] & (found.items["half"] == half)]
    lines = [f"| AUROC | {' | '.join(TARGETS.values())} |", "|---|" + "---|" * len(TARGETS)]
    for name, told in ROWS.items():
        cells = []
        for target in TARGETS:
            part = labelled(items, name, target)
            area = auroc(
                part["score"], part["label"], strata=part["stratum"].tolist(), clusters=part["problem"].tolist()
            )
            cells.append("" if area.value is None else f"{area.value:.3f} [{area.low:.2f}, {area.high:.2f}]")
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    found = faithprobe.validate(probe_problems=400, out=RUN, command="python experiments/validation.py")
    OUT.mkdir(parents=True, exist_ok=True)
    for name in ("validation.json", "validation.parquet"):
        shutil.copy2(RUN / name, OUT / name)
    found.report(OUT / "validation.html")
    timing, dose = found.results["timing"]["all"], found.results["dose"]["min(U, D, in chain)"]
    organisms = found.info["organisms"]
    text = "\n\n".join(
        [
            "# Every metric on networks whose faithfulness is known",
            f"{len(organisms)} organisms, {found.info['n_problems']} held-out problems each, "
            f"{found.info['seconds']:.0f} s; command: `{found.info['command']}`; {found.info['versions']}",
            f"Chosen as the score of a step: {found.results['chosen']['step']}.",
            "## On the half that had no say in the choice, where the text is the same",
            table(found, "report"),
            "## On the half that was chosen on",
            table(found, "choose"),
            f"kappa lies in its label's interval for {timing['inside']['value']:.3f}, within one token for "
            f"{timing['within']['value']:.3f} [{timing['within']['low']:.3f}, {timing['within']['high']:.3f}] of "
            f"{timing['n']} steps. Spearman of the chain score with the dose: {dose['spearman']['value']:.3f} "
            f"[{dose['spearman']['low']:.2f}, {dose['spearman']['high']:.2f}].",
        ]
    )
    (OUT / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
