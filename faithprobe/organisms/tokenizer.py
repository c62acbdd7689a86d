"""The organisms' tokenizer: one token a word, numbers 0 to 35, built in memory."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from faithprobe.tasks.organism import BLANK, NO_HINT, NUMBERS, SILENT

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
VOCABULARY: tuple[str, ...] = (
    *SPECIAL,
    *(str(value) for value in range(NUMBERS)),
    *("+", "-", "*", "h1", "h2", "h3", "h4", "h5", "=", SILENT, NO_HINT, BLANK, ">", "answer"),
)
TOKEN_ID = {token: i for i, token in enumerate(VOCABULARY)}
FIRST_VALUE = TOKEN_ID["0"]
"""Token id of the value 0; the value v is token `FIRST_VALUE + v`."""


def organism_tokenizer(*, name_or_path: str = "faithprobe-organism") -> PreTrainedTokenizerFast:
    """Puts `<bos>` in front of a text; decoding joins tokens with single spaces, as the texts are written."""
    inner = Tokenizer(WordLevel(dict(TOKEN_ID), unk_token="<unk>"))
    # the second rule splits `=.` and `>9` too: a continuation may be glued to a prompt without the space between
    words = Split(Regex(r"answer|h\d|\d+|[-+*=.>~_]"), behavior="isolated")
    inner.pre_tokenizer = Sequence([WhitespaceSplit(), words])
    inner.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", TOKEN_ID["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        name_or_path=name_or_path,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,  # would glue `. .` together
        model_max_length=64,
    )
