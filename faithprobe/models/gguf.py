"""GGUF files as ordinary Hugging Face models: dequantised once, kept as a folder of safetensors.

Reading a GGUF file takes 20-40 s, the folder .3 s. Weights are kept in bfloat16, which holds 4- and 5-bit weights to
three digits; loading them as float32 afterwards adds no rounding.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from faithprobe.errors import ModelError


def cache_folder() -> Path:
    """Where converted models are kept: `$FAITHPROBE_CACHE`, else `~/.cache/faithprobe`."""
    return Path(os.environ.get("FAITHPROBE_CACHE") or Path.home() / ".cache" / "faithprobe").expanduser()


def converted(file: Path) -> Path:
    """The folder with the model and the tokenizer of a GGUF file; converts it at the first call.

    The folder is named after the file and its contents, so a changed file is converted again. It appears under its
    name only when it is complete, also when two processes convert at once.

    Raises ModelError when the `gguf` package is missing, or the file cannot be read.
    """
    target = cache_folder() / f"{file.stem}-{_content_hash(file)}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    except OSError as error:
        raise ModelError(
            f"cannot write to {target.parent} ({error}); set FAITHPROBE_CACHE to a folder that can be written"
        ) from error
    try:
        _convert(file, work)
        try:
            os.replace(work, target)
        except OSError:
            # Another process was first, and renaming onto a full folder fails: its result is as good as ours.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        quantised = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    except ImportError as error:
        raise ModelError(f"reading {file} needs the gguf package: pip install gguf ({error})") from error
    except Exception as error:  # a damaged file raises whatever the reader stumbles over, struct.error for one
        raise ModelError(
            f"{file} cannot be read as a GGUF model: {error}. It has {file.stat().st_size:,} bytes: where that is less "
            "than where you have it from, download it again; where transformers does not know the architecture, take "
            "the model's folder with safetensors instead"
        ) from error
    # transformers still calls the model quantised and refuses to save it, so the weights move to a fresh one.
    config = copy.deepcopy(quantised.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = copy.deepcopy(quantised.generation_config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _content_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:12]
