"""A language model that is loaded when it is needed, and once for all objects of a process that use it."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file, extract_commit_hash

from skllm4es.lm.adapters import underlying
from skllm4es.lm.loading import NO_CODE, load_base_model, load_causal_model, load_tokenizer, loading_errors
from skllm4es.lm.saving import damaged_model, fingerprint_of, hash_folder, read_fingerprint, save_model

#: Models that were loaded from disk, the latest last: shared by all embedders, so that clones do not load them again.
_SHARED: OrderedDict[tuple[str, torch.dtype, str], PreTrainedModel | PeftModel] = OrderedDict()
_MAX_SHARED = 2
#: What tokenizers say where they know of no limit is far above.
_NO_LIMIT = 10**9


class LanguageModel:
    """A language model and its tokenizer, held in memory or found in a directory or on the hub.

    Pickled, one that was found somewhere is found there again; one that is held, or `kept` in a cache, takes its
    weights along.

    Parameters
    ----------
    source : str, default=None
        Hub name or directory.
    kept : bool, default=False
        Whether the source is a cache, which may be emptied.
    model : transformers.PreTrainedModel or peft.PeftModel, default=None
        The model, if it is in memory.
    tokenizer : transformers.PreTrainedTokenizerBase, default=None
        Its tokenizer, likewise.
    """

    def __init__(
        self,
        source: str | None = None,
        *,
        kept: bool = False,
        model: PreTrainedModel | PeftModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.source = source
        self.kept = kept
        self.revision: str | None = None
        self._model = model
        self._tokenizer = tokenizer
        self._fingerprint: str | None = None
        self.config: PretrainedConfig
        if source is None:
            assert model is not None
            self.config = model.config
            return
        if kept and hash_folder(Path(source)) != read_fingerprint(Path(source)):
            raise damaged_model(source)
        with loading_errors(source):
            if not os.path.isdir(source):
                self.revision = _revision(source)
            name, revision = _innermost(source, self.revision)
            self.config = AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)
            if self.config.is_encoder_decoder:
                raise ValueError(f"{self.config.model_type} has an encoder and a decoder.")
        self._fingerprint = fingerprint_of(source, self.revision)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        if self._tokenizer is None:
            assert self.source is not None
            self._tokenizer = load_tokenizer(self.source, self.revision)
        return self._tokenizer

    @property
    def fingerprint(self) -> str:
        """Tells this model from any other, by its weights and its tokenizer."""
        if self._fingerprint is None:
            assert self._model is not None
            self._fingerprint = fingerprint_of_model(self._model, self.tokenizer)
        return self._fingerprint

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
        """Give the model, in evaluation mode.

        Parameters
        ----------
        dtype : torch.dtype
            The type of its weights.
        device : str
            Where it shall run.

        Returns
        -------
        transformers.PreTrainedModel
            The model. It may be shared: do not change it.
        """
        model = self._load(dtype, device)
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def save(self, directory: Path, dtype: torch.dtype, device: str) -> None:
        """Write the model and its tokenizer into a directory, of an adapter that was not merged the adapter alone.

        Parameters
        ----------
        directory : pathlib.Path
            An empty directory.
        dtype : torch.dtype
            The type of the weights.
        device : str
            Where the model runs.
        """
        save_model(directory, self._load(dtype, device), self.tokenizer)

    def kept_in(self, directory: str) -> LanguageModel:
        """Give the same model, held in memory, as one that is in a cache too.

        Parameters
        ----------
        directory : str
            Its directory there.

        Returns
        -------
        LanguageModel
            The model.
        """
        return LanguageModel(directory, kept=True, model=self._model, tokenizer=self._tokenizer)

    def _load(self, dtype: torch.dtype, device: str) -> PreTrainedModel | PeftModel:
        if self._model is not None:
            # The parameters alone, as `from_pretrained` does: rotary frequencies in half precision would cost accuracy.
            for weights in self._model.parameters():
                weights.data = weights.data.to(dtype)
            return self._model.to(device).eval()
        assert self.source is not None
        return _shared((self.fingerprint, dtype, device), lambda: self._read(dtype).to(device))

    def _read(self, dtype: torch.dtype) -> PreTrainedModel | PeftModel:
        assert self.source is not None
        if self.kept and not os.path.isdir(self.source):
            raise OSError(
                f"The fine-tuned model that was kept in {self.source} is not there any more: the cache was emptied, or "
                "memory_limit dropped it. Fit the embedder again; save_pretrained keeps one for good."
            )
        if fingerprint_of(self.source, self.revision) != self._fingerprint:
            raise OSError(f"The model in {self.source} is not the one that fit saw: it was changed since. Fit again.")
        return load_base_model(self.source, dtype, self.revision)

    def load_with_head(self, dtype: torch.dtype, device: str) -> PreTrainedModel:
        """Give the model as it stands in its source, with its head, to write with.

        Parameters
        ----------
        dtype : torch.dtype
            The type of its weights.
        device : str
            Where it shall run.

        Returns
        -------
        transformers.PreTrainedModel
            The model, in evaluation mode. It may be shared: do not change it.
        """
        assert self.source is not None
        source = self.source
        key = (f"{self.fingerprint} with its head", dtype, device)
        return _shared(key, lambda: load_causal_model(source, self.revision, dtype).to(device))

    def __getstate__(self) -> dict[str, Any]:
        if self.source is not None and not self.kept:
            return self.__dict__ | {"_tokenizer": None}
        # The weights as they are kept, not in the type in which they run; on the CPU, which every machine has.
        model = self._read(torch.float32) if self._model is None else self._model
        if model.device.type != "cpu":
            model = copy.deepcopy(model).to("cpu")
        return self.__dict__ | {"source": None, "kept": False, "_model": model, "_tokenizer": self.tokenizer}


def fingerprint_of_model(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the weights, the settings and the tokenizer of a model in memory.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        The model.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weights in model.base_model.state_dict().items():
        digest.update(f"{name} {weights.dtype} {tuple(weights.shape)}".encode())
        digest.update(weights.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(model.config.to_json_string().encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _innermost(source: str, revision: str | None) -> tuple[str, str | None]:
    """Find the model under all adapters; a recursion, so that adapters that stand on each other come to an end."""
    base = underlying(source)
    return (source, revision) if base is None else _innermost(*base)


def _shared(
    key: tuple[str, torch.dtype, str], read: Callable[[], PreTrainedModel | PeftModel]
) -> PreTrainedModel | PeftModel:
    """Find a model among the latest, or read it."""
    if key not in _SHARED:
        _SHARED[key] = read()
    _SHARED.move_to_end(key)
    while len(_SHARED) > _MAX_SHARED:
        _SHARED.popitem(last=False)
    return _SHARED[key]


def _revision(name: str) -> str | None:
    """Find the commit of a model of the hub, as it is here or there."""
    revision: str | None = extract_commit_hash(cached_file(name, "config.json"), None)
    return revision
