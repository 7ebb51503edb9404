"""A language model that is loaded when it is needed, and once for all objects of a process that use it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from skllm4es._compat import attention_of
from skllm4es.lm.architecture import FORWARD
from skllm4es.lm.loading import NO_CODE, loading_errors
from skllm4es.lm.seeding import PROCESS_STATE
from skllm4es.lm.sources import MemorySource, Model, Source, save_model

#: Models that were loaded from disk, the latest last: shared by all embedders, so that clones do not load them again.
_SHARED: OrderedDict[tuple[str, torch.dtype, str], Model] = OrderedDict()
_MAX_SHARED = 2
#: Tokenizers without a limit name one far above this.
_NO_LIMIT = 10**9


class LanguageModel:
    """A language model and its tokenizer, loaded from their source when they are needed.

    A pickle carries what names the source, or the weights where they cannot be found again.

    Parameters
    ----------
    source : Source
        Where they come from.

    Raises
    ------
    OSError
        If there is no such model, or one with an encoder and a decoder.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.config = source.read_config()
        with loading_errors(source.name):
            if self.config.is_encoder_decoder:
                raise ValueError(f"{self.config.model_type} has an encoder and a decoder.")
        if not isinstance(source, MemorySource):
            self.fingerprint  # noqa: B018  # As the files are now: they must not change until the model is loaded.

    @cached_property
    def fingerprint(self) -> str:
        """What identifies this model: its weights, settings and tokenizer."""
        return self.source.fingerprint()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self.source.read_tokenizer()

    @property
    def n_layers(self) -> int:
        """Number of hidden layers."""
        return int(self.config.get_text_config().num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Length of a hidden state."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def n_positions(self) -> int | None:
        """The most tokens that the model can see, if there is a limit."""
        limits = [getattr(self.config.get_text_config(), "max_position_embeddings", None)]
        # Encoders such as RoBERTa have positions that no token may take.
        limits.append(self.tokenizer.model_max_length)
        known = [int(limit) for limit in limits if limit is not None and limit < _NO_LIMIT]
        return min(known, default=None)

    def load(self, dtype: torch.dtype, device: str) -> PreTrainedModel:
        """Return the model in evaluation mode, to embed with. It may be shared: do not change it.

        Parameters
        ----------
        dtype : torch.dtype
            The type of its weights.
        device : str
            Where it runs.
        """
        model = self._load(dtype, device)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def attention(self, dtype: torch.dtype, device: str) -> str:
        """Return the name of the attention that the model runs, without reading its weights.

        Parameters
        ----------
        dtype : torch.dtype
            The type of its weights.
        device : str
            Where it runs.
        """
        if self.source.in_memory or (self.fingerprint, dtype, device) in _SHARED:
            return attention_of(self.load(dtype, device))
        with loading_errors(self.source.name), FORWARD, torch.device("meta"):
            return attention_of(AutoModel.from_config(copy.deepcopy(self.config), **NO_CODE))

    def load_with_head(self, dtype: torch.dtype, device: str) -> PreTrainedModel:
        """Return the model in evaluation mode with its head, to write with. It may be shared: do not change it."""
        key = (f"{self.fingerprint} with its head", dtype, device)
        return _shared(key, lambda: self.source.read_causal(dtype).to(device))

    def save(self, directory: Path, dtype: torch.dtype, device: str) -> None:
        """Write model and tokenizer into an empty directory; of an adapter that was not merged, the adapter alone."""
        save_model(directory, self._load(dtype, device), self.tokenizer)

    def _load(self, dtype: torch.dtype, device: str) -> Model:
        if self.source.in_memory:
            return self.source.read_base(dtype).to(device).eval()
        return _shared((self.fingerprint, dtype, device), lambda: self._read_unchanged(dtype).to(device))

    def _read_unchanged(self, dtype: torch.dtype) -> Model:
        if self.source.fingerprint() != self.fingerprint:
            raise OSError(f"The model in {self.source.name} is not the one that fit saw: it has changed. Fit again.")
        return self.source.read_base(dtype)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"source": self.source.portable()}
        state.pop("tokenizer", None)
        return state


def _shared(key: tuple[str, torch.dtype, str], read: Callable[[], Model]) -> Model:
    """Return a model from the latest ones, or read it."""
    with PROCESS_STATE:
        if key not in _SHARED:
            # Weights that are about to be read, or not used, may be drawn first; no GPU is needed for that.
            with torch.random.fork_rng(devices=[]):
                _SHARED[key] = read()
        _SHARED.move_to_end(key)
        while len(_SHARED) > _MAX_SHARED:
            _SHARED.popitem(last=False)
        return _SHARED[key]
