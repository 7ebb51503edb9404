"""The base of all rewriters that ask a language model.

The rewriting of a text is a generator: it yields the questions it has, receives their answers, and finally returns the
rewritten text. `StepwiseRewriter` runs many of them side by side, so that the model always has many questions to
answer and one failure does not stop the others. A `Session` is a model ready to answer, in memory or behind a server.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator

from skllm4es._compat import Interval, StrOptions, check_parameters
from skllm4es.formats import FORMATS
from skllm4es.rewriters._answers import clean_answer
from skllm4es.rewriters._base import RewritingError, UnusableAnswerError
from skllm4es.rewriters._checks import as_lists, check_formats
from skllm4es.rewriters._examples import choose_others, render_example, share_of_values
from skllm4es.rewriters._prompts import Example, Message, compose, hash_prompts, seed_of
from skllm4es.rewriters._splitting import read_events, split_events
from skllm4es.rewriters._template import TemplateRewriter

#: Increased when the same answer leads to another text than before, or a question without usable answer may get one.
_VERSION = 2
#: max_new_tokens="auto" is this minimum plus this many tokens per token of the events: markup and field names at each
#: event make an answer longer than the events, but a summary is shorter.
_MIN_NEW_TOKENS, _NEW_TOKENS_PER_TOKEN, _SUMMARY_PER_TOKEN = 256, 4, 1
#: Tokens that the tags and the joints between lines may add to a count.
N_SPARE_TOKENS = 16
#: What a small model is shown of other events, and how often it is asked about the same ones.
_N_EXAMPLES, _N_ATTEMPTS = 2, 3


class Question(NamedTuple):
    """A question to a model."""

    message: Message
    seed: int
    max_new_tokens: int
    #: Whether an answer without a usable end or text is "", rather than the failure of the whole text.
    may_fail: bool = False


class Answer(NamedTuple):
    """An answer of a model: its text, whether it ended by itself, and the tokens of question and answer."""

    text: str
    finished: bool
    n_tokens: int


#: Yields questions, receives their answers, and returns the rewritten text.
Steps = Generator[list[Question], list[str], str]


class Session(ABC):
    """A language model ready to answer.

    `context_length` limits the tokens of a question and its answer, and `max_new_tokens` those of the answer.
    """

    def __init__(self, context_length: int | None, max_new_tokens: int | Literal["auto"]) -> None:
        self.context_length = context_length
        self.max_new_tokens = max_new_tokens

    #: Whether the same question with the same seed has the same answer, apart from rounding.
    reproducible: bool = False
    #: How many questions to ask together, at least: enough to sort them by length, few enough that results come soon.
    n_questions: int = 4096

    @property
    def events_at_a_time(self) -> int | None:
        """How many events the model rewrites at a time, after examples; if None, as many as fit, without examples."""
        return None

    @abstractmethod
    def count(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts."""

    @abstractmethod
    def count_message(self, message: Message) -> int:
        """Count the tokens of a message, including those that the chat template adds."""

    @abstractmethod
    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | RewritingError]]:
        """Yield the position of each question with its answer, as answers arrive."""

    def limit(self, auto: int) -> int:
        """Return the maximum number of tokens of an answer: `auto` unless the user set one."""
        return auto if self.max_new_tokens == "auto" else int(self.max_new_tokens)

    def fits(self, n_tokens: int) -> bool:
        """Whether this many tokens fit into the context."""
        return self.context_length is None or n_tokens <= self.context_length

    def check_fits(self, n_prompt: int, max_new_tokens: int) -> None:
        """Raise an error if a question and its answer may not fit into the context."""
        if not self.fits(n_prompt + max_new_tokens):
            raise RewritingError(
                f"The question has {n_prompt} tokens and its answer may have {max_new_tokens}, more than the model's "
                f"context of {self.context_length}. Raise context_length or lower max_new_tokens if the model allows "
                "it, or choose a model with a longer context."
            )


class StepwiseRewriter(BaseEstimator, ABC):
    """Base of a rewriter that asks a language model in one or several steps."""

    #: The formats that it knows, all of which `TextEnricher` asks for by default.
    default_formats: ClassVar[Sequence[str]] = tuple(FORMATS)
    #: Texts in progress at a time: enough to sort them by length, few enough that results come soon.
    _group_size: ClassVar[int] = 4096
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    @abstractmethod
    def _open(self) -> AbstractContextManager[Session]:
        """Prepare the model."""

    @abstractmethod
    def _steps(self, session: Session, text: str, format_name: str, seed: int) -> Steps:
        """Rewrite a text that has events."""

    @abstractmethod
    def _determinants(self) -> Mapping[str, object]:
        """Return what an answer depends on besides the question, fit for JSON and without secrets."""

    @abstractmethod
    def _prompts(self, format_name: str) -> Sequence[str]:
        """Return the names of the prompts for a format."""

    def rewrite(self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Rewrite each text into its format.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format of each rewritten text, one of `default_formats`.
        seeds : sequence of int of length n_texts
            The seed of each rewriting.

        Returns
        -------
        list of str of length n_texts
            The rewritten texts.

        Raises
        ------
        RewritingError
            If a text cannot be rewritten. `iter_rewrites` continues with the others.
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
        """Rewrite each text into its format, and yield each result as soon as it is available.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format of each rewritten text, one of `default_formats`.
        seeds : sequence of int of length n_texts
            The seed of each rewriting.

        Returns
        -------
        iterator of (int, str or RewritingError)
            The position of a text, and its rewriting or the error of this text. Each position comes once, in any
            order. An error that concerns all texts is raised.
        """
        texts, formats, seeds = as_lists(texts, formats, seeds)
        check_formats(formats, self.default_formats)
        check_parameters(self)
        return self._iterate(texts, formats, seeds)

    def cache_key(self) -> str:
        """Return everything that rewritings of all formats depend on: class, model, sampling.

        Returns
        -------
        str
            A JSON object. It holds no secret.
        """
        key = {"class": type(self).__name__, "version": _VERSION}
        return json.dumps(key | dict(self._determinants()), sort_keys=True, default=_as_json)

    def prompt_key(self, format_name: str) -> str:
        """Return a hash of the prompts that only the rewritings into one format depend on.

        Parameters
        ----------
        format_name : str
            The format.

        Returns
        -------
        str
            Hexadecimal digits.
        """
        return hash_prompts(self._prompts(format_name))

    @property
    def n_tokens(self) -> int:
        """Number of tokens read and written so far."""
        return getattr(self, "_n_tokens", 0)

    def _iterate(
        self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[tuple[int, str | RewritingError]]:
        if not len(texts):
            return
        with self._open() as session:
            for start in range(0, len(texts), self._group_size):
                group = range(start, min(start + self._group_size, len(texts)))
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
        """Advance rewritings side by side: each asks its next questions when it has all its answers."""
        unusable = UnusableAnswerError if session.reproducible else RewritingError
        runs = [_Run(position, generator, unusable) for position, generator in steps.items()]
        for run in runs:
            run.advance(None)
            if run.result is not None:
                yield run.position, run.result
        while runs := [run for run in runs if run.result is None]:
            asked: list[tuple[_Run, int]] = []
            for run in runs:  # The earliest texts first, so that they are soon done.
                if len(asked) < session.n_questions:
                    asked += [(run, index) for index in range(len(run.questions))]
            for number, answer in session.ask([run.questions[index] for run, index in asked]):
                run, index = asked[number]
                if isinstance(answer, Answer):
                    self._n_tokens = self.n_tokens + answer.n_tokens
                if run.result is None:  # Otherwise another question of this text failed.
                    run.take(index, answer)
                    if run.result is not None:
                        yield run.position, run.result


@dataclass
class _Run:
    """A rewriting in progress."""

    position: int
    steps: Steps
    #: The error of an answer that is unusable.
    unusable: type[RewritingError]
    questions: list[Question] = field(default_factory=list)
    answers: dict[int, str] = field(default_factory=dict)
    result: str | RewritingError | None = None

    def take(self, index: int, answer: Answer | RewritingError) -> None:
        """Take the answer to one of the questions, and advance if it was the last one missing."""
        question = self.questions[index]
        text = answer if isinstance(answer, RewritingError) else _read(answer, question)
        if isinstance(text, RewritingError) and isinstance(answer, Answer):
            text = self.unusable(str(text))
        if isinstance(text, RewritingError) and question.may_fail:
            text = ""
        if isinstance(text, RewritingError):
            self.result = text
            return
        self.answers[index] = text
        if len(self.answers) == len(self.questions):
            self.advance([self.answers[i] for i in range(len(self.questions))])

    def advance(self, answers: list[str] | None) -> None:
        """Advance to the next questions, or to the result."""
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
            f"Character {error.start} is {text[error.start]!r}, half of a surrogate pair, which no model can read. "
            "Read the data with the right encoding."
        ) from error


def _as_json(value: Any) -> Any:
    """Convert a NumPy number, as a search over parameters sets it, to Python; everything else to its repr."""
    return value.item() if isinstance(value, np.generic) else repr(value)


def _read(answer: Answer, question: Question) -> str | RewritingError:
    if not answer.finished:
        return RewritingError(
            f"The answer was cut off at its limit of {question.max_new_tokens} tokens. Raise max_new_tokens, lower "
            "context_length, so that a long text is split into smaller parts, or choose a model that follows "
            "instructions better. If the model thinks at length, switch its thinking off."
        )
    return clean_answer(answer.text, question.message) or RewritingError(
        f"The model's answer has no usable text: {answer.text[:80]!r}. Try another seed or temperature, or a model "
        "that follows instructions better."
    )


class LanguageModelRewriter(StepwiseRewriter):
    """Base of a rewriter with a language model of its own, which is asked once per text or part of a text."""

    #: Constraints of the common parameters.
    _common_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str],
        "temperature": [Interval(Real, 0, None, closed="left")],
        "top_p": [Interval(Real, 0, 1, closed="right")],
        "max_new_tokens": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    }

    def _prompts(self, format_name: str) -> Sequence[str]:
        return [format_name]

    def _steps(self, session: Session, text: str, format_name: str, seed: int) -> Steps:
        if FORMATS[format_name].complete and session.events_at_a_time is not None:
            return (yield from self._small_steps(session, text, format_name, seed, session.events_at_a_time))
        empty = compose(format_name, "")
        n_prompt = session.count_message(empty) + N_SPARE_TOKENS

        per_token = _NEW_TOKENS_PER_TOKEN if FORMATS[format_name].complete else _SUMMARY_PER_TOKEN

        def limit(n_tokens: int) -> int:
            return session.limit(_MIN_NEW_TOKENS + per_token * n_tokens)

        parts = split_events(text, lambda n: session.fits(n_prompt + n + limit(n)), session.count)
        questions = [
            Question(compose(format_name, part), seed_of(seed, format_name, part, str(number)), limit(n_tokens))
            for number, (part, n_tokens) in enumerate(zip(parts, session.count(parts), strict=True))
        ]
        return "\n\n".join((yield questions))

    def _small_steps(self, session: Session, text: str, format_name: str, seed: int, n_events: int) -> Steps:
        """Rewrite a few events at a time, each part after examples, and again while values are missing.

        The examples are other events of the text, written by a template in one layout, so that a small model only has
        to put other values into their places.
        """
        parts = split_events(text, lambda n: True, session.count, n_events)
        layout = seed_of(seed, format_name, text)
        written = [render_example(part, format_name, layout) for part in parts]
        n_part, n_written = max(session.count(parts)), max(session.count(written))
        limit = session.limit(_MIN_NEW_TOKENS // 4 + 2 * (n_part + n_written))
        best = [""] * len(parts)
        pending = list(range(len(parts)))
        for attempt in range(_N_ATTEMPTS):
            is_last = attempt + 1 == _N_ATTEMPTS
            questions = []
            for number in pending:
                part = parts[number]
                shown = choose_others(number, len(parts), _N_EXAMPLES, layout + attempt)
                examples = [Example(parts[other], written[other]) for other in shown]
                message = compose(format_name, part, examples, source=text)
                while examples and not session.fits(session.count_message(message) + limit):
                    examples.pop()
                    message = compose(format_name, part, examples, source=text)
                part_seed = seed_of(seed, format_name, part, str(number), str(attempt))
                questions.append(Question(message, part_seed, limit, may_fail=not is_last or best[number] != ""))
            answers = yield questions
            for number, answer in zip(pending, answers, strict=True):
                best[number] = max(best[number], answer, key=lambda text: share_of_values(parts[number], text))
            pending = [number for number in pending if share_of_values(parts[number], best[number]) < 1]
            if not pending:
                break
        return "\n\n".join(best)
