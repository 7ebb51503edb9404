"""The processes among which `torchrun` or `accelerate launch` shares the work; one, where nothing launched several.

Every process runs the same script: it trains on its share of the batches and embeds its share of the texts, and in the
end each has the whole result.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """Which process this is among those that work together.

    Parameters
    ----------
    rank : int
        Its number, from 0.
    size : int
        How many processes there are.
    """

    rank: int
    size: int

    def agree(self, value: T) -> T:
        """Return the value of process 0 in every process; it must be picklable."""
        if self.size == 1:
            return value
        values = [value]
        broadcast_object_list(values, from_process=0)
        return values[0]

    def wait(self) -> None:
        """Wait until every process has come this far."""
        self.agree(None)

    def gather(self, values: list[T]) -> list[T]:
        """Return the values of process 0, then those of process 1, and so on, in every process."""
        if self.size == 1:
            return values
        gathered: list[T] = gather_object(values)
        return gathered


def processes(device: str | None) -> Processes:
    """Find out which process this is, and join the others.

    Parameters
    ----------
    device : str or None
        Where the model runs; None is a GPU if there is one.
    """
    if any(name not in os.environ for name in _LAUNCHED) or int(os.environ["WORLD_SIZE"]) == 1:
        return Processes(0, 1)
    on_cpu = device is not None and torch.device(device).type == "cpu"
    state = PartialState(cpu=on_cpu or not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes)
