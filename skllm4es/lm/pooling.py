"""One forward pass over texts, reduced to one vector per layer as the hidden states appear.

What is kept of a text is the matrix of its layers' vectors: means over tokens and over layers commute, so any pooling
depth is a slice of it (paper, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from skllm4es.lm.architecture import (
    FORWARD,
    decoder_layers,
    decoder_of,
    exact_length,
    forget_length,
    is_causal,
    is_out_of_memory,
)
from skllm4es.lm.scores import score_tokens
from skllm4es.lm.windows import Window

#: Tokens in a batch, padding included. On one CPU 2k to 8k were equally fast; on another 0.5k to 2k, and 8k took 1.7
#: times as long.
TOKEN_BUDGET = {"cpu": 2048, "cuda": 65_536}
#: Batches after which results are passed on, and kept if there is a cache.
GROUP = 8
#: Pooled values that are held at once: 256 MB.
_MOST_VALUES = 2**26

FloatArray = npt.NDArray[np.float32]


def token_weights(pooling: str, windows: Sequence[Window]) -> list[FloatArray]:
    """Return the weights of the tokens of each window of one text; they sum to one.

    Parameters
    ----------
    pooling : {"mean", "rest", "events", "last", "max"}
        The mean over all tokens (the paper's), over all but the first of each window, or over those of events; the last
        token; the maximum of each dimension, for which weights have no meaning. What later windows repeat counts once.
    windows : sequence of Window
        The windows, in order.

    Returns
    -------
    list of ndarray of shape (n_tokens,), dtype float32
        One array per window.
    """
    sizes = [len(window.ids) for window in windows]
    n_skipped = [window.n_repeated for window in windows]
    if pooling == "rest":
        n_skipped = [max(1, window.n_repeated) for window in windows]
    elif pooling == "events":
        n_skipped = [max(window.n_header, window.n_repeated) for window in windows]
    weights = np.concatenate([np.arange(size) >= n for size, n in zip(sizes, n_skipped, strict=True)]).astype(float)
    if not weights.any():  # The text of a user without events is the header alone; an empty text may be one token.
        weights[:] = 1
    if pooling == "last":
        weights[:-1] = 0
    return np.split((weights / weights.sum()).astype(np.float32), np.cumsum(sizes)[:-1])


class LayerPooler:
    """Run a model over texts and pool the hidden states of every layer.

    Windows are sorted by length and filled into batches by tokens. They are padded on the right, and a causal model
    gets no attention mask: a token does not see what follows it, so the padding reaches no real token, and attention
    takes its fastest path. A bidirectional encoder gets a mask.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A language model; its head is not run.
    pooling : {"mean", "rest", "events", "last", "max"}
        How tokens are pooled (see `token_weights`).
    token_budget : int, default=None
        Tokens in a batch, padding included; by default what suits the device. It is halved whenever memory runs out.
    scored : ndarray of shape (n_tokens,), default=None
        Tokens whose scores are computed as well (see `skllm4es.lm.scores`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pooling: str,
        token_budget: int | None = None,
        scored: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.decoder = decoder_of(model)
        self.layers = decoder_layers(self.decoder)
        self.pooling = pooling
        self.token_budget = token_budget or TOKEN_BUDGET.get(model.device.type, TOKEN_BUDGET["cpu"])
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        model.eval()
        self.masked = not is_causal(model)
        if self.masked and scored is not None:
            raise ValueError(
                f"Scores need a model that predicts the next token, and {type(model).__name__} sees it. Read its "
                "hidden states instead."
            )
        self.scored = None if scored is None else torch.tensor(scored, device=model.device)
        # In float32: scores are small differences, and bfloat16 would round each prediction by some per cent.
        self.output = None if scored is None else self.decoder.get_input_embeddings().weight.detach().float()

    def pool(self, texts: Sequence[Sequence[Window]]) -> Iterator[tuple[list[int], FloatArray, FloatArray]]:
        """Pool texts, group by group, the longest first.

        Parameters
        ----------
        texts : sequence of sequence of Window
            The windows of each text.

        Yields
        ------
        positions : list of int
            Which texts.
        layers : ndarray of shape (n_positions, n_layers + 1, hidden_size), dtype float32
            Entry 0 pools the input of the first layer (the embedded tokens), entry l the output of layer l; the last
            one is taken after the final norm, as in the `hidden_states` of transformers.
        scores : ndarray of shape (n_positions, n_tokens), dtype float32
            The scores of the tokens that are scored.
        """
        # Longest first, so that memory runs out at once or never.
        order = np.argsort([-sum(len(window.ids) for window in windows) for windows in texts], kind="stable").tolist()
        group: list[int] = []
        n_tokens = 0
        for position in order:
            group.append(position)
            n_tokens += sum(len(window.ids) for window in texts[position])
            n_values = len(group) * (len(self.layers) + 1) * self.hidden_size
            if n_tokens >= GROUP * self.token_budget or n_values >= _MOST_VALUES:
                yield group, *self._pool_group([texts[i] for i in group])
                group, n_tokens = [], 0
        if group:
            yield group, *self._pool_group([texts[i] for i in group])

    def _pool_group(self, texts: Sequence[Sequence[Window]]) -> tuple[FloatArray, FloatArray]:
        owners = [owner for owner, windows in enumerate(texts) for _ in windows]
        sequences = [window for windows in texts for window in windows]
        weights = [window_weights for windows in texts for window_weights in token_weights(self.pooling, windows)]
        highest = self.pooling == "max"
        pooled = np.full(
            (len(texts), len(self.layers) + 1, self.hidden_size), -np.inf if highest else 0, dtype=np.float32
        )
        scores = np.zeros((len(texts), 0 if self.scored is None else len(self.scored)), dtype=np.float32)
        combine = np.maximum if highest else np.add
        pending = np.argsort([-len(sequence.ids) for sequence in sequences], kind="stable").tolist()
        while pending:
            longest = len(sequences[pending[0]].ids)
            if longest > exact_length(self.decoder, longest):
                forget_length(self.decoder)
                batch = pending[:1]
            else:
                batch = pending[: max(1, self.token_budget // longest)]
            pooled_batch = self._run_if_it_fits([sequences[i] for i in batch], [weights[i] for i in batch])
            if pooled_batch is None:
                self.token_budget = longest * (len(batch) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            combine.at(pooled, [owners[i] for i in batch], pooled_batch[0])
            np.add.at(scores, [owners[i] for i in batch], pooled_batch[1])
            pending = pending[len(batch) :]
        if not (np.isfinite(pooled).all() and np.isfinite(scores).all()):
            raise ValueError(
                f"Hidden states became infinite or NaN in {str(self.decoder.dtype)[6:]}. Use float32, or bfloat16, "
                "which has its range."
            )
        return pooled, scores

    def _run_if_it_fits(
        self, sequences: Sequence[Window], weights: Sequence[FloatArray]
    ) -> tuple[FloatArray, FloatArray] | None:
        """Run a batch; return None where memory is too small for it, but may be large enough for half of it."""
        try:
            return self._run(sequences, weights)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(sequences) == 1:
                raise MemoryError(
                    f"{len(sequences[0].ids):,} tokens do not fit into the memory of {self.decoder.device} at once: "
                    f"{error}. Shorten the window, or choose a smaller model."
                ) from error
            return None  # The error's traceback holds on to what was computed so far, and goes with it.

    @torch.inference_mode()
    def _run(self, sequences: Sequence[Window], weights: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
        device = self.decoder.device
        lengths = [len(sequence.ids) for sequence in sequences]
        width = max(lengths)
        ids = torch.tensor([[*sequence.ids, *[0] * (width - len(sequence.ids))] for sequence in sequences]).to(device)
        present = torch.tensor(lengths)[:, None] > torch.arange(width)
        padded = np.zeros((len(sequences), width), dtype=np.float32)
        for row, token_weights_ in zip(padded, weights, strict=True):
            row[: len(token_weights_)] = token_weights_
        reduction = _Reduction(torch.from_numpy(padded).to(device), None)
        if self.pooling == "max":
            reduction = _Reduction(reduction.weights, ~present.to(device)[:, :, None])
        mask = {"attention_mask": present.long().to(device)} if self.masked else {}
        with FORWARD, _reduced_inputs(self.layers, reduction) as reduced:
            last = self.decoder(input_ids=ids, use_cache=False, **mask).last_hidden_state
        reduced.append(reduction(last))
        scores = torch.zeros(len(sequences), 0, dtype=torch.float32)
        if self.scored is not None and self.output is not None:
            # The header line says nothing about the user.
            n_skipped = torch.tensor([max(sequence.n_header, sequence.n_repeated) for sequence in sequences])
            events = n_skipped[:, None] <= torch.arange(width)
            scores = score_tokens(last, self.output, ids, (present & events).to(device), self.scored)
        return torch.stack(reduced, dim=1).cpu().numpy(), scores.cpu().numpy()


def unit_mean(layers: FloatArray) -> npt.NDArray[np.float64]:
    """Return the mean, of shape (hidden_size,), of layers of a text, each brought to unit length, as norms differ."""
    wide = layers.astype(np.float64)  # Squares of large values overflow float32.
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    mean: npt.NDArray[np.float64] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0).mean(axis=0)
    return mean


@dataclass(frozen=True)
class _Reduction:
    """From hidden states (n, width, hidden) to (n, hidden): a weighted sum, or the maximum over what is not absent."""

    weights: torch.Tensor
    absent: torch.Tensor | None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.absent is not None:
            return hidden.float().masked_fill(self.absent, -torch.inf).amax(dim=1)
        return torch.bmm(self.weights[:, None], hidden.float())[:, 0]


@contextmanager
def _reduced_inputs(layers: torch.nn.ModuleList, reduction: _Reduction) -> Iterator[list[torch.Tensor]]:
    """Collect the input of each layer, reduced as it comes in."""
    reduced: list[torch.Tensor] = []

    def reduce(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reduced.append(reduction(args[0] if args else kwargs["hidden_states"]))

    hooks = [layer.register_forward_pre_hook(reduce, with_kwargs=True) for layer in layers]
    try:
        yield reduced
    finally:
        for hook in hooks:
            hook.remove()
