"""One forward pass over texts, reduced to the token mean of every layer.

Means over tokens and over layers commute, so what is kept of a text is the matrix of its layers' token means; any
pooling depth is a slice of it (paper, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

#: Tokens in a batch, padding included. 2k to 8k were equally fast on a CPU.
TOKEN_BUDGET = 4096


@torch.inference_mode()
def layer_means(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, progress: bool = False
) -> npt.NDArray[np.float32]:
    """Mean over tokens of the hidden states of every layer.

    Sequences are sorted by length and padded on the right, without an attention mask: in a causal model a token
    does not see what follows it, so the padding reaches no real token, and attention takes its fastest path.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model; its head is not run.
    sequences : sequence of sequence of int
        The tokens of each text, none empty.
    progress : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    ndarray of shape (n_sequences, n_layers + 1, hidden_size), dtype float32
        Entry 0 is the input of the first layer (the embedded tokens), entry l the output of layer l; the last one
        is taken after the final norm, as in the `hidden_states` of transformers.
    """
    decoder = model.base_model
    model.eval()
    layers = decoder_layers(decoder)
    means = np.empty((len(sequences), len(layers) + 1, model.config.get_text_config().hidden_size), dtype=np.float32)
    with tqdm(total=len(sequences), desc="embedding", unit="text", leave=None, disable=not progress) as bar:
        for batch in _batches([len(sequence) for sequence in sequences]):
            ids, weights = _pad([sequences[i] for i in batch], model.device)
            with _reduced_inputs(layers, weights) as reduced:
                last = decoder(input_ids=ids, use_cache=False).last_hidden_state
            reduced.append(_weighted_mean(last, weights))
            means[batch] = torch.stack(reduced, dim=1).cpu().numpy()
            bar.update(len(batch))
    return means


def decoder_layers(decoder: torch.nn.Module) -> torch.nn.ModuleList:
    """Find the list of the decoder's layers, whatever the architecture calls it.

    Parameters
    ----------
    decoder : torch.nn.Module
        A model of transformers without its head.

    Returns
    -------
    torch.nn.ModuleList
        The layers, first to last.
    """
    n_layers = decoder.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    for module in decoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers:
            return module
    raise ValueError(f"{type(decoder).__name__} has no list of {n_layers} layers: its hidden states cannot be read.")


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions of sequences of similar length, longest first, so that memory runs out at once or never."""
    batch: list[int] = []
    width = 0
    for position in np.argsort(np.negative(lengths), kind="stable").tolist():
        if batch and width * (len(batch) + 1) > TOKEN_BUDGET:
            yield batch
            batch = []
        if not batch:
            width = lengths[position]
        batch.append(position)
    if batch:
        yield batch


def _pad(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of shape (n, width), and the weight of each token in the mean of its text."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    weights = (torch.arange(width) < lengths[:, None]) / lengths[:, None]
    return ids.to(device), weights.to(device)


@contextmanager
def _reduced_inputs(layers: torch.nn.ModuleList, weights: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Collect the token means of what goes into each layer, as it goes in."""
    reduced: list[torch.Tensor] = []

    def reduce(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reduced.append(_weighted_mean(args[0] if args else kwargs["hidden_states"], weights))

    hooks = [layer.register_forward_pre_hook(reduce, with_kwargs=True) for layer in layers]
    try:
        yield reduced
    finally:
        for hook in hooks:
            hook.remove()


def _weighted_mean(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.bmm(weights[:, None], hidden.float())[:, 0]
