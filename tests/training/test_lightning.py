"""Lightning's own trainer does what a bare loop does, and shows the terms beside the loss."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from faithprobe.errors import FaithprobeError, HookError
from faithprobe.training.batches import GROUPS
from faithprobe.training.loss import FaithfulnessLoss
from tests.training.material import assert_same, batch_of, examples, plain, small

pytest.importorskip("lightning")
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from faithprobe.training.lightning import FaithfulnessModule, FaithfulnessModuleMixin

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
ROWS = 4
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")


def sgd(weights):
    return torch.optim.SGD(weights, lr=0.1)


def loader(objective: str = "counterfactual") -> DataLoader:
    return DataLoader(examples(16, objective, steps=("v1",)), batch_size=ROWS, collate_fn=batch_of)


def fitted(module, folder: Path, *, data: DataLoader | None = None, ckpt_path=None, **options) -> Trainer:
    given = {**dict.fromkeys(QUIET, False), "accelerator": "cpu", "devices": 1, "default_root_dir": folder, **options}
    trainer = Trainer(**given)
    trainer.fit(module, data or loader(), ckpt_path=ckpt_path)
    return trainer


def module_of(model=None, **options) -> FaithfulnessModule:
    model = model or small()
    return FaithfulnessModule(model, FaithfulnessLoss(model, **options), optimizer=sgd)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def bare(
    *, steps: int, parts: int = 1, objective: str = "counterfactual", **options
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The parameters after `steps` of the optimiser, and what the loss measured of every batch."""
    model, logs = small(), []
    faithful = FaithfulnessLoss(model, objective=objective, **options)
    optimizer, batches = sgd(model.parameters()), iter(loader(objective))
    for step in range(steps):
        for _ in range(parts):
            whole = faithful.stack(next(batches), step=step)
            out = model(**whole)
            loss = faithful(out, whole)
            (loss / parts).backward()
            logs.append({"loss": float(loss.detach()), "cross_entropy": float(out.loss.detach()), **faithful.logs})
        optimizer.step()
        optimizer.zero_grad()
    return weights_of(model), logs


class Logged(Callback):
    """What was logged of every batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("objective", ["counterfactual", "interchange"])
def test_it_trains_as_a_bare_loop_and_logs_the_terms(objective, tmp_path):
    module, logged = module_of(objective=objective, every=2, warmup=4, share=1.0), Logged()
    fitted(module, tmp_path, data=loader(objective), max_steps=4, callbacks=[logged])
    expected, logs = bare(steps=4, objective=objective, every=2, warmup=4, share=1.0)
    assert_same(weights_of(module.model), expected)
    assert [set(measured) for measured in logs[:2]] == [
        {"loss", "cross_entropy", "faithfulness", "counterfactual_rows"},
        {"loss", "cross_entropy"},
    ]
    last = {}
    for seen, measured in zip(logged.seen, logs, strict=True):
        last |= measured  # at a step without the term, its last values
        assert seen == pytest.approx(last, rel=1e-5)


def test_accumulated_batches_are_parts_of_one_step(tmp_path):
    module = module_of(every=2, share=1.0)
    trainer = fitted(module, tmp_path, max_steps=2, accumulate_grad_batches=2)
    assert trainer.global_step == 2
    expected, logs = bare(steps=2, parts=2, every=2, share=1.0)
    assert ["faithfulness" in measured for measured in logs] == [True, True, False, False]
    assert_same(weights_of(module.model), expected)


def test_a_run_that_was_cut_goes_on_as_it_would_have(tmp_path):
    whole = module_of()
    fitted(whole, tmp_path, max_epochs=2)
    first = module_of()
    saved = ModelCheckpoint(dirpath=tmp_path, filename="first")
    fitted(first, tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[saved])
    second = module_of(small(seed=1))
    trainer = fitted(second, tmp_path, max_epochs=2, ckpt_path=tmp_path / "first.ckpt")
    assert trainer.global_step == 8
    assert_same(weights_of(second.model), weights_of(whole.model))


def test_ones_own_module(tmp_path):
    """As in the documentation: a plain AdamW loop with a validation step, which sees no counterfactual row."""
    seen = []

    class Mine(FaithfulnessModuleMixin, LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model, self.faithfulness = model.train(), FaithfulnessLoss(model, objective="interchange", share=1.0)

        def training_step(self, batch, batch_idx):
            batch = self.faithfulness.stack(batch, step=self.trainer.global_step)
            out = self.model(**batch)
            loss = self.faithfulness(out, batch)
            self.log_terms(mine=loss.detach())
            return loss

        def validation_step(self, batch, batch_idx):
            fired = self.faithfulness.taps.fired
            loss = self.model(**plain(batch)).loss
            assert not self.model.training
            assert self.faithfulness.taps.fired == fired
            seen.append((len(batch["input_ids"]), loss))
            self.log("held_out", loss, batch_size=len(batch["input_ids"]))

        def configure_optimizers(self):
            return sgd(self.parameters())

    data = DataLoader(examples(8, "interchange"), batch_size=ROWS, collate_fn=batch_of)
    module = Mine(small())
    trainer = Trainer(
        max_steps=2, accelerator="cpu", devices=1, default_root_dir=tmp_path, **dict.fromkeys(QUIET, False)
    )
    trainer.fit(module, data, data)
    assert module.faithfulness.logs["counterfactual_rows"] == 4
    assert {"mine", "faithfulness", "held_out"} <= set(trainer.callback_metrics)
    assert seen
    assert {rows for rows, _ in seen} == {ROWS}


def test_groups_stay_as_they_are_on_the_way_to_a_device():
    module, given = module_of(), batch_of(examples(4))
    moved = module.transfer_batch_to_device(given, torch.device("meta"), 0)
    assert moved[GROUPS] is given[GROUPS]
    assert {value.device.type for value in plain(moved).values()} == {"meta"}
    others = [torch.zeros(1), {"x": torch.zeros(1)}]
    assert module.transfer_batch_to_device(others, torch.device("meta"), 0)[1]["x"].device.type == "meta"


def test_models_come_in_eval_mode_and_lightning_leaves_them_there(tmp_path):
    model = small().eval()
    module = module_of(model)
    assert model.training
    model.eval()
    with pytest.raises(HookError, match=r"call model\.train\(\)"):
        fitted(module, tmp_path, max_steps=1)


def test_only_what_is_trained_goes_to_the_optimiser():
    model = small()
    model.get_input_embeddings().requires_grad_(False)
    module = FaithfulnessModule(model, FaithfulnessLoss(model))
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert len(held) == len(list(model.parameters())) - 1


def test_without_lightning_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    home = importlib.util.find_spec("faithprobe.training.lightning")
    module = importlib.util.module_from_spec(home)
    home.loader.exec_module(module)
    with pytest.raises(FaithprobeError, match=re.escape("pip install 'faithprobe[trainers]'")):
        module.FaithfulnessModule(None, None)


def test_the_loss_alone_loads_no_trainer():
    program = (
        "import sys, faithprobe.training as training; training.FaithfulnessLoss, training.Collator\n"
        "print(*{'lightning', 'trl', 'peft', 'datasets'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr
