"""Two processes on one machine do what one does: bare loops under DDP and FSDP2, and Lightning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from faithprobe.training.loss import FaithfulnessLoss
from tests.training.material import assert_same, gradients, small
from tests.training.two_processes import CHECKPOINTING, ROWS, SHARDED, STEPS, rows_of, train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]
ROOT = Path(__file__).parents[2]


def two_processes(job: str, folder: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.training.two_processes", job, str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_with_half_of_the_rows_each_train_as_one_with_all(tmp_path):
    two_processes("ddp", tmp_path)
    whole = [rows_of(step, 0, 1) for step in range(STEPS)]
    assert all(len(given["input_ids"]) == ROWS for given in whole)
    expected = train("none", whole)
    beginning = dict(small().named_parameters())
    assert max(float((expected[name] - weight.detach()).abs().max()) for name, weight in beginning.items()) > 1e-2
    for kind in CHECKPOINTING:
        assert_same(train(kind, whole), expected)
        for rank in range(2):
            assert_same(load_file(tmp_path / f"{kind}-{rank}.safetensors"), expected)


def test_gradients_of_a_sharded_model_are_the_mean_of_those_of_its_parts(tmp_path):
    two_processes("fsdp", tmp_path)
    for number, (objective, _, _) in enumerate(SHARDED):
        model = small()
        for process in range(2):
            faithful = FaithfulnessLoss(model, objective=objective, share=1.0)
            whole = faithful.stack(rows_of(0, process, 2, objective))
            (faithful(model(**whole), whole) / 2).backward()
            faithful.close()
        assert_same(load_file(tmp_path / f"{number}.safetensors"), gradients(model))


def test_lightning_with_two_processes_trains_as_a_bare_loop_and_gathers_its_logs(tmp_path):
    pytest.importorskip("lightning")
    two_processes("lightning", tmp_path)
    expected = train("none", [rows_of(step, 0, 1) for step in range(STEPS)])
    logged = [json.loads((tmp_path / f"lightning-{rank}.json").read_text()) for rank in range(2)]
    for rank in range(2):
        assert_same(load_file(tmp_path / f"lightning-{rank}.safetensors"), expected)
        mean = (logged[0]["own"] + logged[1]["own"]) / 2
        assert logged[rank]["faithfulness"] == pytest.approx(mean)
        assert logged[rank]["loss"] == pytest.approx(logged[rank]["cross_entropy"] + mean, rel=1e-5)
    assert logged[0]["own"] != logged[1]["own"]
