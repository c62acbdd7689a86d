"""The processes that `torchrun` has started, through accelerate; one where it has not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faithprobe.errors import FaithprobeError

if TYPE_CHECKING:
    from accelerate import PartialState


@dataclass(frozen=True)
class Processes:
    """The processes that share the work."""

    rank: int
    count: int
    state: PartialState | None = None

    @classmethod
    def now(cls) -> Processes:
        """As `torchrun` has started them; one process where it has not."""
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        if wanted == 1:
            return cls(0, 1)
        from accelerate import PartialState

        state = PartialState(cpu=True)  # what is added up is in host memory, wherever the model runs
        if state.num_processes != wanted:  # accelerate falls back to one process without a word
            raise FaithprobeError(
                f"torchrun started {wanted} processes, and accelerate sees {state.num_processes}; set up "
                "torch.distributed before calling this, or run one process"
            )
        return cls(state.process_index, wanted, state)

    def wait(self) -> None:
        """For the others."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def one_by_one(self, work: Callable[[], object]) -> None:
        """The first process, then the others."""
        if self.rank == 0:
            work()
        self.wait()
        if self.rank != 0:
            work()
