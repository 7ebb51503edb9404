"""What the prior methods have in common: they summarise, by asking the model of another rewriter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from skllm4es.rewriters._base import RewritingError
from skllm4es.rewriters._llm import SLACK, LanguageModelRewriter, Question, Session, Steps, StepwiseRewriter
from skllm4es.rewriters._prompts import compose, seed_of
from skllm4es.rewriters._splitting import split_events

#: Tokens for a word, and for what a model adds to the number of words it was asked for.
_TOKENS_OF_WORD, _LEAST = 4, 64


class SummarisingRewriter(StepwiseRewriter):
    """A rewriter whose texts are summaries, written by the model of `rewriter`."""

    # The steps of a text wait for each other, so that texts under way end at about the same time.
    _n_at_once = 256
    _rewriter_constraint = [LanguageModelRewriter]

    default_formats = ("summary",)

    rewriter: LanguageModelRewriter
    n_words: int

    def _open(self) -> AbstractContextManager[Session]:
        self.rewriter._validate_params()
        return self.rewriter._open()

    def _determinants(self) -> Mapping[str, object]:
        own = {name: value for name, value in self.get_params(deep=False).items() if name != "rewriter"}
        # Its model and sampling; the prompts of its own are not used.
        return own | {"rewriter": {"class": type(self.rewriter).__name__, **self.rewriter._determinants()}}

    @abstractmethod
    def _summarise(self, session: Session, text: str, seed: int) -> Steps:
        """Summarise a text."""

    def _steps(self, session: Session, text: str, format_name: str, seed: int) -> Steps:
        return self._summarise(session, text, seed_of(seed, format_name))

    def _without_events(self, text: str, format_name: str, seed: int) -> str:
        return super()._without_events(text, "narrative", seed)

    def _merge(self, session: Session, prompt: str, pieces: Sequence[str], seed: int) -> Steps:
        """Make one text of several: of all of them at once if they fit, else of groups first."""
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
                "Lower n_words, or max_new_tokens; or raise context_length if the model allows it."
            )
        return ["\n\n".join(group) for group in groups]

    def _question(self, session: Session, prompt: str, data: str, seed: int, **blanks: Any) -> Question:
        seed = seed_of(seed, prompt, data, repr(blanks))
        return Question(compose(prompt, data, n_words=self.n_words, **blanks), seed, self._limit(session))

    def _blocks(
        self, session: Session, prompt: str, text: str, n_more: int = 0, max_events: int | None = None, **blanks: Any
    ) -> list[str]:
        """Split a text so that each block fits, together with `n_more` tokens."""
        n_used = self._n_used(session, prompt, **blanks) + n_more
        return split_events(text, lambda n: session.fits(n_used + n), session.count, max_events)

    def _n_used(self, session: Session, prompt: str, **blanks: Any) -> int:
        """Count the tokens of a question without data, and of its answer."""
        empty = compose(prompt, "", n_words=self.n_words, **blanks)
        return session.count_message(empty) + SLACK + self._limit(session)

    def _limit(self, session: Session) -> int:
        return session.limit(_LEAST + _TOKENS_OF_WORD * self.n_words)
