"""The base of the prior methods, which summarise by asking the model of another rewriter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from skllm4es._compat import check_parameters
from skllm4es.rewriters._base import RewritingError
from skllm4es.rewriters._llm import N_SPARE_TOKENS, LanguageModelRewriter, Question, Session, Steps, StepwiseRewriter
from skllm4es.rewriters._prompts import compose, seed_of
from skllm4es.rewriters._splitting import split_events

#: max_new_tokens="auto" is this minimum, for models that exceed n_words, plus this many tokens per word.
_MIN_NEW_TOKENS, _TOKENS_PER_WORD = 64, 4


class SummarisingRewriter(StepwiseRewriter):
    """Base of a rewriter that summarises with the model of `rewriter`."""

    default_formats = ("summary",)
    # The steps of a text wait for each other, so the texts of a group finish at about the same time.
    _group_size = 256

    rewriter: LanguageModelRewriter
    n_words: int

    def _open(self) -> AbstractContextManager[Session]:
        check_parameters(self.rewriter)
        return self.rewriter._open()

    def _determinants(self) -> Mapping[str, object]:
        own = {name: value for name, value in self.get_params(deep=False).items() if name != "rewriter"}
        return own | {"rewriter": {"class": type(self.rewriter).__name__, **self.rewriter._determinants()}}

    @abstractmethod
    def _summarise(self, session: Session, text: str, seed: int) -> Steps:
        """Summarise a text."""

    def _steps(self, session: Session, text: str, format_name: str, seed: int) -> Steps:
        return self._summarise(session, text, seed_of(seed, format_name))

    def _without_events(self, text: str, format_name: str, seed: int) -> str:
        return super()._without_events(text, "narrative", seed)

    def _merge(self, session: Session, prompt: str, pieces: Sequence[str], seed: int) -> Steps:
        """Merge texts into one: all at once if they fit, otherwise in groups first."""
        while len(pieces) > 1:
            groups = self._groups(session, prompt, pieces)
            pieces = yield [self._question(session, prompt, group, seed) for group in groups]
        return pieces[0]

    def _groups(self, session: Session, prompt: str, pieces: Sequence[str]) -> list[str]:
        """Join as many neighbours as fit into one question."""
        n_used = self._n_used(session, prompt)
        groups: list[list[str]] = []
        n_group = 0
        for piece, n_tokens in zip(pieces, session.count(pieces), strict=True):
            n_group += n_tokens + 1
            if not groups or not session.fits(n_used + n_group):
                groups.append([])
                n_group = n_tokens + 1
            groups[-1].append(piece)
        if len(groups) == len(pieces):
            raise RewritingError(
                f"No two of {len(pieces)} summaries fit into the model's context of {session.context_length} tokens. "
                "Lower n_words or max_new_tokens, or raise context_length if the model allows it."
            )
        return ["\n\n".join(group) for group in groups]

    def _question(self, session: Session, prompt: str, data: str, seed: int, **blanks: Any) -> Question:
        seed = seed_of(seed, prompt, data, repr(blanks))
        return Question(compose(prompt, data, n_words=self.n_words, **blanks), seed, self._limit(session))

    def _blocks(
        self, session: Session, prompt: str, text: str, n_more: int = 0, max_events: int | None = None, **blanks: Any
    ) -> list[str]:
        """Split a text into blocks, each of which fits together with `n_more` tokens."""
        n_used = self._n_used(session, prompt, **blanks) + n_more
        return split_events(text, lambda n: session.fits(n_used + n), session.count, max_events)

    def _n_used(self, session: Session, prompt: str, **blanks: Any) -> int:
        """Count the tokens of a question without data, and of its answer."""
        empty = compose(prompt, "", n_words=self.n_words, **blanks)
        return session.count_message(empty) + N_SPARE_TOKENS + self._limit(session)

    def _limit(self, session: Session) -> int:
        return session.limit(_MIN_NEW_TOKENS + _TOKENS_PER_WORD * self.n_words)
