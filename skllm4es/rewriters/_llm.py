"""What the rewriters that ask a language model have in common.

A rewriting is a generator of questions: it yields those that it has, gets their answers, and in the end returns the
text. `StepwiseRewriter` runs many of them side by side, so that a model always has many questions to answer, and one
that fails does not stop the others. A `Session` is a model that is ready to answer, here or behind a server.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator

from skllm4es._compat import Interval, StrOptions
from skllm4es.formats import FORMATS
from skllm4es.rewriters._answers import clean_answer
from skllm4es.rewriters._base import RewritingError
from skllm4es.rewriters._checks import as_lists, check_formats
from skllm4es.rewriters._prompts import Message, compose, hash_prompts, seed_of
from skllm4es.rewriters._splitting import read_events, split_events
from skllm4es.rewriters._template import TemplateRewriter

#: Changes when an answer becomes another text than before.
_VERSION = 2
#: Tokens for an answer whose length is not given: markup and field names at each event make it longer than the events.
_GROWTH, _LEAST = 4, 256
#: What the tags and the joints between lines may add to a count of tokens.
SLACK = 16


class Question(NamedTuple):
    """What a model is asked.

    Parameters
    ----------
    message : Message
        What is said to it.
    seed : int
        What the draws of its answer hang on.
    max_new_tokens : int
        The most tokens of the answer.
    """

    message: Message
    seed: int
    max_new_tokens: int


class Answer(NamedTuple):
    """What a model answers.

    Parameters
    ----------
    text : str
        Its words.
    finished : bool
        Whether it came to its end.
    n_tokens : int
        Tokens of question and answer.
    """

    text: str
    finished: bool
    n_tokens: int


#: Yields questions, gets their answers, and returns the rewritten text.
Steps = Generator[list[Question], list[str], str]


class Session(ABC):
    """A language model that is ready to answer.

    Parameters
    ----------
    context_length : int or None
        The most tokens of a question and its answer; None if there is no limit.
    max_new_tokens : int or "auto"
        The most tokens of an answer.
    """

    def __init__(self, context_length: int | None, max_new_tokens: int | Literal["auto"]) -> None:
        self.context_length = context_length
        self.max_new_tokens = max_new_tokens

    @abstractmethod
    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts."""

    @abstractmethod
    def count_message(self, message: Message) -> int:
        """Count the tokens of a message, with all that the model's form of a chat adds."""

    @abstractmethod
    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | RewritingError]]:
        """Give the answers with the positions of their questions, as they come."""

    def limit(self, auto: int) -> int:
        """Give the most tokens of an answer, which is `auto` unless the user says otherwise."""
        return auto if self.max_new_tokens == "auto" else int(self.max_new_tokens)

    def fits(self, n_tokens: int) -> bool:
        """Tell whether the context holds so many tokens."""
        return self.context_length is None or n_tokens <= self.context_length

    def check_fits(self, n_prompt: int, max_new_tokens: int) -> None:
        """Refuse a question for which the context is too short."""
        if not self.fits(n_prompt + max_new_tokens):
            raise RewritingError(
                f"The question has {n_prompt} tokens and its answer may have {max_new_tokens}, more than the model's "
                f"context of {self.context_length}. Raise context_length or lower max_new_tokens if the model allows "
                "it, or take a model with a longer context."
            )


class StepwiseRewriter(BaseEstimator, ABC):
    """A rewriter that asks a language model, once or in several steps."""

    #: The formats that it writes, all of which `TextEnricher` asks for unless it is told otherwise.
    default_formats: ClassVar[Sequence[str]] = tuple(FORMATS)
    #: Prompts that it uses.
    _prompts: ClassVar[Sequence[str]]
    #: Texts that are under way at once: enough to sort them by length, few enough that results come soon.
    _n_at_once: ClassVar[int] = 4096
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    @abstractmethod
    def _open(self) -> AbstractContextManager[Session]:
        """Make the model ready."""

    @abstractmethod
    def _steps(self, session: Session, text: str, format_name: str, seed: int) -> Steps:
        """Rewrite a text that has events."""

    @abstractmethod
    def _determinants(self) -> Mapping[str, object]:
        """Give what determines an answer besides the question, as JSON can hold it, and without secrets."""

    def rewrite(self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Rewrite each text into the format beside it.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format to write each text in, of `available_formats`.
        seeds : sequence of int of length n_texts
            The seed of each rewriting.

        Returns
        -------
        list of str of length n_texts
            The rewritten texts.

        Raises
        ------
        RewritingError
            If a text cannot be rewritten. `iter_rewrites` goes on with the others.
        """
        texts, formats, seeds = as_lists(texts, formats, seeds)
        rewritten = [""] * len(texts)
        for position, result in self.iter_rewrites(texts, formats, seeds):
            if isinstance(result, RewritingError):
                raise RewritingError(f"Text {position}: {result}") from result
            rewritten[position] = result
        return rewritten

    def iter_rewrites(
        self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[tuple[int, str | RewritingError]]:
        """Rewrite each text into the format beside it, and give each result when it is there.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format to write each text in, of `available_formats`.
        seeds : sequence of int of length n_texts
            The seed of each rewriting.

        Returns
        -------
        iterator of (int, str or RewritingError)
            The position of a text, and its rewriting or what went wrong with this one text. Each position comes
            once, in any order. What befalls all texts is raised.
        """
        texts, formats, seeds = as_lists(texts, formats, seeds)
        check_formats(formats, self.default_formats)
        self._validate_params()
        return self._iterate(texts, formats, seeds)

    def cache_key(self) -> str:
        """Tell all that determines a rewriting besides text, format and seed: class, model, prompts, sampling.

        Returns
        -------
        str
            A JSON object. It holds no secret.
        """
        key = {"class": type(self).__name__, "version": _VERSION, "prompts": hash_prompts(self._prompts)}
        return json.dumps(key | dict(self._determinants()), sort_keys=True, default=_as_json)

    @property
    def n_tokens(self) -> int:
        """How many tokens this rewriter has read and written so far."""
        return getattr(self, "_n_tokens", 0)

    def _iterate(
        self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[tuple[int, str | RewritingError]]:
        if not len(texts):
            return
        with self._open() as session:
            for start in range(0, len(texts), self._n_at_once):
                group = range(start, min(start + self._n_at_once, len(texts)))
                steps = {i: self._all_steps(session, texts[i], formats[i], seeds[i]) for i in group}
                yield from self._run(session, steps)

    def _all_steps(self, session: Session, text: str, format_name: str, seed: int) -> Steps:
        _check_characters(text)
        if not read_events(text).rows:
            # A model would invent some.
            return self._without_events(text, format_name, seed)
        return (yield from self._steps(session, text, format_name, seed))

    def _without_events(self, text: str, format_name: str, seed: int) -> str:
        return TemplateRewriter().rewrite([text], [format_name], [seed])[0]

    def _run(self, session: Session, steps: Mapping[int, Steps]) -> Iterator[tuple[int, str | RewritingError]]:
        """Advance rewritings side by side: whoever has all its answers may ask anew."""
        runs = [_Run(position, each) for position, each in steps.items()]
        for run in runs:
            run.advance(None)
            if run.result is not None:
                yield run.position, run.result
        while runs := [run for run in runs if run.result is None]:
            asked = [(run, place) for run in runs for place in range(len(run.questions))]
            for number, answer in session.ask([run.questions[place] for run, place in asked]):
                run, place = asked[number]
                if isinstance(answer, Answer):
                    self._n_tokens = self.n_tokens + answer.n_tokens
                if run.result is None:  # Else another question of this text failed.
                    run.take(place, answer)
                    if run.result is not None:
                        yield run.position, run.result


@dataclass
class _Run:
    """A rewriting that is under way."""

    position: int
    steps: Steps

    def __post_init__(self) -> None:
        self.questions: list[Question] = []
        self.answers: dict[int, str] = {}
        self.result: str | RewritingError | None = None

    def take(self, place: int, answer: Answer | RewritingError) -> None:
        """Take the answer to one of the questions, and go on when it was the last one needed."""
        read = answer if isinstance(answer, RewritingError) else _read(answer, self.questions[place])
        if isinstance(read, RewritingError):
            self.result = read
            return
        self.answers[place] = read
        if len(self.answers) == len(self.questions):
            self.advance([self.answers[i] for i in range(len(self.questions))])

    def advance(self, answers: list[str] | None) -> None:
        """Go on to the next questions, or to the result."""
        try:
            self.questions = self.steps.send(answers)  # type: ignore[arg-type]  # None starts a generator.
            self.answers = {}
        except StopIteration as end:
            self.result = end.value
        except RewritingError as error:
            self.result = error


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RewritingError(
            f"Character {error.start} is {text[error.start]!r}, half of a pair that is no character by itself, which "
            "no model reads. Read the data with their right encoding."
        ) from error


def _as_json(value: Any) -> Any:
    """Write a number of numpy, as a search over parameters sets it, as one of Python; all else by its repr."""
    return value.item() if isinstance(value, np.generic) else repr(value)


def _read(answer: Answer, question: Question) -> str | RewritingError:
    if not answer.finished:
        return RewritingError(
            f"The answer was cut off: it had not ended at its limit of {question.max_new_tokens} tokens. Raise "
            "max_new_tokens, lower context_length, so that a long text is split into smaller parts, or take a model "
            "that follows instructions better; switch the thinking of a model off if it thinks at length."
        )
    return clean_answer(answer.text, question.message) or RewritingError(
        f"The model answered nothing that is of use: {answer.text[:80]!r}. Try another seed or temperature, or a model "
        "that follows instructions better."
    )


class LanguageModelRewriter(StepwiseRewriter):
    """A rewriter that has a language model of its own, and asks it once for each text or part of a text."""

    _prompts = tuple(FORMATS)
    #: Constraints of the parameters that all of them have.
    _common_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str],
        "temperature": [Interval(Real, 0, None, closed="left")],
        "top_p": [Interval(Real, 0, 1, closed="right")],
        "max_new_tokens": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    }

    def _steps(self, session: Session, text: str, format_name: str, seed: int) -> Steps:
        empty = compose(format_name, "")
        n_prompt = session.count_message(empty) + SLACK

        def limit(n_tokens: int) -> int:
            return session.limit(_LEAST + _GROWTH * n_tokens)

        parts = split_events(text, lambda n: session.fits(n_prompt + n + limit(n)), session.count)
        questions = [
            Question(compose(format_name, part), seed_of(seed, format_name, part, str(number)), limit(n_tokens))
            for number, (part, n_tokens) in enumerate(zip(parts, session.count(parts), strict=True))
        ]
        return "\n\n".join((yield questions))
