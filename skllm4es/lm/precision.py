"""Training in bfloat16 on a CPU: the weights are rounded once a step, and updated in float32.

Autocast rounds every weight in every forward pass, and moves what is between the products of matrices in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from skllm4es.lm.architecture import FAILURES, evaluating
from skllm4es.lm.sources import Model

#: How far rounding may move the loss of a few tokens, relatively.
_TOLERANCE = 0.05


class RoundedWeights:
    """Copies of a model's weights in bfloat16, with which its gradients are computed.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A model in float32.
    """

    def __init__(self, model: Model) -> None:
        self.weights = [weights for weights in model.parameters() if weights.dtype == torch.float32]
        self.copies = [weights.data.bfloat16() for weights in self.weights]
        self.step = 0
        #: Kept from step to step, because new memory costs as much time as adding does.
        self.sums: dict[torch.Tensor, torch.Tensor] = {}
        self.begun: set[torch.Tensor] = set()

    @contextmanager
    def at_step(self, step: int) -> Iterator[None]:
        """Put the copies in the place of the weights, rounded again where it is a new step; then put the weights back.

        Gradients that come meanwhile are added in float32 to those of the weights.

        Parameters
        ----------
        step : int
            How often the weights have been updated.
        """
        originals = [weights.data for weights in self.weights]
        for weights, copy in zip(self.weights, self.copies, strict=True):
            if step != self.step and weights.requires_grad:
                copy.copy_(weights.data)
            if weights.grad is not None:
                self.begun.add(weights)
                self.sums[weights], weights.grad = weights.grad, None
            weights.data = copy
        self.step = step
        try:
            yield
        finally:
            for weights, original in zip(self.weights, originals, strict=True):
                weights.data = original
                weights.grad = self.sums[weights] if weights in self.begun else None
            self.begun.clear()

    def collect(self, weights: torch.Tensor) -> None:
        """Add the gradient that a copy has got."""
        gradient, weights.grad = weights.grad, None
        assert gradient is not None
        if weights in self.begun:
            self.sums[weights].add_(gradient)
            return
        if weights not in self.sums:
            self.sums[weights] = torch.empty_like(gradient, dtype=torch.float32)
        self.sums[weights].copy_(gradient)
        self.begun.add(weights)


@contextmanager
def rounded_weights(model: Model, wanted: bool) -> Iterator[RoundedWeights | None]:
    """Round the weights of a model for a training, if it is wanted and the model computes with them; or return None."""
    rounded = RoundedWeights(model) if wanted else None
    if rounded is None or not _computes_with(rounded, model):
        yield None
        return
    trained = [weights for weights in rounded.weights if weights.requires_grad]
    hooks = [weights.register_post_accumulate_grad_hook(rounded.collect) for weights in trained]
    try:
        yield rounded
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _computes_with(rounded: RoundedWeights, model: Model) -> bool:
    """Find out, by trying once, whether a model has about the same loss with rounded weights.

    Some mix them with what stays in float32, and fail.
    """
    ids = (7 * torch.arange(12, device=model.device)[None] + 1) % model.config.get_text_config().vocab_size
    try:
        with evaluating(model):
            exact = model(input_ids=ids, labels=ids).loss
            with rounded.at_step(rounded.step):
                loss = model(input_ids=ids, labels=ids).loss
        return bool((loss - exact).abs() <= _TOLERANCE * exact.abs())
    except FAILURES:
        return False  # What fails with them is trained with autocast.
