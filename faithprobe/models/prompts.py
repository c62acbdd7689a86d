"""Where a text becomes the tokens of a prompt, and which tokens end what a model says."""

from __future__ import annotations

from faithprobe.errors import ModelError
from faithprobe.models.language_model import LanguageModel


def end_tokens(model: LanguageModel) -> list[int]:
    """Token ids after which the model says nothing more."""
    configured = getattr(model.hf.generation_config, "eos_token_id", None)
    if configured is None:
        configured = model.tokenizer.eos_token_id
    if configured is None:
        return []
    return list(configured) if isinstance(configured, list | tuple) else [int(configured)]


def encode(model: LanguageModel, text: str) -> tuple[int, ...]:
    """Token ids of a plain prompt, with the special tokens that the tokenizer puts in front of a text.

    Raises TaskError where the model is an organism and the prompt is outside its grammar.
    """
    ids = model.tokenizer(text, add_special_tokens=True)["input_ids"]
    ends = set(end_tokens(model))
    while len(ids) > 1 and ids[-1] in ends and not text.endswith(model.tokenizer.decode(ids[-1:])):
        ids = ids[:-1]  # some tokenizers close every text; a prompt must stay open
    if hasattr(model.hf, "check_prompt"):  # an organism, whose positions mean something
        model.hf.check_prompt(ids)
    return tuple(ids)


def encode_chat(model: LanguageModel, messages: list[dict[str, str]]) -> tuple[int, ...]:
    """Token ids of chat turns, ending where the assistant's turn begins. Raises ModelError without a template."""
    if not getattr(model.tokenizer, "chat_template", None):
        raise ModelError(
            f"the tokenizer of {model.name!r} has no chat template, so it is a base model: leave out --chat "
            "(chat=False), and it continues a plain prompt with examples"
        )
    ids = model.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    return tuple(ids["input_ids"])
