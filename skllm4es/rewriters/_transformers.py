"""Rewriting by an instruct model on this machine, with transformers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from skllm4es._compat import Interval, StrOptions
from skllm4es.rewriters._base import RewritingError
from skllm4es.rewriters._examples import EXAMPLES_VERSION
from skllm4es.rewriters._llm import Answer, LanguageModelRewriter, Question, Session
from skllm4es.rewriters._prompts import Example, Message, compose

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from skllm4es.lm.language_model import LanguageModel

#: A model with fewer parameters is asked about few events at a time, with examples: SmolLM2-135M, asked about ten
#: events without any, repeats one of them without end.
_SMALL, _EVENTS_AT_A_TIME = 1_000_000_000, 1
#: So many questions about few events fill some batches, and those of a text are answered together.
_N_SMALL_QUESTIONS = 64


class TransformersRewriter(LanguageModelRewriter):
    r"""Rewrite serialised texts by an instruct model that runs on this machine.

    The model is prompted in its own chat template, one text per prompt, in padded batches. It is loaded when the first
    text is rewritten, and shared by all rewriters of a process that use it. For many texts on a GPU, run a server and
    use :class:`OpenAIRewriter`.

    Parameters
    ----------
    model : str or path
        Name of a model on the hub, a local directory, or a GGUF file.
    temperature : float, default=0.6
        Sampling temperature; 0 always takes the most likely token, so that seeds make no difference.
    top_p : float, default=0.9
        Sample only from the most likely tokens that together have this probability.
    max_new_tokens : int or "auto", default="auto"
        Maximum number of tokens of an answer. "auto" is 256 plus four per token of the events, or one per
        token for a summary. A model that thinks before it answers needs more.
    context_length : int, default=None
        Maximum number of tokens of a question and its answer; by default the model's own limit. A text that is too
        long is split between events, and the answers to its parts are joined by blank lines. A lower number makes
        smaller parts, of which a model omits less.
    batch_tokens : int, default=16384
        Maximum number of tokens in a batch, of questions, padding and answers. A single text may have more.
    chat_template : str, default=None
        A Jinja template that replaces the tokenizer's. ``"{{ bos_token or '' }}{{ messages[0]['content'] + '\n' }}"``
        suits a model that was not trained for chats.
    chat_template_kwargs : dict, default=None
        Further arguments of the template, for example ``{"enable_thinking": False}`` for Qwen 3.
    device : str, default=None
        Where the model runs; by default a GPU if there is one.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        Type of the weights. "auto" is bfloat16 on devices where it is faster than float32.

    Attributes
    ----------
    n_tokens : int
        Number of tokens read and written so far.

    See Also
    --------
    OpenAIRewriter : Rewrites with a model behind a server.
    TemplateRewriter : Rewrites without a model.

    Notes
    -----
    The random numbers of a text depend on its text, format and seed alone. The model's scores, however, vary in their
    last digits with the texts that share a batch, more so in bfloat16, which may lead to another text.
    ``batch_tokens=1`` rewrites texts one by one, which rules this out on a given machine.

    The fields of events are data: they stand between tags that they cannot contain, and are tokenized as plain text, so
    that they cannot contain control tokens of the chat.

    A text without events is written by a template, because a model would invent some.

    A model with less than a billion parameters loses most of a text, or repeats one event without end. It is asked
    about one event at a time instead, after two other events of the text and how a template writes them in one layout,
    and up to three times while values are missing; the answers are joined by blank lines. Its texts are therefore close
    to those of :class:`TemplateRewriter`. Summaries ("breakdown") are asked for all events at once, as are the texts of
    a model whose chat template allows no examples.

    Each text is yielded as soon as it ends, so a progress bar moves with every text.

    Examples
    --------
    >>> from skllm4es.rewriters import TransformersRewriter
    >>> rewriter = TransformersRewriter(
    ...     "Qwen/Qwen3-0.6B", chat_template_kwargs={"enable_thinking": False}
    ... )
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4"]
    >>> rewriter.rewrite(texts, ["markdown"], [0])  # doctest: +SKIP
    ['- **Heat**: 5\n- **Alien**: 4']
    """

    _parameter_constraints = {
        **LanguageModelRewriter._common_constraints,
        "model": [str, os.PathLike],
        "context_length": [Interval(Integral, 1, None, closed="left"), None],
        "batch_tokens": [Interval(Integral, 1, None, closed="left")],
        "chat_template": [str, None],
        "chat_template_kwargs": [dict, None],
        "device": [str, None],
        "dtype": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
    }

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_new_tokens: int | Literal["auto"] = "auto",
        context_length: int | None = None,
        batch_tokens: int = 16_384,
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        device: str | None = None,
        dtype: str = "auto",
    ) -> None:
        self.model = model
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens
        self.context_length = context_length
        self.batch_tokens = batch_tokens
        self.chat_template = chat_template
        self.chat_template_kwargs = chat_template_kwargs
        self.device = device
        self.dtype = dtype

    @contextmanager
    def _open(self) -> Iterator[Session]:
        # torch and transformers take seconds to import, so they are imported only when needed.
        from skllm4es.lm.devices import resolve_device
        from skllm4es.lm.language_model import LanguageModel
        from skllm4es.lm.sources import source_of

        device, dtype = resolve_device(self.device, self.dtype)
        yield _LocalModel(self, LanguageModel(source_of(self.model)), device, dtype)

    def _determinants(self) -> Mapping[str, object]:
        from skllm4es.lm.devices import resolve_device
        from skllm4es.lm.language_model import LanguageModel
        from skllm4es.lm.sources import source_of

        return {
            "model": LanguageModel(source_of(self.model)).fingerprint,
            "dtype": resolve_device(self.device, self.dtype)[1],
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            # Like context_length, it determines where a long text is split.
            "max_new_tokens": self.max_new_tokens,
            "context_length": self.context_length,
            # How small models are asked; the fingerprint says which models are small.
            "small": [_SMALL, _EVENTS_AT_A_TIME, EXAMPLES_VERSION],
            "chat_template": self.chat_template,
            "chat_template_kwargs": self.chat_template_kwargs or {},
        }


class _LocalModel(Session):
    """A model that is loaded when it is first asked."""

    reproducible = True

    def __init__(self, settings: TransformersRewriter, language_model: LanguageModel, device: str, dtype: str) -> None:
        super().__init__(_context_length(settings, language_model), settings.max_new_tokens)
        self.settings = settings
        self.language_model = language_model
        self.device = device
        self.dtype = dtype
        self.tokenizer = language_model.tokenizer
        if settings.chat_template is None and self.tokenizer.chat_template is None:
            raise ValueError(
                f"The tokenizer of {settings.model!r} has no chat template: it is probably not an instruct model, and "
                "would not follow instructions.\n"
                "1. Choose an instruct model, whose name often ends in -Instruct or -it.\n"
                "2. If it is one, pass its template as chat_template; the model's page shows it.\n"
                "3. To prompt it without one, pass "
                "chat_template=\"{{ bos_token or '' }}{{ messages[0]['content'] + '\\n' }}\"."
            )

    @cached_property
    def events_at_a_time(self) -> int | None:
        if self._load().num_parameters() >= _SMALL:
            return None
        try:
            self._encode(compose("json", "", [Example("", "")]))
        except ValueError:  # Its template has no place for examples.
            return None
        self.n_questions = _N_SMALL_QUESTIONS
        return _EVENTS_AT_A_TIME

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokens(texts, plain=True)]

    def count_message(self, message: Message) -> int:
        return len(self._encode(message))

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | RewritingError]]:
        from skllm4es.lm.generation import Prompt, generate
        from skllm4es.lm.sampling import Sampling

        prompts: dict[int, Prompt] = {}
        for position, question in enumerate(questions):
            shared, own = self._encode_apart(question.message)
            ids = shared + own
            try:
                self.check_fits(len(ids), question.max_new_tokens)
            except RewritingError as error:
                yield position, error
            else:
                n_shared = len(shared) if question.message.examples else 0
                prompts[position] = Prompt(ids, question.max_new_tokens, question.seed, n_shared)
        if not prompts:
            return
        model = self._load()
        sampling = Sampling(float(self.settings.temperature), float(self.settings.top_p))
        positions = list(prompts)
        for number, completion in generate(
            model, list(prompts.values()), sampling, self._stop_ids(model), self.settings.batch_tokens
        ):
            position = positions[number]
            text = self.tokenizer.decode(completion.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            n_tokens = len(prompts[position].ids) + len(completion.ids)
            yield position, Answer(text, completion.finished, n_tokens)

    def _load(self) -> PreTrainedModel:
        import torch

        return self.language_model.load_with_head(getattr(torch, self.dtype), self.device)

    def _encode(self, message: Message) -> list[int]:
        shared, own = self._encode_apart(message)
        return shared + own

    def _encode_apart(self, message: Message) -> tuple[list[int], list[int]]:
        """Tokenize a message, what comes before its data and the rest.

        Only the template may contain control tokens, the data never does.
        """
        from jinja2 import TemplateError

        turns = message.turns()
        marks = [f"{message.tag} {number} {message.tag}" for number in range(len(turns))]
        try:
            chat = self.tokenizer.apply_chat_template(
                [
                    {"role": turn.role, "content": f"{turn.before}{mark}{turn.after}"}
                    for turn, mark in zip(turns, marks, strict=True)
                ],
                chat_template=self.settings.chat_template,
                add_generation_prompt=True,
                tokenize=False,
                **self.settings.chat_template_kwargs or {},
            )
        except TemplateError as error:
            raise ValueError(
                f"The chat template of {self.settings.model!r} does not work: {error}. Pass another one as "
                "chat_template."
            ) from error
        pieces = []
        for mark in marks:
            before, found, chat = chat.partition(mark)
            pieces.append(before)
            if not found or any(other in chat for other in marks[: len(pieces)]):
                raise ValueError(
                    f"The chat template of {self.settings.model!r} does not contain the message exactly once and "
                    "unchanged. Pass another one as chat_template."
                )
        *between, last = self._tokens([*pieces, chat], plain=False)
        *examples, data = self._tokens([turn.data for turn in turns], plain=True)
        before = chain.from_iterable(zip(between, [*examples, []], strict=True))
        return list(chain.from_iterable(before)), data + last

    def _tokens(self, texts: Sequence[str], *, plain: bool) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=plain,
            return_attention_mask=False,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _stop_ids(self, model: Any) -> list[int]:
        """Return the tokens that end an answer."""
        configured = model.generation_config.eos_token_id
        ids = [*(configured if isinstance(configured, list) else [configured]), self.tokenizer.eos_token_id]
        known = list(dict.fromkeys(token for token in ids if token is not None))
        if not known:
            raise ValueError(
                f"The model {self.settings.model!r} names no token that ends a text, so its answers would never end. "
                "Set eos_token_id in its generation_config.json."
            )
        return known


def _context_length(settings: TransformersRewriter, language_model: LanguageModel) -> int | None:
    given, limit = settings.context_length, language_model.n_positions
    if given is not None and limit is not None and given > limit:
        raise ValueError(
            f"context_length={given} exceeds the {limit} tokens that {settings.model!r} supports. Lower it."
        )
    return limit if given is None else given
