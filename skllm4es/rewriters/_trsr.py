"""LLM-TRSR, a prior method: a user's behaviour is summarised block by block."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from skllm4es._compat import Interval, StrOptions
from skllm4es.rewriters._llm import LanguageModelRewriter, Session, Steps
from skllm4es.rewriters._summaries import SummarisingRewriter


class TRSRRewriter(SummarisingRewriter):
    """Summarise users as LLM-TRSR does, one of the methods that LLM4ES is compared with.

    The events are split into blocks. "recurrent" summarises the first block, and then updates the summary with one
    block after the other. "hierarchical" summarises each block by itself, and then the summaries, in several levels if
    necessary. A block that is too long for the model is split.

    The result is plain prose, the format "summary", which `TextEnricher` does not require to keep all values. Variants
    of a text differ by sampling.

    Parameters
    ----------
    rewriter : TransformersRewriter or OpenAIRewriter
        The rewriter whose model and sampling are used; its own prompts are not.
    method : {"recurrent", "hierarchical"}, default="recurrent"
        How the summaries of the blocks become one.
    block_size : int, default=50
        Maximum number of events in a block.
    n_words : int, default=150
        Maximum number of words that the prompts ask for, in each summary.

    Attributes
    ----------
    n_tokens : int
        Number of tokens read and written so far.

    See Also
    --------
    HKFRRewriter : Describes users theme by theme.

    References
    ----------
    Zheng et al., "Harnessing Large Language Models for Text-Rich Sequential Recommendation", WWW 2024.

    Examples
    --------
    >>> from skllm4es.rewriters import OpenAIRewriter, TRSRRewriter
    >>> model = OpenAIRewriter("Qwen/Qwen2.5-7B-Instruct", "http://localhost:8000/v1")
    >>> rewriter = TRSRRewriter(model, method="hierarchical")
    >>> rewriter.set_params(rewriter__temperature=0.3).rewriter.temperature
    0.3
    """

    _parameter_constraints = {
        "rewriter": [LanguageModelRewriter],
        "method": [StrOptions({"recurrent", "hierarchical"})],
        "block_size": [Interval(Integral, 1, None, closed="left")],
        "n_words": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        rewriter: LanguageModelRewriter,
        *,
        method: str = "recurrent",
        block_size: int = 50,
        n_words: int = 150,
    ) -> None:
        self.rewriter = rewriter
        self.method = method
        self.block_size = block_size
        self.n_words = n_words

    def _prompts(self, format_name: str) -> Sequence[str]:
        return ["trsr_first", "trsr_update" if self.method == "recurrent" else "trsr_merge"]

    def _summarise(self, session: Session, text: str, seed: int) -> Steps:
        summarise = self._recurrent if self.method == "recurrent" else self._hierarchical
        return summarise(session, text, seed)

    def _recurrent(self, session: Session, text: str, seed: int) -> Steps:
        # Each block comes with a summary, which has at most the tokens of an answer.
        first, *others = self._blocks(session, "trsr_update", text, self._limit(session), self.block_size)
        (summary,) = yield [self._question(session, "trsr_first", first, seed)]
        for block in others:
            (summary,) = yield [self._question(session, "trsr_update", f"{summary}\n\n{block}", seed)]
        return summary

    def _hierarchical(self, session: Session, text: str, seed: int) -> Steps:
        blocks = self._blocks(session, "trsr_first", text, max_events=self.block_size)
        summaries = yield [self._question(session, "trsr_first", block, seed) for block in blocks]
        return (yield from self._merge(session, "trsr_merge", summaries, seed))
