"""One forward pass over texts, reduced to one vector a layer as the hidden states appear.

What is kept of a text is the matrix of its layers' vectors: means over tokens and over layers commute, so any pooling
depth, any set of layers and their concatenation are slices of it (paper, section 3.4).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from skllm4es.lm.packing import Window
from skllm4es.lm.scores import score_tokens

#: Tokens in a batch, padding included. On one CPU 2k to 8k were equally fast; on another 0.5k to 2k, and 8k took 1.7
#: times as long.
TOKEN_BUDGET = {"cpu": 2048, "cuda": 65_536}
#: Batches after which results are handed on, and kept if there is a cache.
GROUP = 8

FloatArray = npt.NDArray[np.float32]

# Embedders share models, so one thread at a time: a hook is called for every forward pass of its model.
_FORWARD = threading.Lock()
_CAUSAL: weakref.WeakKeyDictionary[PreTrainedModel, bool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class TokenPooling:
    """How the hidden states of a text's tokens become one vector.

    Parameters
    ----------
    kind : {"mean", "last", "max", "events", "recency"}
        The mean over all tokens (the paper's), the last token, the maximum, the mean without instruction and header,
        or the mean with weights that halve every `half_life` tokens before the end.
    half_life : float, default=256
        For "recency", in tokens.
    """

    kind: Literal["mean", "last", "max", "events", "recency"] = "mean"
    half_life: float = 256.0

    def weights(self, windows: Sequence[Window]) -> list[FloatArray]:
        """Weights of the tokens of each window of one text; they sum to one but for "max", where they are unused.

        Parameters
        ----------
        windows : sequence of Window
            The windows, in order.

        Returns
        -------
        list of ndarray of shape (n_tokens,), dtype float32
            One array a window.
        """
        sizes = [len(window.ids) for window in windows]
        total = sum(sizes)
        weights = np.ones(total)
        if self.kind == "last":
            weights[:-1] = 0
        elif self.kind == "recency":
            weights = 0.5 ** (np.arange(total)[::-1] / self.half_life)
        elif self.kind == "events":
            headers = [window.n_header for window in windows]
            events = np.concatenate([np.arange(size) >= n for size, n in zip(sizes, headers, strict=True)])
            if events.any():  # A text of a user without events has its header alone.
                weights = events.astype(float)
        return np.split((weights / weights.sum()).astype(np.float32), np.cumsum(sizes)[:-1])


class LayerPooler:
    """Runs a model over texts and pools the hidden states of every layer.

    Windows are sorted by length and filled into batches by tokens. They are padded on the right, and a causal model
    gets no attention mask: a token does not see what follows it, so the padding reaches no real token, and attention
    takes its fastest path. A bidirectional encoder gets a mask.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A language model; its head is not run.
    pooling : TokenPooling
        How tokens are pooled.
    token_budget : int, default=None
        Tokens in a batch, padding included; by default as many as suit the device. It is halved whenever memory runs
        out.
    scored : ndarray of shape (n_tokens,), default=None
        Tokens whose scores are computed too (see `skllm4es.lm.scores`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pooling: TokenPooling,
        token_budget: int | None = None,
        scored: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.decoder = model.base_model
        self.layers = decoder_layers(self.decoder)
        self.pooling = pooling
        self.token_budget = token_budget or TOKEN_BUDGET.get(model.device.type, TOKEN_BUDGET["cpu"])
        self.hidden_size = int(model.config.get_text_config().hidden_size)
        model.eval()
        self.masked = not is_causal(model)
        if self.masked and scored is not None:
            raise ValueError(
                "Scores are of a model that predicts the next token, and this one sees it. Set features='hidden'."
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
            The scores of the tokens that are scored, if there are any.
        """
        # Longest first, so that memory runs out at once or never.
        order = np.argsort([-sum(len(window.ids) for window in windows) for windows in texts], kind="stable").tolist()
        group: list[int] = []
        n_tokens = 0
        for position in order:
            group.append(position)
            n_tokens += sum(len(window.ids) for window in texts[position])
            if n_tokens >= GROUP * self.token_budget:
                yield group, *self._pool_group([texts[i] for i in group])
                group, n_tokens = [], 0
        if group:
            yield group, *self._pool_group([texts[i] for i in group])

    def _pool_group(self, texts: Sequence[Sequence[Window]]) -> tuple[FloatArray, FloatArray]:
        owners = [owner for owner, windows in enumerate(texts) for _ in windows]
        sequences = [window for windows in texts for window in windows]
        weights = [each for windows in texts for each in self.pooling.weights(windows)]
        highest = self.pooling.kind == "max"
        pooled = np.full(
            (len(texts), len(self.layers) + 1, self.hidden_size), -np.inf if highest else 0, dtype=np.float32
        )
        scores = np.zeros((len(texts), 0 if self.scored is None else len(self.scored)), dtype=np.float32)
        combine = np.maximum if highest else np.add
        pending = np.argsort([-len(sequence.ids) for sequence in sequences], kind="stable").tolist()
        while pending:
            batch = pending[: max(1, self.token_budget // len(sequences[pending[0]].ids))]
            pooled_batch = self._run_if_it_fits([sequences[i] for i in batch], [weights[i] for i in batch])
            if pooled_batch is None:
                self.token_budget = len(sequences[pending[0]].ids) * (len(batch) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            combine.at(pooled, [owners[i] for i in batch], pooled_batch[0])
            np.add.at(scores, [owners[i] for i in batch], pooled_batch[1])
            pending = pending[len(batch) :]
        if not (np.isfinite(pooled).all() and np.isfinite(scores).all()):
            raise ValueError(
                f"Hidden states became infinite or NaN in {str(self.decoder.dtype)[6:]}. Set dtype='float32', or "
                "'bfloat16', which has its range."
            )
        return pooled, scores

    def _run_if_it_fits(
        self, sequences: Sequence[Window], weights: Sequence[FloatArray]
    ) -> tuple[FloatArray, FloatArray] | None:
        """Run a batch; give None where memory is too small for it, but not for half of it."""
        try:
            return self._run(sequences, weights)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(sequences) == 1:
                raise MemoryError(
                    f"{len(sequences[0].ids):,} tokens at once do not fit into the memory of {self.decoder.device}: "
                    f"{error}. Lower max_length, or choose a smaller model."
                ) from error
            return None  # And with the error goes its traceback, which holds on to what was computed so far.

    @torch.inference_mode()
    def _run(self, sequences: Sequence[Window], weights: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
        device = self.decoder.device
        lengths = [len(sequence.ids) for sequence in sequences]
        width = max(lengths)
        ids = torch.tensor([[*sequence.ids, *[0] * (width - len(sequence.ids))] for sequence in sequences]).to(device)
        present = torch.tensor(lengths)[:, None] > torch.arange(width)
        padded = np.zeros((len(sequences), width), dtype=np.float32)
        for row, each in zip(padded, weights, strict=True):
            row[: len(each)] = each
        reduction = _Reduction(torch.from_numpy(padded).to(device), None)
        if self.pooling.kind == "max":
            reduction = _Reduction(reduction.weights, ~present.to(device)[:, :, None])
        mask = {"attention_mask": present.long().to(device)} if self.masked else {}
        with _FORWARD, _reduced_inputs(self.layers, reduction) as reduced:
            last = self.decoder(input_ids=ids, use_cache=False, **mask).last_hidden_state
        reduced.append(reduction(last))
        scores = torch.zeros(len(sequences), 0)
        if self.scored is not None and self.output is not None:
            # What the header line holds says nothing of the user.
            events = torch.tensor([sequence.n_header for sequence in sequences])[:, None] <= torch.arange(width)
            scores = score_tokens(last, self.output, ids, (present & events).to(device), self.scored)
        return torch.stack(reduced, dim=1).cpu().numpy(), scores.cpu().numpy()


@dataclass(frozen=True)
class _Reduction:
    """From hidden states (n, width, hidden) to (n, hidden): a weighted sum, or the maximum where nothing is absent."""

    weights: torch.Tensor
    absent: torch.Tensor | None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.absent is not None:
            return hidden.float().masked_fill(self.absent, -torch.inf).amax(dim=1)
        return torch.bmm(self.weights[:, None], hidden.float())[:, 0]


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


def is_causal(model: PreTrainedModel) -> bool:
    """Tell, by trying once, whether no token of a model sees what follows it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, in evaluation mode.

    Returns
    -------
    bool
        False for bidirectional encoders.
    """
    if model not in _CAUSAL:
        _CAUSAL[model] = _try_causality(model)
    return _CAUSAL[model]


@torch.inference_mode()
def _try_causality(model: PreTrainedModel) -> bool:
    n_same, n_other = 4, 12
    ids = torch.arange(n_same + 2 * n_other) % model.config.get_text_config().vocab_size
    same, one, other = ids.to(model.device).split([n_same, n_other, n_other])
    texts = torch.stack([torch.cat([same, one]), torch.cat([same, other])])
    with _FORWARD:
        hidden = model.base_model(input_ids=texts).last_hidden_state[:, :n_same].float()
    return bool((hidden[0] - hidden[1]).abs().max() <= 1e-5 * hidden.abs().max())


@contextmanager
def _reduced_inputs(layers: torch.nn.ModuleList, reduction: _Reduction) -> Iterator[list[torch.Tensor]]:
    """Collect, reduced, what goes into each layer, as it goes in."""
    reduced: list[torch.Tensor] = []

    def reduce(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reduced.append(reduction(args[0] if args else kwargs["hidden_states"]))

    hooks = [layer.register_forward_pre_hook(reduce, with_kwargs=True) for layer in layers]
    try:
        yield reduced
    finally:
        for hook in hooks:
            hook.remove()


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory ran out, on whatever device.

    Parameters
    ----------
    error : Exception
        The error.

    Returns
    -------
    bool
        Whether it does.
    """
    messages = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)
