"""What one of two processes does; run by `torchrun --nproc_per_node 2 -m tests.training.two_processes JOB FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from faithprobe.training.loss import FaithfulnessLoss
from tests.leaving import leave
from tests.training.material import batch_of, examples, small

STEPS, ROWS = 2, 8
CHECKPOINTING = {"none": None, "reentrant": True, "non-reentrant": False}
SHARDED = [
    (objective, logits, reshard)
    for objective in ("counterfactual", "interchange")
    for logits in (True, False)
    for reshard in (True, False)
]
"""Objective, whether the output has logits, whether the root is sharded again after the forward pass."""


def rows_of(step: int, process: int, processes: int, objective: str = "counterfactual") -> dict[str, Any]:
    """A process's part of a step's rows; each has one group."""
    whole = examples(STEPS * ROWS, objective, steps=("v1",))[step * ROWS : (step + 1) * ROWS]
    return batch_of(whole[process::processes])


def train(
    checkpointing: str, batches: Iterable[dict[str, Any]], *, wrapped: Callable[[Any], Any] = lambda model: model
) -> dict[str, torch.Tensor]:
    """A bare loop; the parameters at its end. SGD, since AdamW makes steps of the rounding of gradients near 0."""
    model = small()
    if CHECKPOINTING[checkpointing] is not None:
        model.gradient_checkpointing_enable({"use_reentrant": CHECKPOINTING[checkpointing]})
    outer = wrapped(model)
    faithful = FaithfulnessLoss(outer, share=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step, given in enumerate(batches):
        whole = faithful.stack(given, step=step)
        assert whole.plan is not None
        assert whole.plan.rows == 2 * whole.plan.own
        faithful(outer(**whole, use_cache=False), whole).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def ddp(folder: Path) -> None:
    from torch.nn.parallel import DistributedDataParallel

    rank = started()
    for kind in CHECKPOINTING:
        found = train(kind, [rows_of(s, rank, 2) for s in range(STEPS)], wrapped=DistributedDataParallel)
        save_file(found, folder / f"{kind}-{rank}.safetensors")


def fsdp(folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank = started()
    mesh = init_device_mesh("cpu", (2,))
    for number, (objective, logits, reshard) in enumerate(SHARDED):
        model = small()
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh, reshard_after_forward=reshard)
        faithful = FaithfulnessLoss(model, objective=objective, share=1.0)
        whole = faithful.stack(rows_of(0, rank, 2, objective))
        out = model(**whole, use_cache=False)
        faithful(out if logits else {"loss": out.loss}, whole).backward()
        found = {name: weight.grad.full_tensor() for name, weight in model.named_parameters()}
        if rank == 0:
            save_file(found, folder / f"{number}.safetensors")


def lightning(folder: Path) -> None:
    from lightning.pytorch import Trainer
    from torch.utils.data import DataLoader, DistributedSampler

    from faithprobe.training.lightning import FaithfulnessModule

    model = small()
    faithful = FaithfulnessLoss(model, share=1.0)
    module = FaithfulnessModule(model, faithful, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.1))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=STEPS,
        use_distributed_sampler=False,  # Lightning's own would shuffle
        default_root_dir=folder,
        **quiet,
    )
    data = examples(STEPS * ROWS, steps=("v1",))
    parts = DistributedSampler(data, num_replicas=2, rank=int(os.environ["RANK"]), shuffle=False)
    trainer.fit(module, DataLoader(data, batch_size=ROWS // 2, sampler=parts, collate_fn=batch_of))
    rank = trainer.global_rank
    assert (trainer.world_size, dist.get_world_size(), dist.get_rank()) == (2, 2, rank)
    save_file(
        {name: weight.detach() for name, weight in model.named_parameters()}, folder / f"lightning-{rank}.safetensors"
    )
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (folder / f"lightning-{rank}.json").write_text(json.dumps(logged | {"own": faithful.logs["faithfulness"]}))


def started() -> int:
    """The rank, in a group of two."""
    dist.init_process_group("gloo")
    assert dist.get_world_size() == 2
    return dist.get_rank()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"ddp": ddp, "fsdp": fsdp, "lightning": lightning}[sys.argv[1]](Path(sys.argv[2]))
    leave()
