"""`Probes`: what a probe run leaves: the probes themselves, and how much each of them and of its controls knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from faithprobe.chains.store import Trace
from faithprobe.errors import StoreError, UnknownNameError
from faithprobe.files import replacing, write_text
from faithprobe.metrics.items import label
from faithprobe.models.language_model import LanguageModel
from faithprobe.probes.closed_form import discriminants
from faithprobe.probes.columns import REAL, Columns
from faithprobe.probes.held_out import CONTROLS, HeldOut, Reading, chosen
from faithprobe.probes.stream import ACTIVATIONS, Fitted
from faithprobe.results.kinds import held_instead
from faithprobe.scores.probe_tables import POINTWISE, SOURCES
from faithprobe.scores.statistics import clustered_mean

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FORMAT = 1
_FILES = ("config.json", "probes.safetensors", "sources.parquet", "pointwise.parquet")


@runtime_checkable
class Cache(Protocol):
    """An `ActivationCache` of TransformerLens: it holds a mapping and is none."""

    cache_dict: dict[str, Tensor]


@dataclass(frozen=True)
class Probes:
    """Linear probes of a model on a family of problems. Made by `faithprobe.probe`, or loaded from a folder."""

    info: Mapping[str, Any]
    """Model and its fingerprint, task, layers, classes of each target, seeds, versions, the command."""
    weights: Mapping[str, Tensor]
    """`STEP/POSITION/TARGET.coef` [layer, d_model, classes] and `.intercept` [layer, classes]: logits of the classes in
    the order of `info["classes"]`, or the number itself (one column)."""
    sources: pd.DataFrame
    """One row for every target, layer and source of features: `scores.probe_tables.SOURCES`."""
    pointwise: pd.DataFrame
    """One row for every held-out literal at the chosen layer: `scores.probe_tables.POINTWISE`."""

    @property
    def layers(self) -> list[int]:
        return list(self.info["layers"])

    def predict(
        self,
        activations: Float[Tensor, "items d_model"] | np.ndarray | Mapping[str, Tensor] | Cache | Trace,
        *,
        step: str,
        target: str,
        position: str = "predicting",
        layer: int | None = None,
    ) -> np.ndarray:
        """Probabilities (items, classes), or numbers (items,) for the target `value`.

        Args:
            activations: of the residual stream after `layer`, (items, d_model), any device; or by hook name, as a
                `TransformerBridge` caches them (`blocks.3.hook_resid_post` or `blocks.3.hook_out`), already at the
                position; or a trace store, of which all chains are read that have the step there.
            layer: default: the chosen one.

        Raises UnknownNameError for a step, target, position or layer that was not probed.
        """
        name = f"{step}/{position}/{target}"
        if f"{name}.coef" not in self.weights:
            raise UnknownNameError("probe", name, [key.removesuffix(".coef") for key in self.weights if ".coef" in key])
        at = self.chosen(step=step, target=target, position=position) if layer is None else layer
        if at not in self.layers:
            raise UnknownNameError("probed layer", str(at), list(map(str, self.layers)))
        x = _at_layer(activations, at, label(step, position))
        k = self.layers.index(at)
        coef, intercept = self.weights[f"{name}.coef"][k], self.weights[f"{name}.intercept"][k]
        out = x.to("cpu", coef.dtype) @ coef + intercept
        return (out[:, 0] if target == "value" else out.softmax(dim=1)).numpy()

    def chosen(self, *, step: str, target: str, position: str = "predicting") -> int:
        """The layer that training items chose."""
        rows = self.sources[
            (self.sources["step"] == step)
            & (self.sources["target"] == target)
            & (self.sources["position"] == position)
            & self.sources["chosen"]
        ]
        if rows.empty:
            known = sorted({"/".join(key) for key in zip(*(self.sources[c] for c in ("step", "position", "target")))})
            raise UnknownNameError("probe", f"{step}/{position}/{target}", known)
        return int(rows["layer"].iloc[0])

    def figure(self) -> go.Figure:
        """Every step, position and target by layer, beside all controls."""
        from faithprobe.plots.probes import probe_curves

        return probe_curves(self.sources)

    def report(self, path: str | Path) -> Path:
        """One HTML file that opens without a network."""
        from faithprobe.plots.probes import write_probe_report

        return write_probe_report(dict(self.info), self.sources, Path(path))

    def save(self, folder: str | Path) -> Path:
        """Writes safetensors, config and tables; each whole or not at all, the config last."""
        folder = Path(folder)
        with replacing(folder / "probes.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.weights.items()}, temporary)
        for name in ("sources", "pointwise"):
            with replacing(folder / f"{name}.parquet") as temporary:
                getattr(self, name).to_parquet(temporary, index=False)
        write_text(folder / "config.json", json.dumps({"format": _FORMAT, **self.info}, indent=1))
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, model: LanguageModel | None = None) -> Probes:
        """Reads what `save` wrote.

        Raises StoreError where a file is missing or damaged, and, with `model`, where the probes were fitted on another
        one: their numbers would mean nothing there.
        """
        folder = Path(folder)
        try:
            info = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if (written := info.pop("format")) != _FORMAT:
                by = (info.get("versions") or {}).get("faithprobe", "another version")
                raise ValueError(f"written in format {written} by faithprobe {by}, where this one reads {_FORMAT}")
            weights = load_file(folder / "probes.safetensors")
            tables = [pd.read_parquet(folder / name) for name in _FILES[2:]]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise StoreError(
                f"{folder} holds no whole probes ({error}){held_instead(folder, 'probes.safetensors')}; files needed: "
                f"{', '.join(_FILES)}. Run `faithprobe probe` with this folder as --out again: what is finished is kept"
            ) from error
        if model is not None and model.fingerprint != info["fingerprint"]:
            raise StoreError(
                f"the probes in {folder} were fitted on {info['model']} (fingerprint {info['fingerprint']}), not on "
                f"{model.name} ({model.fingerprint}): another model has other directions; fit probes on this one"
            )
        return cls(info, weights, *tables)

    def to_datasets(self) -> Any:
        """The tables as a Hugging Face `DatasetDict` with `sources` and `pointwise`."""
        from faithprobe.results.datasets import dataset_dict

        return dataset_dict({"sources": self.sources, "pointwise": self.pointwise})

    def __repr__(self) -> str:
        n = len([name for name in self.weights if name.endswith(".coef")])
        return f"Probes({self.info['model']!r} on {self.info['task']!r}: {n} probes in {len(self.layers)} layers)"

    def _repr_html_(self) -> str:
        from faithprobe.plots.records import probes_html

        return probes_html(repr(self), self.sources)


def weights_of(fitted: Fitted, columns: Columns, step: str, place: str) -> dict[str, Tensor]:
    """The probes of the activations, as `Probes.weights` names them."""
    found = {}
    fits = fitted.sources[ACTIVATIONS]
    for block in columns.blocks:
        if block.kind != REAL:
            continue
        coefs, intercepts = [], []
        for fit in fits:
            coef, intercept = fit.coef[:, block.columns], fit.intercept[block.columns]
            if block.target.classes:
                direction, offset = discriminants(fit, block.columns)
                coef, intercept = coef @ direction, intercept @ direction + offset
            coefs.append(coef)
            intercepts.append(intercept)
        name = f"{step}/{place}/{block.target.name}"
        found[f"{name}.coef"] = torch.stack(coefs).cpu()
        found[f"{name}.intercept"] = torch.stack(intercepts).cpu()
    return found


def source_rows(
    found: Sequence[Reading], items: HeldOut, *, step: str, place: str, layers: Sequence[int], n_train: int
) -> list[dict[str, Any]]:
    """Rows of the table `sources`."""
    clusters, best = items.clusters, chosen(found)
    rows = []
    for reading in found:
        target = reading.target
        common = {
            "step": step,
            "position": place,
            "target": target.name,
            "measure": "bits" if target.classes else "R2",
            "layer": layers[reading.layer],
            "control": "",
            "entropy": float(reading.surprisal.mean()),
            "chance": reading.chance,
            "n": len(np.unique(clusters)),
            "items": len(clusters),
            "n_train": n_train,
            "chosen": best[target.name] == reading.layer,
        }
        for name in (ACTIVATIONS, *(control for control in CONTROLS if control in reading.sources)):
            gains = reading.sources[name]
            score = clustered_mean(gains.gain, clusters, share=False)
            row = common | {"source": name, "score": score.value, "low": score.low, "high": score.high}
            if target.classes:
                right = clustered_mean(gains.right, clusters, share=True)
                row |= {"accuracy": right.value, "accuracy_low": right.low, "accuracy_high": right.high}
            rows.append(row)
        if len(reading.shuffled):
            low, high = np.quantile(reading.shuffled, [0.025, 0.975])
            rows.append(common | {"source": "shuffled", "score": reading.shuffled.mean(), "low": low, "high": high})
        beyond = reading.beyond
        row = common | {"source": "beyond control", "score": beyond.value, "low": beyond.low, "high": beyond.high}
        row["control"] = reading.control
        if reading.selectivity is not None:
            chosen_by = reading.selectivity
            row |= {"accuracy": chosen_by.value, "accuracy_low": chosen_by.low, "accuracy_high": chosen_by.high}
            task = float(reading.sources[ACTIVATIONS].right.mean()) - chosen_by.value
            rows.append(common | {"source": "control task", "accuracy": task})
        rows.append(row)
    return [{column: row.get(column, np.nan) for column in SOURCES} for row in rows]


def pointwise_rows(
    found: Sequence[Reading], chains: Sequence[str], *, step: str, place: str, layers: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of the table `pointwise`, for class targets."""
    best = chosen(found)
    rows = []
    for reading in found:
        if not reading.target.classes or best[reading.target.name] != reading.layer:
            continue
        columns = (reading.sources[ACTIVATIONS].gain, reading.control_gain, reading.surprisal, reading.pointwise)
        for chain, *numbers in zip(chains, *(column.tolist() for column in columns), strict=True):
            values = (chain, step, place, reading.target.name, layers[reading.layer], *numbers)
            rows.append(dict(zip(POINTWISE, values, strict=True)))
    return rows


def _at_layer(activations: Any, layer: int, where: str) -> Tensor:
    if isinstance(activations, Trace):
        return activations.gather(f"blocks.{layer}.hook_resid_post", where)[1]
    if isinstance(activations, Mapping | Cache):
        names = (f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_out")
        held: Mapping[str, Any] = activations.cache_dict if isinstance(activations, Cache) else activations
        found = next((held[name] for name in names if name in held), None)
        if found is None:
            raise UnknownNameError("cached activation", names[0], list(held))
        return torch.as_tensor(found).detach()
    return torch.as_tensor(activations).detach()
