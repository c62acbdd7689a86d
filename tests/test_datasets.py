"""Results as Hugging Face datasets: every table with its types, made in memory, without a network."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from faithprobe import audit
from faithprobe.errors import FaithprobeError
from faithprobe.results.datasets import chains_table, dataset_dict
from faithprobe.results.record import Audit
from faithprobe.results.verdicts import schema
from faithprobe.scores.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def found() -> Audit:
    return audit("organism:post-hoc", "organism", problems=3, probe_problems=0, layers=[3], seed=3, show_progress=False)


def test_every_table_of_an_audit_is_there_with_the_types_of_its_file(found):
    made = found.to_datasets()
    assert set(made) == {*TABLES, "chains"}
    for name in TABLES:
        assert made[name].features.arrow_schema.equals(schema(name)), name
        pd.testing.assert_frame_equal(
            made[name].to_pandas(), found.tables[name], check_dtype=False, check_column_type=False
        )
    steps = made["steps"]
    assert found.steps["computed"].isna().all(), "nothing was probed here"
    assert str(steps.features["computed"].dtype) == "float64"
    assert steps[0]["computed"] is None


def test_chains_keep_their_text_and_spans_and_join_with_their_steps(found):
    made = found.to_datasets()
    assert len(made["chains"]) == 3
    for row, chain in zip(made["chains"], found.chains, strict=True):
        assert {**row, "unlocated": {}} == {**chain, "unlocated": {}}
        assert {pair["step"]: pair["reason"] for pair in row["unlocated"]} == chain["unlocated"]
    assert set(made["steps"]["chain"]) == set(made["chains"]["chain"])


def test_a_value_that_is_nowhere_keeps_the_type_of_the_column(found):
    without = [{**chain, "values": [], "unlocated": {"v1": "not stated"}} for chain in found.chains]
    table, types = chains_table(without)
    made = dataset_dict({"chains": table}, schemas={"chains": types})["chains"]
    assert made.features.arrow_schema.equals(types)
    assert made[0]["unlocated"] == [{"step": "v1", "reason": "not stated"}]
    assert made[0]["values"] == []


def test_numbers_pass_and_missing_ones_are_none():
    table = pd.DataFrame({"step": ["v1", "v2"], "score": [0.25, math.nan], "chosen": [True, False], "n": [3, 4]})
    made = dataset_dict({"sources": table.iloc[::-1], "pointwise": table.iloc[:0]})
    assert list(made) == ["sources", "pointwise"]
    assert made["sources"].to_list() == [
        {"step": "v2", "score": None, "chosen": False, "n": 4},
        {"step": "v1", "score": 0.25, "chosen": True, "n": 3},
    ]
    assert len(made["pointwise"]) == 0


def test_where_datasets_is_missing_the_error_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FaithprobeError, match="pip install datasets"):
        dataset_dict({"steps": pd.DataFrame({"a": [1]})})


def test_nothing_is_fetched_and_nothing_is_left_in_the_cache(tmp_path):
    program = (
        "import sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'): print('asked for', arguments)\n"
        "sys.addaudithook(watch)\n"
        "import pandas as pd\n"
        "from faithprobe.results.datasets import dataset_dict\n"
        "made = dataset_dict({'steps': pd.DataFrame({'a': [1.5, None]})})\n"
        "print(made['steps'][1]['a'], made['steps'].cache_files)"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {name: value for name, value in environment.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    run = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:-1] == ["None []"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
