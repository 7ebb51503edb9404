"""Training in bfloat16 on a CPU: the weights are rounded once a step, and updated in float32.

Autocast rounds every weight in every forward pass, and moves what is between the products of matrices in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class LowPrecision:
    """Copies of a model's weights in bfloat16, with which its gradients are computed.

    Parameters
    ----------
    model : torch.nn.Module
        A model in float32.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.weights = [weights for weights in model.parameters() if weights.dtype == torch.float32]
        self.copies = [weights.data.bfloat16() for weights in self.weights]
        self.step = -1
        self.gradients: dict[torch.Tensor, torch.Tensor] = {}
        self.hooks = [
            weights.register_post_accumulate_grad_hook(self._collect)
            for weights in self.weights
            if weights.requires_grad
        ]

    @contextmanager
    def at_step(self, step: int) -> Iterator[None]:
        """Put the copies, rounded again if the step is a new one, in the place of the weights; then put these back.

        Meanwhile gradients are summed in float32, and they are those of the weights afterwards.

        Parameters
        ----------
        step : int
            How often the weights have been updated.
        """
        masters = [weights.data for weights in self.weights]
        for weights, copy in zip(self.weights, self.copies, strict=True):
            if step != self.step and weights.requires_grad:
                copy.copy_(weights.data)
            if weights.grad is not None:
                self.gradients[weights] = weights.grad
                weights.grad = None
            weights.data = copy
        self.step = step
        try:
            yield
        finally:
            for weights, master in zip(self.weights, masters, strict=True):
                weights.data = master
                weights.grad = self.gradients.pop(weights, None)

    def _collect(self, weights: torch.Tensor) -> None:
        gradient = weights.grad
        assert gradient is not None
        if weights in self.gradients:
            self.gradients[weights].add_(gradient)
        else:
            self.gradients[weights] = gradient.float()
        weights.grad = None

    def close(self) -> None:
        """Leave the weights as they are."""
        for hook in self.hooks:
            hook.remove()
