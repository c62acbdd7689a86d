"""Tensors and what goes with them in one file that is whole or not there: what an interrupted run goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from faithprobe.errors import StoreError
from faithprobe.files import replacing


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> None:
    """`rest` is whatever JSON can hold."""
    held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(held, temporary, {"rest": json.dumps(rest)})


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `write_checkpoint` wrote; raises StoreError where the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["rest"])  # noqa: SIM118
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete it, and the same command reads the problems again"
        ) from error
