"""HKFR, a prior method: a user's behaviour is described theme by theme, and the descriptions are fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

from skllm4es._compat import Interval
from skllm4es.rewriters._llm import LanguageModelRewriter, Session, Steps
from skllm4es.rewriters._summaries import SummarisingRewriter

#: Themes that any events have.
_THEMES = (
    "kinds of things and interests",
    "amounts and numbers",
    "times and regularity",
    "changes from the earlier to the later events",
)


class HKFRRewriter(SummarisingRewriter):
    """Describe users by heterogeneous knowledge fusion (HKFR), one of the methods that LLM4ES is compared with.

    A model describes the events theme by theme, and then fuses these notes into one description of the user. A text
    that is too long for the model is described in parts, and notes that are too long to fuse at once are first fused in
    groups.

    The result is plain prose, the format "summary", which `TextEnricher` does not require to keep all values. Variants
    of a text differ by sampling.

    Parameters
    ----------
    rewriter : TransformersRewriter or OpenAIRewriter
        The rewriter whose model and sampling are used; its own prompts are not.
    themes : sequence of str, default=None
        What to describe, one question per theme. By default kinds and interests, amounts, times, and changes.
    n_words : int, default=150
        Maximum number of words that the prompts ask for, in each note and in the description.

    Attributes
    ----------
    n_tokens : int
        Number of tokens read and written so far.

    See Also
    --------
    TRSRRewriter : Summarises users block by block.

    References
    ----------
    Yin et al., "Heterogeneous Knowledge Fusion: A Novel Approach for Personalized Recommendation via LLM", RecSys 2023.

    Examples
    --------
    >>> from skllm4es.rewriters import HKFRRewriter, OpenAIRewriter
    >>> model = OpenAIRewriter("Qwen/Qwen2.5-7B-Instruct", "http://localhost:8000/v1")
    >>> rewriter = HKFRRewriter(model, themes=["genres", "mood"])
    >>> rewriter.set_params(rewriter__temperature=0.3).rewriter.temperature
    0.3
    """

    _parameter_constraints = {
        "rewriter": [LanguageModelRewriter],
        "themes": ["array-like", None],
        "n_words": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self, rewriter: LanguageModelRewriter, *, themes: Sequence[str] | None = None, n_words: int = 150
    ) -> None:
        self.rewriter = rewriter
        self.themes = themes
        self.n_words = n_words

    def _prompts(self, format_name: str) -> Sequence[str]:
        return ["hkfr_extract", "hkfr_fuse"]

    def _summarise(self, session: Session, text: str, seed: int) -> Steps:
        themes = self._all_themes()
        blocks = self._blocks(session, "hkfr_extract", text, theme=max(themes, key=len))
        asked = [(theme, block) for theme in themes for block in blocks]
        notes = yield [self._question(session, "hkfr_extract", block, seed, theme=theme) for theme, block in asked]
        labelled = [f"{theme}:\n{note}" for (theme, _), note in zip(asked, notes, strict=True)]
        return (yield from self._merge(session, "hkfr_fuse", labelled, seed)) if len(labelled) > 1 else notes[0]

    def _all_themes(self) -> list[str]:
        themes = list(_THEMES if self.themes is None else self.themes)
        if not themes or not all(isinstance(theme, str) for theme in themes):
            raise ValueError(
                f"themes must be a non-empty list of strings, such as ['genres', 'mood']; got {self.themes!r}."
            )
        return themes

    def _determinants(self) -> Mapping[str, object]:
        return {**super()._determinants(), "themes": self._all_themes()}
