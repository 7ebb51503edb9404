"""Rewriting by an instruct model that runs here, through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from skllm4es._compat import Interval, StrOptions
from skllm4es.rewriters._base import RewritingError
from skllm4es.rewriters._llm import Answer, LanguageModelRewriter, Question, Session
from skllm4es.rewriters._prompts import Message

if TYPE_CHECKING:
    from skllm4es.lm.language_model import LanguageModel


class TransformersRewriter(LanguageModelRewriter):
    r"""Rewrite serialised texts by an instruct model that runs on this machine.

    The model is asked in its own chat template, text by text, many at once. It is loaded when the first text is
    rewritten, and once for all rewriters of a process that use it.

    Parameters
    ----------
    model : str
        A name on the model hub, or a local directory.
    temperature : float, default=0.6
        How freely tokens are drawn; 0 always takes the most likely one, so that seeds make no difference.
    top_p : float, default=0.9
        Only the most likely tokens that together have this probability are drawn.
    max_new_tokens : int or "auto", default="auto"
        The most tokens of an answer. "auto" is 256 and four for each token of the events. A model that thinks before
        it answers needs more.
    context_length : int, default=None
        The most tokens of a question and its answer; by default all that the model can see. A text that is too long
        is split between events, and the answers to its parts are joined with a blank line between them. A lower
        number makes smaller parts, of which a model leaves out less.
    batching : {"auto", "padded", "continuous"}, default="auto"
        "continuous" is the continuous batching of transformers: a text that is finished makes room for another at
        once. "padded" rewrites batches of texts of like length. "auto" is "continuous" on a GPU of Nvidia and
        "padded" elsewhere: on a CPU continuous batching takes several times as long.
    batch_tokens : int, default=None
        The tokens, of questions and answers, that are in memory at once. By default 16,384, or, with continuous
        batching, as many as the device holds.
    chat_template : str, default=None
        A Jinja template in place of the tokenizer's. ``"{{ messages[0]['content'] + '\n' }}"`` asks a model that was
        not trained for chats.
    chat_template_kwargs : dict, default=None
        Further settings of the template, for example ``{"enable_thinking": False}`` for Qwen 3.
    device : str, default=None
        Where the model runs; by default a GPU if there is one.
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        The type of the weights. "auto" is bfloat16 on a device that multiplies it faster than float32.

    Attributes
    ----------
    n_tokens : int
        Tokens that were read and written so far.

    See Also
    --------
    OpenAIRewriter : Asks a model behind a server.
    TemplateRewriter : Needs no model.

    Notes
    -----
    Each text has its own draws, which hang on text, format and seed alone. The scores that they are drawn by differ
    in their last digits with the texts that share a batch, more so in bfloat16: a text may then take another turn.
    ``batch_tokens=1`` rewrites texts one by one, which rules this out on one machine.

    Whatever an event's fields hold is data: it stands between tags that it cannot contain, and is turned into
    tokens as plain text, so that the control tokens of a chat cannot be written in it.

    A text without events is written by a template, because a model would invent some.

    Examples
    --------
    >>> from skllm4es.rewriters import TransformersRewriter
    >>> rewriter = TransformersRewriter("Qwen/Qwen3-0.6B", chat_template_kwargs={"enable_thinking": False})
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4"]
    >>> rewriter.rewrite(texts, ["markdown"], [0])  # doctest: +SKIP
    ['- **Heat**: 5\n- **Alien**: 4']
    """

    _parameter_constraints = {
        **LanguageModelRewriter._common_constraints,
        "context_length": [Interval(Integral, 1, None, closed="left"), None],
        "batching": [StrOptions({"auto", "padded", "continuous"})],
        "batch_tokens": [Interval(Integral, 1, None, closed="left"), None],
        "chat_template": [str, None],
        "chat_template_kwargs": [dict, None],
        "device": [str, None],
        "dtype": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
    }

    def __init__(
        self,
        model: str,
        *,
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_new_tokens: int | Literal["auto"] = "auto",
        context_length: int | None = None,
        batching: str = "auto",
        batch_tokens: int | None = None,
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
        self.batching = batching
        self.batch_tokens = batch_tokens
        self.chat_template = chat_template
        self.chat_template_kwargs = chat_template_kwargs
        self.device = device
        self.dtype = dtype

    @contextmanager
    def _open(self) -> Iterator[Session]:
        # torch and transformers take seconds to import, which only those who rewrite should wait for.
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
            # It decides, as context_length does, where a long text is split.
            "max_new_tokens": self.max_new_tokens,
            "context_length": self.context_length,
            "chat_template": self.chat_template,
            "chat_template_kwargs": self.chat_template_kwargs or {},
        }


class _LocalModel(Session):
    """A model in memory, or on its way there."""

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
                "would not do what it is asked.\n"
                "1. Choose an instruct model, whose name often ends in -Instruct or -it.\n"
                "2. If it is one, pass its template as chat_template; its page shows how it wants to be asked.\n"
                "3. To ask it without one, pass chat_template=\"{{ messages[0]['content'] + '\\n' }}\"."
            )

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokens(texts, plain=True)]

    def count_message(self, message: Message) -> int:
        return len(self._encode(message))

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | RewritingError]]:
        import torch

        from skllm4es.lm.generation import Job, write_continuously, write_in_batches
        from skllm4es.lm.sampling import Sampling

        jobs: dict[int, Job] = {}
        for position, question in enumerate(questions):
            ids = self._encode(question.message)
            try:
                self.check_fits(len(ids), question.max_new_tokens)
            except RewritingError as error:
                yield position, error
            else:
                jobs[position] = Job(ids, question.max_new_tokens, question.seed)
        if not jobs:
            return
        model = self.language_model.load_with_head(getattr(torch, self.dtype), self.device)
        write = write_continuously if self._continuous() else write_in_batches
        sampling = Sampling(float(self.settings.temperature), float(self.settings.top_p))
        positions = list(jobs)
        for number, written in write(
            model, list(jobs.values()), sampling, self._ends(model), self.settings.batch_tokens
        ):
            job = jobs[positions[number]]
            text = self.tokenizer.decode(written.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            yield positions[number], Answer(text, written.finished, len(job.ids) + len(written.ids))

    def _continuous(self) -> bool:
        if self.settings.batching == "auto":
            return self.device.startswith("cuda")
        return self.settings.batching == "continuous"

    def _encode(self, message: Message) -> list[int]:
        """Turn a message into tokens: the template's may be control tokens, those of the data never are."""
        from jinja2 import TemplateError

        mark = f"{message.tag} {message.tag}"
        try:
            chat = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": f"{message.before}{mark}{message.after}"}],
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
        before, found, after = chat.partition(mark)
        if not found or mark in after:
            raise ValueError(
                f"The chat template of {self.settings.model!r} does not show a message once, as it stands. Pass "
                "another one as chat_template."
            )
        first, last = self._tokens([before, after], plain=False)
        return first + self._tokens([message.data], plain=True)[0] + last

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

    def _ends(self, model: Any) -> list[int]:
        """Give the tokens that end an answer."""
        configured = model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        known = list(dict.fromkeys(end for end in [*ends, self.tokenizer.eos_token_id] if end is not None))
        if not known:
            raise ValueError(
                f"The model {self.settings.model!r} names no token that ends a text, so its answers would never end. "
                "Set eos_token_id in its generation_config.json."
            )
        return known


def _context_length(settings: TransformersRewriter, language_model: LanguageModel) -> int | None:
    given, limit = settings.context_length, language_model.n_positions
    if given is not None and limit is not None and given > limit:
        raise ValueError(f"context_length={given}, but {settings.model!r} sees at most {limit} tokens. Lower it.")
    return limit if given is None else given
