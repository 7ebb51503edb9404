"""Next-token loss without the logits of all tokens: the head and its gradients, slice by slice.

For a vocabulary of 49,152 the logits of 512 tokens take 100 MB in float32, of which the usual loss holds four copies.
The softmax of rows that fit into the processor's cache takes a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from skllm4es.lm.architecture import FAILURES, evaluating, found_once
from skllm4es.lm.devices import rounded_up

#: Label that the loss leaves out, as in transformers.
IGNORED = -100

#: Logits that are held at once.
_HELD_LOGITS = {"cpu": 2**25, "cuda": 2**28}
#: Logits of which the softmax is taken at once: on a CPU, what fits into its cache.
_SOFTMAX_LOGITS = {"cpu": 2**19, "cuda": 2**28}


@contextmanager
def sliced_loss(model: PreTrainedModel, enabled: bool = True) -> Iterator[None]:
    """Let a model with a linear head compute its loss in slices. Meanwhile it returns hidden states as its logits."""
    if not enabled:
        yield
        return
    head, usual = model.get_output_embeddings(), model.loss_function

    def loss_of(logits: torch.Tensor, labels: torch.Tensor, *_: Any, **settings: Any) -> torch.Tensor:
        return _causal_loss(logits, head, labels, settings.get("num_items_in_batch"), settings.get("shift_labels"))

    model.loss_function = loss_of
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward
        model.loss_function = usual


@found_once
def can_slice(model: PreTrainedModel) -> bool:
    """Find out, by trying once, whether a model's loss is the cross entropy of what its linear head makes.

    Some models cap their logits, or add another loss.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model with its head, in float32.
    """
    return type(model.get_output_embeddings()) is torch.nn.Linear and _try_slicing(model)


@torch.no_grad()
def _try_slicing(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    ids = (7 * torch.arange(12, device=model.device)[None] + 1) % model.config.get_text_config().vocab_size
    try:
        with evaluating(model):
            whole = model(input_ids=ids, labels=ids, use_cache=False)
            with sliced_loss(model):
                sliced = model(input_ids=ids, labels=ids, use_cache=False)
        logits = functional.linear(sliced.logits, head.weight, head.bias)
        same_logits = (logits - whole.logits).abs().max() <= 1e-4 * whole.logits.abs().max()
        return bool(same_logits and (sliced.loss - whole.loss).abs() <= 1e-4 * whole.loss.abs())
    except FAILURES:
        return False  # What fails in slices is trained without them.


@torch.no_grad()
def learns_copies(model: PreTrainedModel) -> bool:
    """Find out, by trying once, whether a model's own loss forgets to shift the labels, as that of Bart does."""
    ids = (7 * torch.arange(12, device=model.device)[None] + 1) % model.config.get_text_config().vocab_size
    try:
        with evaluating(model):
            found = model(input_ids=ids, labels=ids, use_cache=False)
        copied = functional.cross_entropy(found.logits[0].float(), ids[0])
        return bool((found.loss - copied).abs() <= 1e-4 * copied)
    except FAILURES:
        return False  # What fails here fails in training, and says why.


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
    n_added = rounded_up(len(kept), hidden.device) - len(kept)
    rows = functional.pad(hidden.reshape(-1, hidden.shape[-1])[kept], (0, 0, 0, n_added))
    targets = functional.pad(shifted[kept], (0, n_added), value=IGNORED)
    weight: torch.Tensor = head.weight
    bias: torch.Tensor | None = head.bias
    if not torch.is_grad_enabled():  # The function below cannot see it.
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    loss: torch.Tensor = _CrossEntropy.apply(rows, weight, bias, targets)
    n_items = len(kept) if n_items is None else n_items
    return loss / (n_items.to(loss.device) if isinstance(n_items, torch.Tensor) else n_items)


class _CrossEntropy(torch.autograd.Function):
    """The sum of cross entropies of a linear head. Its gradients are computed with it, so each logit is made once."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        inputs, table, offsets = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        width = _width(len(labels), len(weight), hidden.device)
        loss = torch.zeros((), device=hidden.device)
        of_inputs = torch.empty_like(inputs)
        of_table: torch.Tensor | None = None
        of_offsets: torch.Tensor | None = None
        with torch.autocast(device, enabled=False):
            for start in range(0, len(labels), width):
                rows = slice(start, start + width)
                logits = functional.linear(inputs[rows], table, offsets)
                loss += _to_gradients(logits, labels[rows])
                if ctx.needs_input_grad[0]:
                    torch.mm(logits, table, out=of_inputs[rows])
                if ctx.needs_input_grad[1]:
                    of_table = _add(of_table, logits.T @ inputs[rows], width < len(labels))
                if ctx.needs_input_grad[2]:
                    of_offsets = _add(of_offsets, logits.sum(dim=0), width < len(labels))
                del logits  # Before the next ones are made.
        ctx.gradients = [
            of_inputs.to(hidden.dtype) if ctx.needs_input_grad[0] else None,
            None if of_table is None else of_table.to(weight.dtype),
            None if of_offsets is None or bias is None else of_offsets.to(bias.dtype),
        ]
        return loss

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if gradient is None else gradient.mul_(scale) for gradient in gradients), None


def _width(n_labels: int, vocab_size: int, device: torch.device) -> int:
    """Return how many rows are computed at once: equal parts of which none has too many logits."""
    n_slices = max(1, -(-n_labels * vocab_size // _limit(_HELD_LOGITS, device)))
    return max(1, rounded_up(-(-n_labels // n_slices), device))


def _add(total: torch.Tensor | None, part: torch.Tensor, several: bool) -> torch.Tensor:
    """Add a part to a total, in float32 if there are several."""
    if total is None:
        return part.float() if several else part
    return total.add_(part)


def _to_gradients(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Replace logits by the gradients of the sum of their cross entropies, and return the sum."""
    loss = torch.zeros((), device=logits.device)
    n_rows = max(1, _limit(_SOFTMAX_LOGITS, logits.device) // logits.shape[1])
    for rows, targets in zip(logits.split(n_rows), labels.split(n_rows), strict=True):
        predicted = rows.float().log_softmax(dim=1)
        counted = (targets != IGNORED)[:, None].float()
        places = targets.clamp(min=0)[:, None]
        loss -= (predicted.gather(1, places) * counted).sum()
        predicted.exp_().scatter_add_(1, places, -counted)
        rows.copy_(predicted.mul_(counted))
    return loss


def _limit(limits: dict[str, int], device: torch.device) -> int:
    return limits.get(device.type, limits["cpu"])
