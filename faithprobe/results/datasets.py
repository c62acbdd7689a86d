"""Tables as Hugging Face datasets, in memory: nothing is fetched, and nothing is left in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import pandas as pd

from faithprobe.errors import FaithprobeError


def dataset_dict(tables: Mapping[str, pd.DataFrame], *, schemas: Mapping[str, Any] | None = None) -> Any:
    """A `datasets.DatasetDict` with one dataset a table, under its name; a missing number is None.

    The tables have different columns, so they are no splits of one dataset: on the Hub each is a configuration of its
    own, `found["steps"].push_to_hub(repository, config_name="steps")`.

    Args:
        schemas: of some tables, by name, the `pyarrow.Schema`: a column that holds nothing then keeps its type.

    Raises FaithprobeError where `datasets` is not installed.
    """
    try:
        library = import_module("datasets")
    except ImportError as error:
        raise FaithprobeError(
            f"Hugging Face datasets cannot be imported ({error}); pip install datasets, or read the parquet files of "
            "a saved result with pandas: they hold the same tables"
        ) from error
    import pyarrow as pa

    found = {}
    for name, table in tables.items():
        # not Dataset.from_pandas, which cannot give a type to an empty column
        arrow = pa.Table.from_pandas(table, schema=(schemas or {}).get(name), preserve_index=False)
        found[name] = library.Dataset(arrow.replace_schema_metadata(None))
    return library.DatasetDict(found)


def chains_table(chains: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, Any]:
    """The lines of `chains.jsonl` as a table, with its schema.

    `unlocated`, whose keys are names of steps, becomes a list of pairs: columns are the same in every row.
    """
    schema = _chains_schema()
    rows = [
        {**chain, "unlocated": [{"step": step, "reason": why} for step, why in (chain.get("unlocated") or {}).items()]}
        for chain in chains
    ]
    return pd.DataFrame(rows, columns=schema.names), schema


def _chains_schema() -> Any:
    """The types of what `record.chain_view` writes."""
    import pyarrow as pa

    text, flag, count = pa.string(), pa.bool_(), pa.int64()
    span = pa.list_(count)
    value = {"step": text, "start": count, "end": count, "span": span, "overruled": flag, "misquoted": text}
    columns = {
        "chain": text,
        "prompt": text,
        "text": text,
        "tokens": pa.list_(count),
        "n_prompt": count,
        "answer": text,
        "true_answer": text,
        "correct": flag,
        "finished": flag,
        "values": pa.list_(pa.struct({**value, "mentions": pa.list_(span)}.items())),
        "unlocated": pa.list_(pa.struct({"step": text, "reason": text}.items())),
    }
    return pa.schema(columns.items())
