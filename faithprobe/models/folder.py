"""Folders that should hold a Hugging Face model: what is missing is said before transformers trips over it."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path

from faithprobe.errors import ModelError

_TOKENIZER = ("*token*", "*vocab*", "*.model", "*.tiktoken", "*.py")
"""Files of which any tokenizer has one."""


def no_folder(folder: Path) -> ModelError:
    """For a path where nothing is: the names beside it that are near."""
    here = folder.absolute().parent
    try:
        beside = [path.name for path in here.iterdir() if path.is_dir() or path.suffix == ".gguf"]
    except OSError:
        return ModelError(f"there is no folder {folder}, and none called {here} either")
    near = [str(folder.with_name(name)) for name in get_close_matches(folder.name, beside, n=3, cutoff=0.4)]
    meant = f"; did you mean {' or '.join(near)}?" if near else f" (looked in {here})"
    return ModelError(f"there is no {'file' if folder.suffix == '.gguf' else 'folder'} {folder}{meant}")


def check_folder(folder: Path, *, with_tokenizer: bool = True) -> None:
    """Raises ModelError for a folder without a model, and refuses pickled weights."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json, so it is no Hugging Face model; {_instead(folder)}")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{folder / 'config.json'} is no JSON ({error}): it is cut or changed, copy it again"
        ) from error
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
        if pickled:
            raise ModelError(
                f"{folder} holds its weights only as {pickled[0]}: a pickle can run code when it is read, so "
                "faithprobe loads safetensors only. Load it yourself, if you trust it, and save_pretrained it again; "
                "or pass the loaded model to load_model"
            )
        raise ModelError(
            f"{folder} holds no *.safetensors file, so there are no weights; copy or download them there as well, or "
            "save_pretrained the model again"
        )
    if with_tokenizer and not any(found for pattern in _TOKENIZER for found in folder.glob(pattern)):
        raise ModelError(
            f"no tokenizer could be loaded from {folder}, which holds none; copy tokenizer.json and "
            "tokenizer_config.json there from the model that it was trained from, or pass one: "
            "load_model(source, tokenizer)"
        )


def _instead(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            "it is a PEFT adapter. Merge it into its model and save that: "
            "AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(other); "
            "or pass the loaded PeftModel to load_model"
        )
    below = sorted(path.parent for path in folder.glob("*/config.json")) or sorted(folder.glob("*.gguf"))
    if below:
        shown = ", ".join(map(str, below[:3])) + (", ..." if len(below) > 3 else "")
        return f"name what is in it: {shown}"
    return "name the folder that save_pretrained wrote to"
