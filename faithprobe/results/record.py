"""`Audit`: everything that an audit found, as tables and files that others read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from faithprobe.chains.records import Chain
from faithprobe.errors import StoreError, UnknownNameError
from faithprobe.files import replacing, write_text
from faithprobe.markup import Shown
from faithprobe.results.kinds import held_instead
from faithprobe.results.verdicts import frame, schema
from faithprobe.scores.advice import advice
from faithprobe.scores.tables import TABLES
from faithprobe.tasks.graph import show_value

_PARQUET = tuple(TABLES)
_LATER = {"mediation"}
"""Tables with a summary of their own name that audits saved by earlier versions do not have."""
_NOT_DRAWN = {"evidence", "mediation"}
"""Tables that the report does not read: it has the summary of them, or nothing."""


def chain_view(chain: Chain) -> dict[str, Any]:
    """One line of `chains.jsonl`: text, token ids, spans (values: characters of the text and token positions)."""
    shift = len(chain.question_text)

    def chars(span: tuple[int, int]) -> list[int]:
        first, last = span[0] - chain.question_start, span[1] - 1 - chain.question_start
        return [chain.offsets[first][0] - shift, chain.offsets[last][1] - shift]

    return {
        "chain": chain.id,
        "prompt": chain.problem.question,
        "text": chain.text,
        "tokens": list(chain.tokens),
        "n_prompt": chain.n_prompt,
        "answer": None if chain.answer is None else show_value(chain.answer),
        "true_answer": show_value(chain.problem.answer),
        "correct": chain.correct,
        "finished": chain.finished,
        "values": [
            {
                "step": literal.step,
                "start": literal.chars[0],
                "end": literal.chars[1],
                "span": list(literal.span),
                "overruled": literal.overruled,
                "misquoted": literal.misquoted,
                "mentions": [chars(mention) for mention in literal.mentions],
            }
            for literal in chain.stated
        ],
        "unlocated": dict(chain.unlocated),
    }


@dataclass(frozen=True)
class Audit:
    """What an audit found. Made by `faithprobe.audit`, or loaded from the folder that it was saved to."""

    info: Mapping[str, Any]
    """Model, task and its options, number of problems, seed, versions, the command that runs it again."""
    results: Mapping[str, Any]
    """What `summary()` returns."""
    tables: Mapping[str, pd.DataFrame]
    """By name, those of `faithprobe.scores.tables.TABLES`, where their columns are described."""
    chains: Sequence[Mapping[str, Any]]
    """One mapping a chain: text, token ids, the spans of its values."""

    @property
    def steps(self) -> pd.DataFrame:
        """One row per step and chain: the contract of `steps.parquet`."""
        return self.tables["steps"]

    @property
    def decodability(self) -> pd.DataFrame:
        return self.tables["decodability"]

    @property
    def lead(self) -> pd.DataFrame:
        return self.tables["lead"]

    @property
    def bypass(self) -> pd.DataFrame:
        return self.tables["bypass"]

    @property
    def mediation(self) -> pd.DataFrame:
        return self.tables["mediation"]

    @property
    def outcomes(self) -> pd.DataFrame:
        return self.tables["outcomes"]

    def summary(self) -> dict[str, Any]:
        """Accuracy with and without the chain, shares of the verdicts with intervals, chain scores, unscored by
        reason."""
        return dict(self.results)

    def advice(self) -> list[str]:
        """What stands in the way of these numbers, and the option to change; empty where nothing does."""
        return advice(self.results, self.info, self.chains)

    def save(self, folder: str | Path) -> Path:
        """Writes `audit.json`, one parquet file a table, and `chains.jsonl`; each whole or not at all."""
        folder = Path(folder)
        for name in _PARQUET:
            with replacing(folder / f"{name}.parquet") as temporary:
                self.tables[name].to_parquet(temporary, index=False, schema=schema(name))
        lines = "".join(json.dumps(chain, ensure_ascii=False) + "\n" for chain in self.chains)
        write_text(folder / "chains.jsonl", lines)
        write_text(folder / "audit.json", json.dumps({**self.info, "summary": self.results}, indent=1))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Audit:
        """Reads what `save` wrote; raises StoreError naming the file that is missing or damaged."""
        path = folder = Path(folder)
        tables: dict[str, pd.DataFrame] = {}
        try:
            path = folder / "audit.json"
            info = json.loads(path.read_text(encoding="utf-8"))
            results = info.pop("summary")
            for name in _PARQUET:
                path = folder / f"{name}.parquet"
                early = name in _LATER and name not in results and not path.exists()
                tables[name] = frame(name, []) if early else pd.read_parquet(path)
            path = folder / "chains.jsonl"
            # not splitlines: a model may write other line breaks, which JSON leaves as they are
            chains = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            if len(chains) != results.get("problems", len(chains)):
                raise ValueError(f"{len(chains)} of {results['problems']} chains")
        except (OSError, ValueError, KeyError) as error:
            again = "; run the same command again: what is finished is kept, and the files are written anew"
            raise StoreError(
                f"{folder} holds no whole audit: {path.name} is missing or damaged ({error})"
                f"{held_instead(folder, path.name) or again}"
            ) from error
        return cls(info, results, tables, chains)

    def report(self, path: str | Path) -> Path:
        """Writes the report: one HTML file that opens without a network."""
        from faithprobe.plots.report import ReportInput, write_report
        from faithprobe.results.published import published_summary

        view = ReportInput(
            info=dict(self.info),
            summary={**self.summary(), "published": published_summary(self.tables["evidence"])},
            chains=[dict(chain) for chain in self.chains],
            **{name: self.tables[name] for name in TABLES if name not in _NOT_DRAWN},
        )
        return write_report(view, Path(path))

    def to_step_labels(self, path: str | Path) -> Path:
        """Writes step labels in the shape of PRM800K (Lightman et al. 2023, arXiv 2305.20050), one chain a line.

        A step is the text up to and with one stated value; its rating is 1 where the score is at least .5, -1 where
        it is lower, 0 where it is unscored or unneeded. The evidence is internal: no human rated anything, so `score`
        and `verdict` stand beside each rating.
        """
        by_place = {(row["chain"], row["position"]): row for row in self.steps.to_dict("records")}
        lines = []
        for chain in self.chains:
            steps, begin = [], 0
            for position, value in sorted(enumerate(chain["values"]), key=lambda item: item[1]["end"]):
                row = by_place.get((chain["chain"], position), {})
                score = row.get("score")
                known = score is not None and not pd.isna(score)
                rating = 0 if not known else (1 if score >= 0.5 else -1)
                text = chain["text"][begin : value["end"]].strip()
                begin = value["end"]
                completion = {
                    "text": text,
                    "rating": rating,
                    "score": float(score) if known else None,
                    "verdict": row.get("verdict"),
                }
                steps.append({"completions": [completion], "chosen_completion": 0, "human_completion": None})
            question = {"problem": chain["prompt"], "ground_truth_answer": chain["true_answer"]}
            reason = "solution" if chain["correct"] else "found_error"
            lines.append(json.dumps({"question": question, "label": {"steps": steps, "finish_reason": reason}}) + "\n")
        return write_text(Path(path), "".join(lines))

    def to_datasets(self) -> Any:
        """Everything as a Hugging Face `DatasetDict`: one dataset for each table, under its name, and `chains`.

        In memory. Row i of one says nothing about row i of another: they join on `chain` and `step`.
        """
        from faithprobe.results.datasets import chains_table, dataset_dict

        chains, chains_schema = chains_table(self.chains)
        schemas = {name: schema(name) for name in self.tables if name in TABLES}
        return dataset_dict({**self.tables, "chains": chains}, schemas={**schemas, "chains": chains_schema})

    def show(self, chain: int | str) -> Shown:
        """One chain, its values coloured by their verdicts, and the numbers behind them: by place in `chains`, or by
        id. At the end of a cell it shows itself.

        Raises UnknownNameError where the audit has no such chain.
        """
        from faithprobe.plots.records import audited_chain

        return audited_chain(self._chain(chain), self.steps)

    def _chain(self, wanted: int | str) -> Mapping[str, Any]:
        if isinstance(wanted, int) and -len(self.chains) <= wanted < len(self.chains):
            return self.chains[wanted]
        found = next((chain for chain in self.chains if chain["chain"] == wanted), None)
        if found is None:
            known = [str(chain["chain"]) for chain in self.chains[:8]]
            raise UnknownNameError(f"chain of this audit (0 to {len(self.chains) - 1}, or an id)", str(wanted), known)
        return found

    def _repr_html_(self) -> str:
        from faithprobe.plots.records import audit_html

        return audit_html(repr(self), self.info, self.results, self.steps, self.chains)

    def __repr__(self) -> str:
        info = self.info
        return f"Audit({info['model']!r} on {info['task']!r}: {len(self.chains)} chains, {len(self.steps)} steps)"
