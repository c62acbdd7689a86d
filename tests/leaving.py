"""How a process of a group ends, in tests that start several."""

from __future__ import annotations

import os
import sys

import torch.distributed as dist


def leave() -> None:
    """Ends this process, its work being done: after the others, without tearing the interpreter down.

    Gloo's threads may still hold tensors, and freeing those while the interpreter goes aborts the process now and then,
    after all work is done (https://github.com/pytorch/pytorch/pull/179291).
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
