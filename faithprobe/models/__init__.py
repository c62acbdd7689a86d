"""Language models and their named sites. Importing this loads neither torch nor transformers."""

from __future__ import annotations

from faithprobe.models.language_model import LanguageModel
from faithprobe.models.load import load_model
from faithprobe.models.registry import model_names, register_model

__all__ = ["LanguageModel", "load_model", "model_names", "register_model"]
