"""TextEnricher: the second step of the flow, which rewrites one text per user into several training texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, islice
from numbers import Integral, Real
from typing import Any, Self

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skllm4es._compat import HasMethods, Interval, StrOptions, fit_context
from skllm4es._fit import all_or_nothing
from skllm4es._messages import warn
from skllm4es._store import directory_of, hash_of
from skllm4es._texts import TEXT, TextTransformerMixin, read_texts
from skllm4es.enrich._report import error_of, report_of, warning_of
from skllm4es.enrich._rewrite_cache import RewriteCache
from skllm4es.enrich._rewriting import rewrite_all
from skllm4es.enrich._variants import MAX_CHEAP_RETRIES, Policy, Variant, make_variants
from skllm4es.rewriters import Rewriter, TemplateRewriter, available_formats
from skllm4es.rewriters._checks import check_formats


class TextEnricher(TextTransformerMixin, BaseEstimator):
    r"""Rewrite serialised texts into many formats, for the language model to train on.

    Serialised events vary little, and a language model that is fine-tuned on them alone memorises their form.
    Rewritten into JSON, HTML, prose, ... they make better training texts, while the raw text is what is embedded.

    Note that ``fit_transform(X)`` and ``fit(X).transform(X)`` differ, as they do for
    :class:`~sklearn.preprocessing.TargetEncoder`: the first is for training and adds the columns of rewritten texts,
    the second returns the raw texts alone. In a :class:`~sklearn.pipeline.Pipeline` the language model therefore trains
    on enriched texts, and embeds raw texts, both of training users and of new users.

    Parameters
    ----------
    rewriter : Rewriter, default=None
        The rewriter, an object with a method ``rewrite(texts, formats, seeds)``; a
        :class:`~skllm4es.rewriters.TemplateRewriter` by default. It raises a
        :class:`~skllm4es.rewriters.RewritingError` if a single text fails; the texts of the call are then rewritten one
        by one. Any other error ends the run. :class:`~skllm4es.rewriters.Rewriter` lists further attributes that it may
        have, among them ``cache_key()``, which `memory` requires, ``lossless`` and ``cheap``. A rewriter with
        ``iter_rewrites`` returns texts one by one (:class:`~skllm4es.rewriters.StreamingRewriter`).
    formats : str or sequence of str, default=None
        One or several formats to write; by default the rewriter's attribute ``default_formats``, or all of
        :func:`~skllm4es.rewriters.available_formats` if it has none. The variants of a text have different formats as
        long as there are enough.
    n_variants : int, default=1
        Number of rewritten texts per text.
    include_raw : bool, default=False
        Whether to train on the raw text as well. A :class:`LLMEmbedder` that reads the scores of a model trained from
        scratch does so anyway.
    enrich : {"train", "always"}, default="train"
        "train" rewrites texts for training only. With "always" the texts to embed, the column ``text``, are rewritten
        too.
    check : {"warn", "retry", "raise"} or None, default="warn"
        What to do about unfaithful texts, whose recall, the share of the original's values that they keep, is below
        `min_recall`, or which are clearly not in the requested format: issue a warning that counts them; rewrite them
        again, and replace those that remain unfaithful by templates; or raise an error at the end. None skips the
        check, and so does "warn" if the rewriter is ``lossless``, such as
        :class:`~skllm4es.rewriters.TemplateRewriter`. The Notes define recall. In formats that lose events by design
        ("breakdown"), or that this package does not know, recall is reported but has no consequences.
    min_recall : float, default=0.85
        Minimum recall. An LLM that omits one of five fields, or the last fifth of the events, lowers it to 0.8; one of
        ten fields, to 0.9. Fields whose values are not recognised (dates without a year, rounded amounts) count as
        omitted.
    max_retries : int, default=3
        How often to rewrite a text again, with another seed: if the rewriter failed on it, whatever `check` is; if it
        is unfaithful and ``check="retry"``; or if it equals the raw text or another variant. A ``cheap`` rewriter makes
        up to 20 attempts to avoid equal variants.
    on_error : {"raise", "template", "raw"}, default="raise"
        What to do about a text that the rewriter still fails on after `max_retries` retries: raise an error when all
        others are done, write it by a template, or leave it raw.
    memory : str, path or joblib.Memory, default=None
        Directory in which to cache rewritten texts, each as soon as it is available. An interrupted run resumes where
        it stopped, and neither folds nor searches rewrite a text twice. Nor do they ask again where a local model's
        answer was cut off or empty, as it most likely would be again; a higher `max_retries` tries other seeds, which
        differ if the temperature is above 0. `fit` makes the directory; `transform` uses it if it is there. Several
        processes may share it. Set `random_state` to an int, as every run asks for other rewritings otherwise. Requires
        a rewriter with a method ``cache_key``, as those with language models have. Each text is cached under its own
        prompt, so a changed prompt rewrites the texts of its format alone. Texts of ``cheap`` rewriters, such as
        templates, are not cached.
    n_jobs : int, default=None
        Number of processes for templates and other rewriters without ``iter_rewrites``, as in joblib. The texts do not
        depend on it.
    random_state : int, RandomState instance or None, default=None
        Determines formats and layouts. With an int, the rewritings of a text depend on this text alone.
    verbose : int, default=0
        Whether to show a progress bar, with texts and, for language models, tokens per second.

    Attributes
    ----------
    rewriter_ : Rewriter
        The rewriter in use.
    formats_ : list of str
        The formats to write.
    seed_ : int
        The seed of the rewritings.
    report_ : pandas.DataFrame
        One row per rewritten text of the last `fit_transform` or `transform` that rewrote anything, with the columns
        ``user`` (the label in the index of `X`), ``variant``, ``format``, ``recall``, ``precision``, ``n_retries``,
        ``outcome`` and ``reason``. Outcomes are "ok"; "retried", ok after retries; "unfaithful", but kept; "repeated",
        equal to another variant or the raw text; "unchecked", because the raw text is not in the serialised form;
        "template" or "raw", which replaced the text; and "failed". The reason says what was wrong ("recall 0.41", or
        the message of an error), and is empty if nothing was. Recall and precision are those of the returned text, or
        NaN if unknown. The report exists after a `RewritingError` too, but not after an error that concerns all texts,
        such as an unreachable server.

    See Also
    --------
    EventSerializer : The previous step, which writes the texts.
    LLMEmbedder : The next step, which trains on the columns of variants and embeds the column ``text``.

    Notes
    -----
    This is the text enrichment of LLM4ES (arXiv 2508.05688, section 3.2). With the default `enrich` it is the
    paper's "only train".

    :class:`~sklearn.compose.ColumnTransformer` and :class:`~sklearn.pipeline.FeatureUnion` with dataframe output expect
    the same columns from `fit_transform` and `transform`. Put a pipeline that includes the embedding into them, not an
    enricher alone.

    Recall and precision compare whole values, whatever their markup or notation. ``V_f`` are the distinct values of the
    raw text's field ``f``; ``n_f(v)`` is the number of its events with the value ``v``, and ``n(v)`` their sum over the
    fields. ``c(v)`` is the number of occurrences in the rewritten text, apart from the numbers of lists and from those
    inside of longer values ("Drug Stores" in "Drug Stores and Pharmacies")::

        recall = min( mean over f of (mean over V_f of min(1, c(v) / needed(v))),
                      mean over events of min(1, c(v) / n(v)) )

    A value of one field is needed once, because events may share a heading. A value of several fields is needed
    ``n(v)`` times, or once instead of ``n_f(v)`` for a field of which other values are in headings. The second mean
    takes one value per event, in the field that is kept best. The first mean falls with each lost value, and with a
    whole field by one part in the number of fields; the second falls with each lost event. Neither sees which values
    belong together, and repetitions, such as a summary, can hide losses. Precision is the share of the numbers and
    dates in the rewritten text that stem from the raw one: they occur in it, count events, or are the total or mean of
    a field. It does not detect invented words or repeated events. It is reported but has no consequences.

    Examples
    --------
    >>> from skllm4es import TextEnricher
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4"]
    >>> enricher = TextEnricher(formats="json", n_variants=2, random_state=0)
    >>> enricher.fit_transform(texts).columns.to_list()
    ['text', 'variant_0', 'variant_1']
    >>> enricher.transform(texts).columns.to_list()
    ['text']

    A rewriter of your own, with a cache:

    >>> import random, tempfile
    >>> from sklearn.base import BaseEstimator
    >>> from skllm4es.rewriters import RewritingError
    >>> class Shuffler(BaseEstimator):
    ...     default_formats = ("shuffled",)
    ...     def rewrite(self, texts, formats, seeds):
    ...         return [self._shuffle(text, seed) for text, seed in zip(texts, seeds)]
    ...     def _shuffle(self, text, seed):
    ...         header, *events = text.split("\n")
    ...         if not events:
    ...             raise RewritingError("there are no events")
    ...         return "\n".join(random.Random(seed).sample(events, len(events)))
    ...     def cache_key(self):
    ...         return "Shuffler, version 1"
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     enricher = TextEnricher(Shuffler(), memory=directory, random_state=0)
    ...     enricher.fit_transform(texts)["variant_0"][0]
    'Alien, 4\nHeat, 5'
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "rewriter": [HasMethods("rewrite"), None],
        "formats": [str, "array-like", None],
        "n_variants": [Interval(Integral, 1, None, closed="left")],
        "include_raw": ["boolean"],
        "enrich": [StrOptions({"train", "always"})],
        "check": [StrOptions({"warn", "retry", "raise"}), None],
        "min_recall": [Interval(Real, 0, 1, closed="both")],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "on_error": [StrOptions({"raise", "template", "raw"})],
        "memory": [str, os.PathLike, HasMethods(["cache"]), None],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        rewriter: Rewriter | None = None,
        *,
        formats: str | Sequence[str] | None = None,
        n_variants: int = 1,
        include_raw: bool = False,
        enrich: str = "train",
        check: str | None = "warn",
        min_recall: float = 0.85,
        max_retries: int = 3,
        on_error: str = "raise",
        memory: str | os.PathLike[str] | joblib.Memory | None = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.rewriter = rewriter
        self.formats = formats
        self.n_variants = n_variants
        self.include_raw = include_raw
        self.enrich = enrich
        self.check = check
        self.min_recall = min_recall
        self.max_retries = max_retries
        self.on_error = on_error
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the texts and the formats.

        ``fit(X).transform(X)`` does not equal ``fit_transform(X)``: it returns no columns to train on.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, 1) or (n_users,)
            Serialised texts.
        y : None
            Ignored.

        Returns
        -------
        self : TextEnricher
            The fitted enricher.
        """
        _single_column(X)
        self._setup()
        return self

    @fit_context(prefer_skip_nested_validation=False)
    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Rewrite the texts for training.

        The result differs from that of ``fit(X).transform(X)``: it also has the columns to train on.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, 1) or (n_users,)
            Serialised texts.
        y : None
            Ignored.

        Returns
        -------
        texts : dataframe of shape (n_users, 1 + n_variants) or (n_users, 2 + n_variants)
            The columns ``text``, ``variant_0``, ``variant_1``, ..., and ``raw``, which repeats the raw text, with
            `include_raw`; with the index of `X`.

        Raises
        ------
        RewritingError
            If some texts could not be rewritten and ``on_error="raise"``, or are unfaithful and ``check="raise"``. All
            others are cached in `memory`.
        """
        texts = _single_column(X)
        self._setup()
        variants = self._rewrite(texts, self.n_variants, like=X)
        columns = {TEXT: variants[0] if self.enrich == "always" else texts}
        columns |= {f"variant_{number}": variant for number, variant in enumerate(variants)}
        if self.include_raw:
            columns["raw"] = texts
        return self._frame(columns, like=X)

    def transform(self, X: Any) -> Any:
        """Return the texts to embed: raw, or rewritten with ``enrich="always"``.

        The result differs from that of ``fit_transform(X)``: it has no columns to train on.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, 1) or (n_users,)
            Serialised texts.

        Returns
        -------
        texts : dataframe of shape (n_users, 1)
            The column ``text``, with the index of `X`.

        Raises
        ------
        RewritingError
            As in `fit_transform`, if ``enrich="always"``.
        """
        check_is_fitted(self)
        texts = _single_column(X)
        return self._frame({TEXT: self._rewrite(texts, 1, like=X)[0] if self.enrich == "always" else texts}, like=X)

    @all_or_nothing
    def _setup(self) -> None:
        self.rewriter_ = TemplateRewriter() if self.rewriter is None else self.rewriter
        formats = [self.formats] if isinstance(self.formats, str) else self.formats
        if formats is None:
            formats = getattr(self.rewriter_, "default_formats", available_formats())
        self.formats_ = list(formats)
        if not self.formats_:
            raise ValueError(f"formats is empty. Pass None or some of {available_formats()}.")
        if self.rewriter is None:  # Other rewriters may know other formats, and check them when they rewrite.
            check_formats(self.formats_)
        if hasattr(self.rewriter_, "cache_key") and not self._is_cheap():
            directory_of(self.memory, make=True)
        self.seed_ = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _rewrite(self, texts: list[str], n_variants: int, *, like: Any) -> list[list[str]]:
        """Rewrite each text `n_variants` times, into one list of texts per variant."""
        users = like.index if isinstance(like, pd.DataFrame | pd.Series) else range(len(texts))
        variants = [
            Variant(user, number, text, name, turn)
            for user, text in zip(users, texts, strict=True)
            for number, (name, turn) in enumerate(islice(self._formats_of(text), n_variants))
        ]
        self.__dict__.pop("report_", None)  # It must never be that of another call, whatever happens.
        check = None if self.check == "warn" and getattr(self.rewriter_, "lossless", False) else self.check
        policy = Policy(
            check,
            None if check is None else self.min_recall,
            self.max_retries,
            max_repeats=MAX_CHEAP_RETRIES if self._is_cheap() else self.max_retries,
            on_error=self.on_error,
        )
        with tqdm(total=0, desc="enriching", unit="text", leave=None, disable=not self.verbose) as bar:
            rewrite = partial(
                rewrite_all,
                self.rewriter_,
                min_recall=policy.min_recall,
                cache=self._cache(),
                n_jobs=self.n_jobs,
                bar=bar,
            )
            make_variants(variants, self.seed_, policy, rewrite)
        self.report_ = report_of(variants)
        if error := error_of(variants, policy):
            raise error
        if message := warning_of(variants, policy):
            warn(f"{message} The attribute report_ lists them.")
        return [[variant.text for variant in variants[number::n_variants]] for number in range(n_variants)]

    def _is_cheap(self) -> bool:
        return getattr(self.rewriter_, "cheap", False)

    def _cache(self) -> RewriteCache | None:
        if self.memory is None or self._is_cheap():
            return None
        if not hasattr(self.rewriter_, "cache_key"):
            warn(
                f"memory cannot cache the texts of {type(self.rewriter_).__name__}, because it has no method cache_key "
                "that says what they depend on. Add one, as skllm4es.rewriters.Rewriter describes it."
            )
            return None
        if self.random_state is None:
            warn(
                "With random_state=None every run asks for other rewritings, so memory saves nothing. Set random_state "
                "to an int."
            )
        directory = directory_of(self.memory, make=False)
        return None if directory is None else RewriteCache(directory)

    def _formats_of(self, text: str) -> Iterator[tuple[str, int]]:
        """Yield the format of each variant of a text and how often the format came before.

        Formats are ranked by a hash of their own, so that a further format only takes the place of others, and the
        rewritings that remain are found in the cache.
        """
        ranked = sorted(set(self.formats_), key=lambda name: hash_of(str(self.seed_), text, name))
        return ((name, turn) for turn in count() for name in ranked)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = self.random_state is None
        return tags


def _single_column(X: Any) -> list[str]:
    columns = read_texts(X, caller="TextEnricher")
    if len(columns) > 1:
        raise ValueError(
            f"TextEnricher expects one column of texts; X has {list(columns)}. Select one, for example X[['text']]."
        )
    return columns[TEXT]
