"""Next-token loss without the logits of all tokens: the head and its gradients, slice by slice.

For a vocabulary of 49,152 the logits of a window of 512 tokens take 100 MB, and several copies of them are what limits
speed: the softmax of a slice that fits into the processor's cache takes a tenth of the time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from skllm4es.lm.architecture import FORWARD

#: Label that the loss leaves out, as in transformers.
IGNORED = -100

#: Logits that are held at once.
_HELD_LOGITS = {"cpu": 2**25, "cuda": 2**28}
#: Logits of which the softmax is taken at once: on a CPU, what fits into its cache in float32.
_SOFTMAX_LOGITS = {"cpu": 2**19, "cuda": 2**28}

_SLICEABLE: weakref.WeakKeyDictionary[PreTrainedModel, bool] = weakref.WeakKeyDictionary()


@contextmanager
def sliced_loss(model: PreTrainedModel, enabled: bool = True) -> Iterator[None]:
    """Let a model with a linear head compute its loss in slices. Meanwhile it returns hidden states as its logits."""
    if not enabled:
        yield
        return
    head = model.get_output_embeddings()

    def loss_of(logits: torch.Tensor, labels: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return _causal_loss(logits, head, labels, kwargs.get("num_items_in_batch"), kwargs.get("shift_labels"))

    usual = model.loss_function
    model.loss_function = loss_of
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward
        model.loss_function = usual


def can_slice(model: PreTrainedModel) -> bool:
    """Find out, by trying once, whether a model's loss is the cross entropy of what its linear head makes.

    Some models scale or cap their logits, or add another loss.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model with its head, in float32.
    """
    if model not in _SLICEABLE:
        _SLICEABLE[model] = type(model.get_output_embeddings()) is torch.nn.Linear and _try_slicing(model)
    return _SLICEABLE[model]


@torch.no_grad()
def _try_slicing(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    ids = (7 * torch.arange(12, device=model.device)[None] + 1) % model.config.get_text_config().vocab_size
    training = model.training
    try:
        model.eval()
        with FORWARD:
            whole = model(input_ids=ids, labels=ids, use_cache=False)
            with sliced_loss(model):
                sliced = model(input_ids=ids, labels=ids, use_cache=False)
        product = functional.linear(sliced.logits, head.weight, head.bias)
        same_logits = (product - whole.logits).abs().max() <= 1e-4 * whole.logits.abs().max()
        return bool(same_logits and (sliced.loss - whole.loss).abs() <= 1e-4 * whole.loss.abs())
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError):
        return False  # What fails in slices is trained without them.
    finally:
        model.train(training)


def _causal_loss(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
    labels: torch.Tensor,
    n_items: torch.Tensor | float | None,
    shifted: torch.Tensor | None,
) -> torch.Tensor:
    """Return the loss of transformers: the sum over labels by `n_items`, or the mean."""
    if shifted is None:
        shifted = functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    shifted = shifted.reshape(-1).to(hidden.device)
    (kept,) = (shifted != IGNORED).nonzero(as_tuple=True)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if len(kept) < len(hidden):
        hidden, shifted = hidden[kept], shifted[kept]
    n_items = len(kept) if n_items is None else n_items
    loss: torch.Tensor = _CrossEntropy.apply(hidden, head.weight, head.bias, shifted)
    return loss / (n_items.to(loss.device) if isinstance(n_items, torch.Tensor) else n_items)


class _CrossEntropy(torch.autograd.Function):
    """The sum of cross entropies of a linear head. The gradients are computed together with it, from one product."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        device = hidden.device.type
        lowered = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if lowered else hidden.dtype
        with torch.autocast(device, enabled=False):
            return _slice_by_slice(ctx, hidden, weight, bias, labels, dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *(None if saved is None else saved.mul_(gradient) for saved in ctx.gradients), None


def _slice_by_slice(
    ctx: Any,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    inputs, table = hidden.to(dtype), weight.to(dtype)
    offsets = None if bias is None else bias.to(dtype)
    n_slices = max(1, -(-labels.numel() * len(table) // _limit(_HELD_LOGITS, hidden)))
    width = max(1, -(-len(labels) // n_slices))
    loss = torch.zeros((), device=hidden.device)
    of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
    of_weight = of_bias = None
    for start in range(0, max(1, len(labels)), width):
        part = inputs[start : start + width]
        logits = functional.linear(part, table, offsets)
        loss += _to_gradients(logits, labels[start : start + width])
        if of_hidden is not None:
            of_hidden[start : start + width] = logits @ table
        if ctx.needs_input_grad[1]:
            of_weight = _sum(of_weight, logits.T @ part, several=n_slices > 1)
        if ctx.needs_input_grad[2]:
            of_bias = _sum(of_bias, logits.sum(dim=0), several=n_slices > 1)
        del logits
    ctx.gradients = (
        of_hidden,
        None if of_weight is None else of_weight.to(weight.dtype),
        None if of_bias is None or bias is None else of_bias.to(bias.dtype),
    )
    return loss


def _sum(total: torch.Tensor | None, part: torch.Tensor, *, several: bool) -> torch.Tensor:
    """Add a part, in float32 if there are several."""
    if total is None:
        return part.float() if several else part
    return total.add_(part)


def _to_gradients(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Replace logits by the gradients of their cross entropy, which is returned."""
    loss = torch.zeros((), device=logits.device)
    n_rows = max(1, _limit(_SOFTMAX_LOGITS, logits) // logits.shape[1])
    for rows, their_labels in zip(logits.split(n_rows), labels.split(n_rows), strict=True):
        predicted = rows.float().log_softmax(dim=1)
        places = their_labels[:, None]
        loss -= predicted.gather(1, places).sum()
        predicted.exp_().scatter_add_(1, places, predicted.new_full(places.shape, -1))
        rows.copy_(predicted)
    return loss


def _limit(limits: dict[str, int], tensor: torch.Tensor) -> int:
    return limits.get(tensor.device.type, limits["cpu"])
