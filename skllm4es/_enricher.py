"""TextEnricher: the second step of the flow, from one text per user to several to train on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from skllm4es._messages import did_you_mean
from skllm4es._texts import TEXT, TextTransformerMixin, read_texts
from skllm4es.rewriters import Rewriter, TemplateRewriter, available_formats

#: Texts that are rewritten between two steps of the progress bar.
_CHUNK = 256

#: How often a rewriting is drawn anew where it equals another one of the same text.
_REDRAWS = 5


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
        :class:`~skllm4es.rewriters.TemplateRewriter` by default.
    formats : str or sequence of str, default=None
        The formats to write, one or several; all of :func:`~skllm4es.rewriters.available_formats` by default.
        The variants of one text have different formats as long as there are enough.
    n_variants : int, default=1
        Number of rewritten texts for each text.
    include_raw : bool, default=False
        Whether the raw text is a text to train on as well.
    enrich : {"train", "always"}, default="train"
        "train" rewrites texts for training only. With "always" the texts that are embedded, the column ``text``,
        are rewritten ones too.
    random_state : int, RandomState instance or None, default=None
        Determines formats and layouts. With an int, the rewritings of a text depend on nothing but this
        text.
    verbose : int, default=0
        Whether to show a progress bar.

    Attributes
    ----------
    rewriter_ : Rewriter
        The rewriter that is used.
    formats_ : list of str
        The formats that are written.
    seed_ : int
        The seed of the rewritings.

    See Also
    --------
    EventSerializer : The previous step, which writes the texts.
    LLMEmbedder : The next step, which trains on the columns of variants and embeds the column ``text``.

    Notes
    -----
    This is the text enrichment of LLM4ES (arXiv 2508.05688, section 3.2). With the default `enrich` it is the
    paper's "only train".

    Examples
    --------
    >>> from skllm4es import TextEnricher
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4"]
    >>> enricher = TextEnricher(formats="json", n_variants=2, random_state=0)
    >>> enricher.fit_transform(texts).columns.to_list()
    ['text', 'variant_0', 'variant_1']
    >>> enricher.transform(texts).columns.to_list()
    ['text']
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "rewriter": [HasMethods("rewrite"), None],
        "formats": [str, "array-like", None],
        "n_variants": [Interval(Integral, 1, None, closed="left")],
        "include_raw": ["boolean"],
        "enrich": [StrOptions({"train", "always"})],
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
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.rewriter = rewriter
        self.formats = formats
        self.n_variants = n_variants
        self.include_raw = include_raw
        self.enrich = enrich
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
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

    @_fit_context(prefer_skip_nested_validation=False)
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
        """
        texts = _single_column(X)
        self._setup()
        variants = self._rewrite(texts, self.n_variants)
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
        """
        check_is_fitted(self)
        texts = _single_column(X)
        return self._frame({TEXT: self._rewrite(texts, 1)[0] if self.enrich == "always" else texts}, like=X)

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
        formats = [self.formats] if isinstance(self.formats, str) else self.formats
        self.formats_ = available_formats() if formats is None else list(formats)
        self.rewriter_ = TemplateRewriter() if self.rewriter is None else self.rewriter
        # Another rewriter may know other formats; it is asked for them, and says so if not.
        _check_formats(self.formats_, available_formats() if self.rewriter is None else self.formats_)
        self.seed_ = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def _rewrite(self, texts: list[str], n_variants: int) -> list[list[str]]:
        """Rewrite each text `n_variants` times: one list of texts a variant."""
        variants: list[list[str]] = []
        with tqdm(
            total=len(texts) * n_variants, desc="enriching", unit="text", leave=None, disable=not self.verbose
        ) as bar:
            for number in range(n_variants):
                variant = []
                for start in range(0, len(texts), _CHUNK):
                    chunk = slice(start, start + _CHUNK)
                    variant += self._rewrite_once(texts[chunk], number, [earlier[chunk] for earlier in variants])
                    bar.update(len(texts[chunk]))
                variants.append(variant)
        return variants

    def _rewrite_once(self, texts: list[str], number: int, earlier: list[list[str]]) -> list[str]:
        """Write one variant of each text, drawn anew where it equals an earlier one."""
        formats = [self._format(text, number) for text in texts]
        seed = self.seed_ + number
        variant = self._call_rewriter(texts, formats, seed)
        for redraw in range(1, _REDRAWS + 1):
            again = [i for i, text in enumerate(variant) if any(text == other[i] for other in earlier)]
            if not again:
                break
            redrawn = self._call_rewriter(
                [texts[i] for i in again], [formats[i] for i in again], seed + redraw * 1_000_003
            )
            for i, text in zip(again, redrawn, strict=True):
                variant[i] = text
        return variant

    def _call_rewriter(self, texts: list[str], formats: list[str], seed: int) -> list[str]:
        rewritten = list(self.rewriter_.rewrite(texts, formats, [seed] * len(texts)))
        strange = [text for text in rewritten if not isinstance(text, str)]
        if len(rewritten) != len(texts) or strange:
            raise ValueError(
                f"{type(self.rewriter_).__name__}.rewrite must give one str for each text; it gave {len(rewritten)} "
                f"for {len(texts)} texts" + (f", among them {strange[0]!r}." if strange else ".")
            )
        return rewritten

    def _format(self, text: str, number: int) -> str:
        """Choose the format of a text's variant: each format once before any comes again."""
        turn, place = divmod(number, len(self.formats_))
        generator = random.Random(f"{self.seed_} {turn} {text}")
        return generator.sample(self.formats_, len(self.formats_))[place]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _single_column(X: Any) -> list[str]:
    columns = read_texts(X, caller="TextEnricher")
    if len(columns) > 1:
        raise ValueError(
            f"TextEnricher rewrites one column of texts; X has {list(columns)}. Select one, for example X[['text']]."
        )
    return columns[TEXT]


def _check_formats(formats: list[str], known: list[str]) -> None:
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        hint = did_you_mean(unknown, known)
        raise ValueError(f"formats names {unknown or 'nothing'}.{hint} The formats are {available_formats()}.")
