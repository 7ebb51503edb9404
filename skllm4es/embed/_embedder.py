"""LLMEmbedder: the last step of the flow, from texts to one vector per user."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skllm4es._compat import HasMethods, Interval, StrOptions, fit_context
from skllm4es._messages import warn
from skllm4es._store import directory_of
from skllm4es._texts import TEXT, read_texts
from skllm4es.embed._callbacks import CallbackSupportMixin, fit_told_to_callbacks

if TYPE_CHECKING:
    from skllm4es.lm.cache import Cache, CacheInfo
    from skllm4es.lm.embedding import Embedded, TextEmbedder
    from skllm4es.lm.finetuning import Course
    from skllm4es.lm.language_model import LanguageModel
    from skllm4es.lm.scores import ScoreProjection
    from skllm4es.lm.training import Training

#: The paper's pooling depth.
_PAPER_DEPTH = 8

#: The paper's schedule for pretrained models; ten times its learning rate for LoRA, as "LoRA Without Regret" (Schulman
#: et al., 2025) finds; from scratch, what benchmarks/bench_from_scratch.py found best on users held out, of 20,000 and
#: of 450,000 tokens: many small steps.
_SCHEDULES: dict[str, dict[str, Any]] = {
    "full": {"epochs": 2, "learning_rate": 1e-5, "weight_decay": 1e-6, "batch_tokens": 16_384},
    "lora": {"epochs": 2, "learning_rate": 1e-4, "weight_decay": 1e-6, "batch_tokens": 16_384},
    "scratch": {"epochs": None, "learning_rate": 5e-3, "weight_decay": 1e-2, "batch_tokens": 512},
}

#: What `save_pretrained` writes of the fitted state, beside the model.
_SAVED = (
    "features_",
    "layers_",
    "max_length_",
    "loss_curve_",
    "validation_loss_curve_",
    "n_tokens_seen_",
    "training_time_",
    "n_truncated_",
    "dtype_",
)


#: Settings of models that change their predictions after the output layer.
_RESCALING = ("final_logit_softcapping", "logits_scaling", "logit_scale")

#: Texts from which the principal directions of scores are found, if there are more.
_ENOUGH_TEXTS = 8192

#: Parameters that `save_pretrained` leaves out: directories, and texts that only `fit` needs.
_OF_THIS_MACHINE = {"memory": None, "memory_limit": None, "checkpoint_dir": None, "extra_texts": None}


class LLMEmbedder(CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Embed each user's text by a language model that is fine-tuned on the users' texts.

    `fit` trains a causal language model by next-token prediction; `transform` runs it over a text and takes the
    mean over tokens of the mean of the last `pooling_depth` hidden layers, or, of a model that was made from scratch,
    what the user did more and less often than the model expected.

    Parameters
    ----------
    model : str, path or dict, default=None
        The language model: a name on the model hub or a local directory. By default a small Llama is trained from
        scratch, offline, on the texts, with a tokenizer of its own to which common field values are one token; a dict
        replaces settings of its :class:`transformers.LlamaConfig`, for example ``{"num_hidden_layers": 2}``.
    features : {"auto", "hidden", "scores", "both"}, default="auto"
        What the embedding consists of: "hidden" the pooled hidden states, as in the paper; "scores" the principal
        components of how often each token occurs less how often the model expected it; "both" side by side. "auto" is
        "scores" for a model from scratch, which has seen too little text for its hidden states to tell users apart as
        well (benchmarks/bench_quality.py), and "hidden" for a pretrained model, and wherever `pooling_depth`, `layers`,
        `layer_pooling` or `token_pooling` is set.
    n_score_components : int, default=128
        How many components of the scores; there are no more than distinct texts in `fit`, or tokens that are followed.
    pooling_depth : int or "auto", default="auto"
        How many of the last hidden layers are averaged. "auto" is 8, as in the paper, or all layers of a model that
        has fewer.
    layers : sequence of int, default=None
        Pool these hidden layers instead of the last `pooling_depth`: 0 is the input of the first layer (the embedded
        tokens), l the output of layer l, -1 that of the last layer.
    layer_pooling : {"mean", "concat"}, default="mean"
        Whether the layers are averaged or put side by side, lowest first.
    token_pooling : {"mean", "last", "max", "events", "recency"}, default="mean"
        How the tokens of a text are pooled: their mean, the last one, the maximum of each dimension, the mean without
        instruction and header line, or a mean in which the weight of a token halves every `half_life` tokens before the
        end.
    half_life : float, default=256
        In tokens, for ``token_pooling="recency"``.
    finetune : {"full", "lora"} or None, default="full"
        "full" trains all weights, as the paper does. "lora" trains small matrices beside the weights of a pretrained
        model (peft), which takes a fraction of the memory. None leaves a pretrained model as it is.
    max_length : int or "auto", default="auto"
        The most tokens that the model sees at once. "auto" is 2048, or the number of positions of a model that has
        fewer.
    overflow : {"chunk", "truncate"}, default="chunk"
        What is embedded of a text with more than `max_length` tokens: all of it, in windows that are averaged by
        their number of tokens, or its header and latest events alone.
    n_params : int or "auto", default="auto"
        About how many weights the model has that is trained from scratch. "auto" is one for each token of text that it
        sees.
    extra_texts : dataframe, series, ndarray or list of str, default=None
        Texts of further users to train on, such as those without a label; read as `X` of `fit` is. Like every
        parameter they are part of a pickle; a series or frame is shown faster than a list.
    epochs : float, default=None
        How often training sees each text. By default 2 for pretrained models. From scratch once, but as often as makes
        100,000 tokens, at most ten times, and a part of the texts where there are more than 500,000 tokens, which is
        enough for "scores"; ``n_tokens_seen_`` tells.
    learning_rate : float, default=None
        The highest learning rate, from which it falls as a cosine; by default 1e-5 for pretrained models (1e-4 with
        LoRA) and 5e-3 from scratch.
    warmup : float, default=None
        Share of the steps (below 1) or number of steps (from 1) over which the learning rate rises; by default 608
        steps, as in the authors' code, or a tenth of a training of fewer than 6,080.
    weight_decay : float, default=None
        Weight decay of AdamW (betas 0.9 and 0.95); 1e-6 for pretrained models and 1e-2 from scratch by default.
    batch_tokens : int, default=None
        About how many tokens there are in the batch of one step: as many windows of `max_length` are accumulated, over
        all devices. 16,384 for pretrained models and 512 from scratch by default; a text is never split for this.
    validation_fraction : float, default=None
        Share of the users to hold out. Training stops when the loss on their texts does not fall any more, and the
        weights with the lowest are taken.
    patience : int, default=5
        Evaluations without a lower loss on the users held out, after which training stops. There are about ten
        evaluations in a training; ``training_args={"eval_steps": 20, "save_steps": 20}`` sets another rhythm.
    gradient_checkpointing : bool, default=False
        Whether to compute hidden states again in the backward pass instead of holding them: less memory, about a sixth
        more time on a CPU.
    lora_args : dict, default=None
        Settings of :class:`peft.LoraConfig`, for ``finetune="lora"``, that replace ours, which are
        ``{"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}``.
    merge_adapter : bool, default=True
        Whether a LoRA adapter becomes part of the weights. If not, `memory` and `save_pretrained` keep the adapter
        alone, a few megabytes, and need the pretrained model where it was.
    training_args : dict, default=None
        Further settings of :class:`transformers.TrainingArguments`, such as
        ``{"report_to": "tensorboard"}``, ``{"adam_beta2": 0.999}`` or ``{"fsdp": "full_shard"}``.
    checkpoint_dir : str or path, default=None
        Directory where training is saved from time to time. A `fit` that was interrupted goes on from there when it is
        called again with the same texts and parameters, and ends with the same weights. What it keeps there is removed
        when it ends; what is left of trainings that were never taken up again is yours to remove. Needs a
        `random_state`.
    device : str, default=None
        Where the model runs, as torch names it; a GPU where there is one by default.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        The type of the weights with which `transform` runs. "auto" is bfloat16 on a device that multiplies it faster
        than float32. Fine-tuning has float32 weights. What `fit` resolves (`layers_`, `max_length_`, `device_`,
        `dtype_`) stays until the next `fit`; the other parameters of pooling act on the next `transform`.
    memory : str, path or joblib.Memory, default=None
        Directory that keeps fine-tuned models and each text's pooled layers, so that neither is computed twice: a
        search over `pooling_depth` costs one fine-tuning a fold and one pass over each text. Several processes may
        share it, on a local disk; a text that two of them need at the same time is embedded by both. With
        ``random_state=None`` the model that is found is the one of the first `fit`.
    memory_limit : int, default=None
        Size in bytes above which `memory` drops what was used least recently; no limit by default. Models that were
        used within the last hour stay.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights and the order of training.
    verbose : int, default=0
        Whether to show progress bars.

    Attributes
    ----------
    features_ : str
        What the embedding consists of: "hidden", "scores" or "both".
    layers_ : list of int
        The hidden layers that are pooled, from 0 for the embedded tokens.
    max_length_ : int
        The most tokens that the model sees at once.
    loss_curve_ : list of float
        Next-token loss in nats a token over the course of training; empty without fine-tuning.
    validation_loss_curve_ : list of float
        That of the users held out, at each evaluation; empty without `validation_fraction`.
    n_tokens_seen_ : int
        Tokens trained on, each counted as often as it was seen.
    training_time_ : float
        Seconds of training; of an interrupted one, those since it went on.
    n_truncated_ : int
        How many texts of the latest `transform` were cut.
    device_ : str
        Where the model runs.
    dtype_ : str
        The type of the weights with which `transform` runs.
    n_features_out_ : int
        The length of an embedding.

    See Also
    --------
    TextEnricher : The previous step, which adds texts to train on.

    Notes
    -----
    With token-wise hidden states :math:`H_l` of the L layers, the embedding is
    :math:`\mathrm{mean}_{tokens}(\frac{1}{k} \sum_{l=L-k+1}^{L} H_l)`, where :math:`H_l` is the output of layer l
    and :math:`H_L` is taken after the final norm, as in the `hidden_states` of transformers (LLM4ES, arXiv
    2508.05688, section 3.4). Special tokens that the tokenizer puts before a text, such as ``<s>``, count as tokens.

    The score of a token v of the vocabulary is :math:`s_v = \sum_t (1[x_t = v] - P(v \mid x_{<t}))`, without the
    header line: the gradient of the text's log-likelihood in the bias of the output layer, as in the Fisher kernel of
    Jaakkola and Haussler (1998). Scores of the tokens that five texts share are divided by the power 7/8 of their root
    mean square over the texts of `fit`; their vector is brought to unit length and projected onto the principal
    directions of these texts (of 8,192 of them, if there are more).

    Each distinct text is embedded once. A vector does not depend on the other texts, but for rounding: by 1e-6 in
    float32 and 1e-2 in bfloat16, relative to its length.

    Pickled, an embedder takes along the weights that it trained, but only the name or directory of a model that it
    left as it was, or that `from_pretrained` read.

    The paper's best model learned from two data sets: fit one embedder on the texts of both, or pass those of the
    second as `extra_texts`, and use it in the pipelines of both as it is, in a
    :class:`~sklearn.frozen.FrozenEstimator`.

    In a script that ``torchrun`` or ``accelerate launch`` starts in several processes, `fit` trains data-parallel (or
    as accelerate's configuration says) and `transform` shares the users out; each process has the whole result. So each
    of them must call both, with the same data, and joblib's `n_jobs` is left at one. The directories `memory` and
    `checkpoint_dir` must be the same for all.

    With "events", the tokens that a tokenizer puts at the end of a text, as those of encoders do, count as events.

    Examples
    --------
    >>> from skllm4es import LLMEmbedder
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4", "title|rating\nBambi, 1"]
    >>> tiny = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> LLMEmbedder(tiny, pooling_depth=2, random_state=0).fit_transform(texts).shape
    (2, 8)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "model": [str, os.PathLike, Mapping, None],
        "features": [StrOptions({"auto", "hidden", "scores", "both"})],
        "n_score_components": [Interval(Integral, 1, None, closed="left")],
        "pooling_depth": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "layers": ["array-like", None],
        "layer_pooling": [StrOptions({"mean", "concat"})],
        "token_pooling": [StrOptions({"mean", "last", "max", "events", "recency"})],
        "half_life": [Interval(Real, 0, None, closed="neither")],
        "finetune": [StrOptions({"full", "lora"}), None],
        "max_length": [Interval(Integral, 8, None, closed="left"), StrOptions({"auto"})],
        "overflow": [StrOptions({"chunk", "truncate"})],
        "n_params": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "extra_texts": ["array-like", HasMethods("to_list"), HasMethods("columns"), None],
        "epochs": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "warmup": [Interval(Real, 0, None, closed="left"), None],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "batch_tokens": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "gradient_checkpointing": ["boolean"],
        "lora_args": [Mapping, None],
        "merge_adapter": ["boolean"],
        "training_args": [Mapping, None],
        "checkpoint_dir": [str, os.PathLike, None],
        "device": [str, None],
        "dtype": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "memory": [str, os.PathLike, HasMethods(["cache"]), None],
        "memory_limit": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        features: str = "auto",
        n_score_components: int = 128,
        pooling_depth: int | str = "auto",
        layers: Sequence[int] | None = None,
        layer_pooling: str = "mean",
        token_pooling: str = "mean",
        half_life: float = 256,
        finetune: str | None = "full",
        max_length: int | str = "auto",
        overflow: str = "chunk",
        n_params: int | str = "auto",
        extra_texts: Any = None,
        epochs: float | None = None,
        learning_rate: float | None = None,
        warmup: float | None = None,
        weight_decay: float | None = None,
        batch_tokens: int | None = None,
        validation_fraction: float | None = None,
        patience: int = 5,
        gradient_checkpointing: bool = False,
        lora_args: Mapping[str, Any] | None = None,
        merge_adapter: bool = True,
        training_args: Mapping[str, Any] | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        device: str | None = None,
        dtype: str = "auto",
        memory: str | os.PathLike[str] | joblib.Memory | None = None,
        memory_limit: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.features = features
        self.n_score_components = n_score_components
        self.pooling_depth = pooling_depth
        self.layers = layers
        self.layer_pooling = layer_pooling
        self.token_pooling = token_pooling
        self.half_life = half_life
        self.finetune = finetune
        self.max_length = max_length
        self.overflow = overflow
        self.n_params = n_params
        self.extra_texts = extra_texts
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.batch_tokens = batch_tokens
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.gradient_checkpointing = gradient_checkpointing
        self.lora_args = lora_args
        self.merge_adapter = merge_adapter
        self.training_args = training_args
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.dtype = dtype
        self.memory = memory
        self.memory_limit = memory_limit
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fine-tune the language model on texts.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. Where there are columns besides ``text``, as `TextEnricher` gives them, these are trained on, and
            ``text`` is not, unless the scores of a model from scratch are read: it knows that form from nowhere else.
        y : None
            Ignored.

        Returns
        -------
        self : LLMEmbedder
            The fitted embedder.
        """
        self._fit(X)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Any, y: Any = None) -> npt.NDArray[np.float32]:
        """Fine-tune the language model on texts, and embed them.

        Like `fit` and `transform` one after the other, but the language model runs over each text once where score
        features need it twice.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts, as for `fit`.
        y : None
            Ignored.

        Returns
        -------
        embeddings : ndarray of shape (n_users, `n_features_out_`), dtype float32
            One vector a user, in the order of `X`.
        """
        return self._transform(X, self._fit(X))

    def _fit(self, X: Any) -> list[Embedded]:
        """Do what `fit` does; give what was embedded on the way."""
        # Scores are those of the raw texts, whose form a model from scratch knows from nowhere else.
        features = self._resolve_features()
        raw = self._from_scratch and features != "hidden"
        texts, corpus = _texts_of_users(X, raw=raw)
        if not corpus:
            raise ValueError("LLMEmbedder: found 0 texts in X; a minimum of 1 is required.")
        if self.extra_texts is not None:
            more_texts, more_corpus = _texts_of_users(self.extra_texts, raw=raw)
            texts, corpus = texts + more_texts, corpus + more_corpus
        with fit_told_to_callbacks(self) as callbacks:
            language_model, course = self._language_model(corpus, callbacks)
        layers = self._resolve_layers(language_model.n_layers)
        max_length = self._resolve_length(language_model.n_positions)
        device, dtype = self._resolve_device()
        projection: ScoreProjection | None = None
        embedded: list[Embedded] = []
        if features != "hidden":
            embedder = self._text_embedder(language_model, dtype, device, max_length)
            projection, embedded = self._fit_scores(embedder, texts)
        # All at the end, so that a fit that fails leaves the embedder as it was.
        self._language_model_, self.layers_, self.max_length_ = language_model, layers, max_length
        self.loss_curve_, self.validation_loss_curve_ = course.losses, course.validation_losses
        self.n_tokens_seen_, self.training_time_ = course.n_tokens, course.seconds
        self.n_truncated_ = 0
        self.device_, self.dtype_ = device, dtype
        self.features_, self._projection_ = features, projection
        return embedded

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Embed texts.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. Where there are several columns, ``text`` is embedded.

        Returns
        -------
        embeddings : ndarray of shape (n_users, `n_features_out_`), dtype float32
            One vector a user, in the order of `X`.
        """
        return self._transform(X)

    def _transform(self, X: Any, known: Sequence[Embedded] = ()) -> npt.NDArray[np.float32]:
        check_is_fitted(self)
        texts = read_texts(X, caller="LLMEmbedder")[TEXT]
        embeddings = np.empty((len(texts), self.n_features_out_), dtype=np.float32)
        for rows, layers, scores in self._embedded(texts, known):
            parts = []
            if self.features_ != "scores":
                chosen = layers[self.layers_]
                parts.append(chosen.ravel() if self.layer_pooling == "concat" else chosen.mean(axis=0))
            if self._projection_ is not None:
                parts.append(self._projection_(scores[None])[0])
            embeddings[rows] = np.concatenate(parts)
        return embeddings

    def transform_layers(self, X: Any) -> npt.NDArray[np.float32]:
        """Give the pooled hidden states of every layer, for analysis.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts, as for `transform`.

        Returns
        -------
        layers : ndarray of shape (n_users, n_layers + 1, hidden_size), dtype float32
            Entry 0 pools the input of the first layer (the embedded tokens), entry l the output of layer l; the last
            one is taken after the final norm.
        """
        check_is_fitted(self)
        texts = read_texts(X, caller="LLMEmbedder")[TEXT]
        shape = (len(texts), self._language_model_.n_layers + 1, self._language_model_.hidden_size)
        pooled = np.empty(shape, dtype=np.float32)
        for rows, layers, _ in self._embedded(texts):
            pooled[rows] = layers
        return pooled

    def cache_info(self) -> CacheInfo:
        """Tell what `memory` holds, and how often this process found there what it looked for.

        Returns
        -------
        CacheInfo
            A named tuple of hits, misses, n_vectors, n_models, n_bytes and limit.
        """
        cache = self._cache()
        if cache is None:
            raise ValueError("There is no cache: set memory=DIR.")
        return cache.info()

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the fitted embedder to a directory, without pickle: weights as safetensors, the rest as JSON.

        Parameters
        ----------
        directory : str or path
            A directory that does not exist yet, or is empty.

        Raises
        ------
        FileExistsError
            If there is something in the directory.
        TypeError
            If a parameter cannot be written as JSON: a RandomState, which an int can replace.
        """
        check_is_fitted(self)
        import torch

        from skllm4es.lm.saving import save_embedder, write_arrays

        parameters = self.get_params(deep=False) | _OF_THIS_MACHINE
        parameters = {name: _as_json(name, value) for name, value in parameters.items()}
        settings = {"parameters": parameters, "fitted": {name: getattr(self, name) for name in _SAVED}}

        def save_model(draft: Path) -> None:
            self._language_model_.save(draft, getattr(torch, self.dtype_), self.device_)
            if self._projection_ is not None:
                write_arrays(draft, vars(self._projection_))

        save_embedder(Path(directory), save_model, settings)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], *, device: str | None = None) -> Self:
        """Read an embedder that `save_pretrained` wrote.

        Parameters
        ----------
        directory : str or path
            The directory.
        device : str, default=None
            Where the model shall run, if not where the embedder's parameter `device` says.

        Returns
        -------
        LLMEmbedder
            The fitted embedder. It has no `memory`.

        Raises
        ------
        OSError
            If there is no embedder in the directory, or one of another version.
        """
        from skllm4es.lm.devices import device_here
        from skllm4es.lm.language_model import LanguageModel
        from skllm4es.lm.saving import read_arrays, read_settings
        from skllm4es.lm.scores import ScoreProjection

        folder = Path(directory).expanduser().absolute()
        settings = read_settings(folder)
        # Whoever wrote the directory has no say in where this machine keeps things, nor in other attributes.
        embedder = cls(**settings["parameters"] | _OF_THIS_MACHINE)
        if device is not None:
            embedder.set_params(device=device)
        for name in _SAVED:
            setattr(embedder, name, settings["fitted"][name])
        embedder._language_model_ = LanguageModel(str(folder))
        arrays = read_arrays(folder)
        embedder._projection_ = None if arrays is None else ScoreProjection(**arrays)
        embedder.device_ = device_here(embedder.device, fall_back=True)
        return embedder

    def load_model(self) -> tuple[Any, Any]:
        """Give the language model and its tokenizer, as `transform` runs them.

        Returns
        -------
        model : transformers.PreTrainedModel
            The model. Its head is there only if this embedder has just trained it. It may be shared by the embedders of
            the process: do not change it.
        tokenizer : transformers.PreTrainedTokenizerBase
            Its tokenizer.
        """
        check_is_fitted(self)
        import torch

        model = self._language_model_.load(getattr(torch, self.dtype_), self.device_)
        return model, self._language_model_.tokenizer

    @property
    def n_features_out_(self) -> int:
        """The length of an embedding."""
        n_layers = len(self.layers_) if self.layer_pooling == "concat" else 1
        n_hidden = 0 if self.features_ == "scores" else self._language_model_.hidden_size * n_layers
        return n_hidden + (0 if self._projection_ is None else len(self._projection_.directions))

    @property
    def _from_scratch(self) -> bool:
        return not isinstance(self.model, str | os.PathLike)

    def _resolve_features(self) -> str:
        """Give what the embedding consists of, where that is left open too."""
        if self.features != "auto":
            return self.features
        pooling = (self.pooling_depth, self.layer_pooling, self.token_pooling)
        pooled = self.layers is not None or pooling != ("auto", "mean", "mean")
        return "scores" if self._from_scratch and not pooled else "hidden"

    def _check_head(self, language_model: LanguageModel) -> None:
        """Refuse a model whose predictions are not read off its input embeddings, if they are needed."""
        if self._resolve_features() == "hidden":
            return
        config = language_model.config.get_text_config()
        rescaled = [name for name in _RESCALING if getattr(config, name, None) not in (None, 1)]
        if not config.tie_word_embeddings or rescaled:
            why = ", ".join(rescaled) or "tie_word_embeddings is False"
            raise ValueError(
                f"features={self.features!r} needs predictions that are the product of hidden states and input "
                f"embeddings; those of {self.model!r} are not ({why}). Set features='hidden'."
            )

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_language_model_")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.__sklearn_is_fitted__():
            from skllm4es.lm.devices import device_here

            self.device_ = device_here(self.device, fall_back=True)

    def _resolve_device(self) -> tuple[str, str]:
        """Give the device that there is here, and the type for the weights on it."""
        # torch and transformers take seconds to import, which only those who embed should wait for.
        from skllm4es.lm.devices import resolve_device

        return resolve_device(self.device, self.dtype)

    def _language_model(self, corpus: list[list[str]], callbacks: list[Any]) -> tuple[LanguageModel, Course]:
        """Give the model, fine-tuned if it shall be, and how its training went."""
        from skllm4es.lm.finetuning import Course
        from skllm4es.lm.language_model import LanguageModel
        from skllm4es.lm.processes import processes
        from skllm4es.lm.training import TrainingRun

        source = None if self._from_scratch else os.path.expanduser(self.model)  # type: ignore[arg-type]
        if source is None and self.finetune != "full":
            raise ValueError(
                f"finetune={self.finetune!r} needs a pretrained model, and a model from scratch has random weights. "
                "Name one (model='owner/name' or a directory), or set finetune='full'."
            )
        if self.finetune is not None and self.checkpoint_dir is not None and self.random_state is None:
            raise ValueError(
                "checkpoint_dir is of use to a training that begins in the same way each time: set random_state."
            )
        base = None if source is None else LanguageModel(source)
        self._check_training(base)
        if base is not None and self.finetune is None:
            return base, Course()
        group = processes(self.device)
        seed = group.agree(int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)))
        run = TrainingRun(
            device=self._resolve_device()[0],
            group=group,
            cache=self._cache(),
            checkpoint_dir=None if self.checkpoint_dir is None else Path(self.checkpoint_dir).expanduser().absolute(),
            callbacks=callbacks,
            progress=bool(self.verbose),
        )
        return run.find_or_train(self._training(base, seed), corpus, self._admit, seeded=self.random_state is not None)

    def _check_training(self, base: LanguageModel | None) -> None:
        """Refuse parameters of training that contradict each other, or that there are not."""
        import torch

        from skllm4es.lm.adapters import check_settings
        from skllm4es.lm.finetuning import check_arguments

        if base is not None and self.n_params != "auto":
            raise ValueError(f"n_params={self.n_params} is of a model from scratch, and {base.source} is pretrained.")
        if self.finetune is not None and self.device is not None and torch.device(self.device).index:
            raise ValueError(
                f"device={self.device!r}: training takes the first device that it sees. Set device='cuda', and the "
                f"environment variable CUDA_VISIBLE_DEVICES={torch.device(self.device).index} before Python starts."
            )
        check_settings(self.lora_args or {})
        check_arguments(self.training_args or {})

    def _training(self, base: LanguageModel | None, seed: int) -> Training:
        """Gather all that makes the fine-tuned model."""
        from skllm4es.lm.finetuning import Schedule
        from skllm4es.lm.training import Training

        given = {name: getattr(self, name) for name in _SCHEDULES["full"]}
        schedule = _SCHEDULES["scratch" if base is None else str(self.finetune)]
        schedule = schedule | {name: value for name, value in given.items() if value is not None}
        return Training(
            base=base,
            config=None if base is not None else self.model,  # type: ignore[arg-type]
            n_params=self.n_params if self.n_params == "auto" else int(self.n_params),
            lora=dict(self.lora_args or {}) if self.finetune == "lora" else None,
            merge_adapter=self.merge_adapter,
            schedule=Schedule(
                # As floats, so that 2 and 2.0 are the same training.
                epochs=None if schedule["epochs"] is None else float(schedule["epochs"]),
                learning_rate=float(schedule["learning_rate"]),
                weight_decay=float(schedule["weight_decay"]),
                batch_tokens=int(schedule["batch_tokens"]),
                warmup=None if self.warmup is None else float(self.warmup),
                patience=int(self.patience),
                gradient_checkpointing=self.gradient_checkpointing,
                arguments=dict(self.training_args or {}),
            ),
            max_length=self.max_length if self.max_length == "auto" else int(self.max_length),
            validation_fraction=self.validation_fraction,
            seed=seed,
        )

    def _admit(self, language_model: LanguageModel) -> int:
        """Refuse a model that could not be embedded with, before it is trained; give its window."""
        self._resolve_layers(language_model.n_layers)
        self._check_head(language_model)
        return self._resolve_length(language_model.n_positions)

    def _resolve_layers(self, n_layers: int) -> list[int]:
        """Give the layers to pool, from 0 for the embedded tokens."""
        if self.layers is not None:
            chosen = [int(layer) for layer in self.layers]
            beyond = [layer for layer in chosen if not -n_layers - 1 <= layer <= n_layers]
            resolved = sorted({layer % (n_layers + 1) for layer in chosen})
            if beyond or len(resolved) < len(chosen) or not chosen:
                raise ValueError(
                    f"layers={list(self.layers)} must name at least one layer and none twice, of the {n_layers} layers "
                    f"of the language model: 0 (the embedded tokens) to {n_layers}, or -{n_layers + 1} to -1."
                )
            return resolved
        if self.pooling_depth != "auto" and self.pooling_depth > n_layers:  # type: ignore[operator]
            raise ValueError(
                f"pooling_depth={self.pooling_depth} is more than the {n_layers} layers of the language model. "
                f"Choose 1 to {n_layers}, or 'auto'."
            )
        depth = min(_PAPER_DEPTH, n_layers) if self.pooling_depth == "auto" else int(self.pooling_depth)
        return list(range(n_layers + 1 - depth, n_layers + 1))

    def _resolve_length(self, n_positions: int | None) -> int:
        limit = n_positions or np.inf
        if self.max_length == "auto":
            return int(min(2048, limit))
        if self.max_length > limit:  # type: ignore[operator]
            raise ValueError(
                f"max_length={self.max_length} is more than the {n_positions} positions of the language model. "
                f"Choose at most {n_positions}, or 'auto'."
            )
        return int(self.max_length)

    def _cache(self) -> Cache | None:
        from skllm4es.lm.cache import Cache

        directory = directory_of(self.memory)
        return None if directory is None else Cache(directory, self.memory_limit)

    def _text_embedder(self, language_model: LanguageModel, dtype: str, device: str, max_length: int) -> TextEmbedder:
        import torch

        from skllm4es.lm.embedding import TextEmbedder
        from skllm4es.lm.pooling import TokenPooling
        from skllm4es.lm.processes import processes

        return TextEmbedder(
            language_model,
            getattr(torch, dtype),
            device,
            max_length,
            self.overflow,
            TokenPooling(self.token_pooling, float(self.half_life)),  # type: ignore[arg-type]
            processes(device),
            progress=bool(self.verbose),
        )

    def _fit_scores(self, embedder: TextEmbedder, texts: list[str]) -> tuple[ScoreProjection, list[Embedded]]:
        """Find the principal directions of the scores of texts; give these texts embedded too."""
        from skllm4es.lm.scores import ScoreProjection, shared_tokens

        self._check_head(embedder.language_model)  # It may be one that is kept, or left as it is: `_admit` saw it not.
        if len(texts) > _ENOUGH_TEXTS:
            chosen = np.random.default_rng(0).choice(len(texts), _ENOUGH_TEXTS, replace=False)
            texts = [texts[i] for i in chosen]
        texts = list(dict.fromkeys(texts))
        tokens = shared_tokens(embedder.scorable(texts))
        embedded = list(replace(embedder, scored=tokens).embed(texts, self._cache()))
        # In the order of the texts, so that the directions do not depend on what a cache holds.
        places = {text: place for place, text in enumerate(texts)}
        embedded.sort(key=lambda each: places[each.text])
        scores = np.stack([each.scores for each in embedded])
        return ScoreProjection.fit(tokens, scores, self.n_score_components), embedded

    def _embedded(
        self, texts: list[str], known: Sequence[Embedded] = ()
    ) -> Iterator[tuple[list[int], npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Give layers and scores of each distinct text, and the rows that have it; tell of those that were cut.

        Those that are `known` are not computed again.
        """
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(text, []).append(row)
        embedder = self._text_embedder(self._language_model_, self.dtype_, self.device_, self.max_length_)
        if self._projection_ is not None:
            embedder = replace(embedder, scored=self._projection_.tokens)
        known = [each for each in known if each.text in rows]
        others = list(rows.keys() - {each.text for each in known})
        self.n_truncated_ = 0
        for text, layers, scores, truncated in chain(known, embedder.embed(others, self._cache())):
            self.n_truncated_ += truncated * len(rows[text])
            yield rows[text], layers, scores
        if self.n_truncated_:
            warn(
                f"{self.n_truncated_} of {len(texts)} texts have more than max_length={self.max_length_} tokens and "
                "were cut to their header and latest events. Raise max_length, embed all of them with "
                "overflow='chunk', or choose what is kept with EventSerializer(max_events=...)."
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = self.random_state is None
        return tags


def _texts_of_users(X: Any, *, raw: bool) -> tuple[list[str], list[list[str]]]:
    """Read the text of each user that is embedded, and those to train on; `raw` says whether it is one of them."""
    columns = read_texts(X, caller="LLMEmbedder")
    columns = {TEXT: columns.pop(TEXT)} | columns
    trained_on = [texts for name, texts in columns.items() if raw or name != TEXT or len(columns) == 1]
    return columns[TEXT], [list(dict.fromkeys(texts)) for texts in zip(*trained_on, strict=True)]


def _as_json(name: str, value: Any) -> Any:
    """Give a parameter as JSON can hold it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    try:
        json.dumps(value)
    except TypeError as error:
        raise TypeError(
            f"The parameter {name}={value!r} cannot be written as JSON. Replace it before saving, for example with "
            f"set_params({name}=None): a fitted embedder does not need it."
        ) from error
    return value
