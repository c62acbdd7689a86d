"""The randomly initialised twin of a model: same architecture, same tokenizer, no training. A control for probes."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from faithprobe.models.language_model import LanguageModel
from faithprobe.models.sites import Sites, is_bridge


def random_twin(model: LanguageModel, *, seed: int = 0) -> LanguageModel:
    """A model of the same configuration with fresh weights, drawn as its architecture draws them.

    The caller's random state is left alone.
    """
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.hf.config)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        twin = AutoModelForCausalLM.from_config(config) if is_bridge(model.hf) else type(model.hf)(config)
    twin = twin.to(device=model.device, dtype=model.dtype).eval()
    return replace(model, hf=twin, sites=Sites.of(twin), name=f"{model.name} (random twin)", fingerprint=f"twin-{seed}")
