"""TextEnricher: the second step of the flow, from one text per user to several to train on."""

from __future__ import annotations

import os
import random
from collections.abc import Hashable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skllm4es._compat import HasMethods, Interval, StrOptions, fit_context
from skllm4es._messages import did_you_mean, warn
from skllm4es._store import directory_of
from skllm4es._texts import TEXT, TextTransformerMixin, read_texts
from skllm4es.enrich._rewrite_cache import RewriteCache
from skllm4es.enrich._rewriting import draw_all
from skllm4es.enrich._variants import FREE_REDRAWS, Policy, Variant, complaints, first_error, make_variants
from skllm4es.rewriters import Rewriter, TemplateRewriter, available_formats


class TextEnricher(TextTransformerMixin, BaseEstimator):
    r"""Rewrite serialised texts into many formats, for the language model to train on.

    Serialised events vary little, and a language model that is fine-tuned on them alone learns their form by heart.
    Rewritten into JSON, HTML, prose, ... they make better training texts, while the raw text is what is embedded.

    Note that ``fit_transform(X)`` and ``fit(X).transform(X)`` differ, as they do for
    :class:`~sklearn.preprocessing.TargetEncoder`: the first is for training and adds the columns of rewritten texts,
    the second gives the raw texts alone. In a :class:`~sklearn.pipeline.Pipeline` the language model is so trained
    on enriched texts, and embeds raw ones, of training users and new users alike.

    Parameters
    ----------
    rewriter : Rewriter, default=None
        What rewrites: an object with the method ``rewrite(texts, formats, seeds)``;
        :class:`~skllm4es.rewriters.TemplateRewriter` by default. What fails for one text alone it raises as a
        :class:`~skllm4es.rewriters.RewritingError`: the texts of the call are then asked for one by one. Any other
        error ends the run. `memory` needs its method ``cache_key()``, which names all else that determines a rewriting.
        A rewriter with ``iter_rewrites`` gives each text as it comes
        (:class:`~skllm4es.rewriters.StreamingRewriter`).
    formats : str or sequence of str, default=None
        The formats to write, one or several; by default those that the rewriter names in an attribute
        ``default_formats``, or else all of :func:`~skllm4es.rewriters.available_formats`.
        The variants of one text have different formats as long as there are enough.
    n_variants : int, default=1
        Number of rewritten texts for each text.
    include_raw : bool, default=False
        Whether the raw text is a text to train on as well. A :class:`LLMEmbedder` that reads the scores of a model from
        scratch trains on it anyway.
    enrich : {"train", "always"}, default="train"
        "train" rewrites texts for training only. With "always" the texts that are embedded, the column ``text``,
        are rewritten ones too.
    check : {"warn", "retry", "raise"} or None, default="warn"
        What to do about an unfaithful text, whose recall, the share of the original's values that it tells, is below
        `min_recall`, or which is plainly not in the form of its format: tell how many there are; draw them anew, and
        replace by a template what stays so; raise an error at the end. None leaves the comparison out, and so does
        "warn" for :class:`~skllm4es.rewriters.TemplateRewriter`, which loses nothing. The Notes say what is compared.
        Of formats that lose events by design ("breakdown"), and of those that this package does not know, recall is
        reported and nothing is done.
    min_recall : float, default=0.85
        The least recall. An LLM that skips one of five fields, or the last fifth of the events, lowers it to 0.8; one
        of ten fields, to 0.9. Fields of which the comparison takes no value for the same (dates without a year, rounded
        amounts) count as skipped; values that other fields tell as well (a rating of 2, by the title "Toy Story 2"), as
        told.
    max_retries : int, default=3
        How often a text is drawn anew, with another seed: if the rewriter failed on it, whatever `check` is; if it is
        unfaithful, with ``check="retry"``; if it equals the raw text or another variant of it. Templates, which cost
        next to nothing, are drawn anew up to 20 times where they are equal, and never where they failed.
    on_error : {"raise", "template", "raw"}, default="raise"
        What to do where the rewriter cannot rewrite a text, after `max_retries` retries: raise an error when all the
        others are done, let a template rewrite it, or leave it raw.
    memory : str, path or joblib.Memory, default=None
        Directory in which rewritten texts are kept, each from the moment when it is there. So an interrupted run goes
        on where it was, and no folds or searches rewrite a text twice. `fit` makes it; `transform` uses it if it is
        there. Several processes may share it. Give an int as `random_state`, or another run asks for other rewritings.
        It is for rewriters with a ``cache_key``, as those with language models: writing texts by templates again is
        cheaper than looking them up.
    n_jobs : int, default=None
        Number of processes for templates (and other rewriters without ``iter_rewrites``), as joblib counts them. The
        texts do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Determines formats and layouts. With an int, the rewritings of a text depend on nothing but this
        text.
    verbose : int, default=0
        Whether to show a progress bar, with the texts and, for language models, the tokens a second.

    Attributes
    ----------
    rewriter_ : Rewriter
        The rewriter that is used.
    formats_ : list of str
        The formats that are written.
    seed_ : int
        The seed of the rewritings.
    report_ : pandas.DataFrame
        How the last `fit_transform` or `transform` that rewrote anything went: one row a rewritten text, with the
        columns ``user`` (the label in the index of `X`), ``variant``, ``format``, ``recall``, ``precision``,
        ``n_retries`` (how often it was drawn anew), ``outcome`` and ``reason``. Outcomes are "ok"; "retried", after
        which all was well; "unfaithful", but kept; "repeated", equal to another variant or the raw text; "unchecked",
        because the raw text is not in the serialised form; "template" or "raw", which stand for it; "failed". The
        reason says what was wrong ("recall 0.41", the text of an error), and is empty where nothing is. Recall and
        precision are those of the text that is given, NaN where they are not known. It is there after a
        `RewritingError` too, but not after an error that concerns all texts, such as a server that stays away.

    See Also
    --------
    EventSerializer : The previous step, which writes the texts.
    LLMEmbedder : The next step, which trains on the columns of variants and embeds the column ``text``.

    Notes
    -----
    This is the text enrichment of LLM4ES (arXiv 2508.05688, section 3.2). With the default `enrich` it is the
    paper's "only train".

    :class:`~sklearn.compose.ColumnTransformer` and :class:`~sklearn.pipeline.FeatureUnion` whose output is set to be a
    dataframe expect the same columns of `fit_transform` and `transform`. Put a pipeline that goes on to the embedding
    into them, not an enricher alone.

    Recall and precision compare values, whatever their markup or notation. ``V_f`` are the distinct values of the
    raw text's field ``f``; ``n_f(v)`` counts the events that have the value ``v``, and ``c(v)`` how often the rewritten
    text tells it, the numbers of lists apart::

        recall = min( mean over f of |{v in V_f: c(v) > 0}| / |V_f|,
                      max over f of sum over V_f of min(n_f(v), c(v)) / sum of n_f(v) )

    The first term falls with each value that is lost, and with a whole field by one part in the number of fields. The
    second falls with each event. Neither sees which values belong together. Precision is the share of the numbers and
    dates of the rewritten text that stem from the raw one: they stand there, count events, or are the total or mean of
    a field. It does not see invented words, nor events that are told twice. It is reported; nothing is done about it.

    Examples
    --------
    >>> from skllm4es import TextEnricher
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4"]
    >>> enricher = TextEnricher(formats="json", n_variants=2, random_state=0)
    >>> enricher.fit_transform(texts).columns.to_list()
    ['text', 'variant_0', 'variant_1']
    >>> enricher.transform(texts).columns.to_list()
    ['text']

    A rewriter of one's own, kept in memory:

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

        ``fit(X).transform(X)`` does not equal ``fit_transform(X)``: it gives no columns to train on.

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
            If some texts could not be rewritten, with ``on_error="raise"``, or lost too much, with ``check="raise"``.
            All others are kept in `memory`.
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
        """Give the texts to embed: the raw ones, or rewritten ones with ``enrich="always"``.

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
            As `fit_transform`, with ``enrich="always"``.
        """
        check_is_fitted(self)
        texts = _single_column(X)
        return self._frame({TEXT: self._rewrite(texts, 1, like=X)[0] if self.enrich == "always" else texts}, like=X)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Names of the columns that `transform` gives.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (1,), dtype object
            ``["text"]``.
        """
        check_is_fitted(self)
        return np.array([TEXT], dtype=object)

    def _setup(self) -> None:
        self.rewriter_ = TemplateRewriter() if self.rewriter is None else self.rewriter
        formats = [self.formats] if isinstance(self.formats, str) else self.formats
        if formats is None:
            formats = getattr(self.rewriter_, "default_formats", available_formats())
        self.formats_ = list(formats)
        # Another rewriter may know other formats; it is asked for them, and says so if not.
        _check_formats(self.formats_, available_formats() if self.rewriter is None else self.formats_)
        if hasattr(self.rewriter_, "cache_key") and not isinstance(self.rewriter_, TemplateRewriter):
            directory_of(self.memory, make=True)
        self.seed_ = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _rewrite(self, texts: list[str], n_variants: int, *, like: Any) -> list[list[str]]:
        """Rewrite each text `n_variants` times: one list of texts a variant."""
        users = like.index if isinstance(like, pd.DataFrame | pd.Series) else range(len(texts))
        variants = [
            Variant(user, number, text, self._format(text, number))
            for user, text in zip(users, texts, strict=True)
            for number in range(n_variants)
        ]
        self.__dict__.pop("report_", None)  # So that it is never that of another call, whatever happens.
        templates = type(self.rewriter_) is TemplateRewriter
        policy = Policy(
            None if templates and self.check == "warn" else self.check,
            self.min_recall,
            self.max_retries,
            max_redraws=FREE_REDRAWS if templates else self.max_retries,
            on_error=self.on_error,
        )
        with tqdm(total=0, desc="enriching", unit="text", leave=None, disable=not self.verbose) as bar:
            draw = partial(
                draw_all,
                self.rewriter_,
                check=policy.check is not None,
                cache=self._cache(),
                n_jobs=self.n_jobs,
                bar=bar,
            )
            make_variants(variants, self.seed_, policy, draw)
        self.report_ = _report(variants)
        if error := first_error(variants, policy):
            raise error
        if told := complaints(variants, policy):
            warn(f"{told} The attribute report_ says which.")
        return [[variant.text for variant in variants[number::n_variants]] for number in range(n_variants)]

    def _cache(self) -> RewriteCache | None:
        if self.memory is None or isinstance(self.rewriter_, TemplateRewriter):
            return None
        if not hasattr(self.rewriter_, "cache_key"):
            warn(
                f"memory keeps nothing of {type(self.rewriter_).__name__}: nothing says what its texts depend on. Give "
                "it a method cache_key, as skllm4es.rewriters.StreamingRewriter has it."
            )
            return None
        if self.random_state is None:
            warn(
                "With random_state=None every run asks for other rewritings, so that memory spares none of them. Set "
                "random_state to an int."
            )
        directory = directory_of(self.memory, make=False)
        return None if directory is None else RewriteCache(directory)

    def _format(self, text: str, number: int) -> str:
        """Choose the format of a text's variant: each format once before any comes again."""
        turn, place = divmod(number, len(self.formats_))
        generator = random.Random(f"{self.seed_} {turn} {text}")
        return generator.sample(self.formats_, len(self.formats_))[place]

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
            f"TextEnricher rewrites one column of texts; X has {list(columns)}. Select one, for example X[['text']]."
        )
    return columns[TEXT]


def _report(variants: Sequence[Variant]) -> pd.DataFrame:
    columns: dict[str, list[Hashable]] = {
        "user": [each.user for each in variants],
        "variant": [each.number for each in variants],
        "format": [each.format for each in variants],
        "recall": [each.drawn.recall for each in variants],
        "precision": [each.drawn.precision for each in variants],
        "n_retries": [each.n_retries for each in variants],
        "outcome": [each.outcome for each in variants],
        "reason": [each.reason for each in variants],
    }
    return pd.DataFrame(columns)


def _check_formats(formats: list[str], known: list[str]) -> None:
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        hint = did_you_mean(unknown, known)
        raise ValueError(f"formats names {unknown or 'nothing'}.{hint} The formats are {available_formats()}.")
