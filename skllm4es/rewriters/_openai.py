"""Rewriting by a model behind a server with OpenAI's API."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from numbers import Integral, Real
from queue import SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import Any, Literal
from urllib.parse import urlsplit

from skllm4es._compat import Interval
from skllm4es.rewriters._base import RewritingError
from skllm4es.rewriters._llm import Answer, LanguageModelRewriter, Question, Session
from skllm4es.rewriters._prompts import Message

#: Sent to a server that needs no key.
_NO_KEY = "none"
#: The server is probed after this many refused questions if none was answered, ...
_MAX_REFUSED = 10
#: ... and after this many questions in a row without an answer.
_MAX_UNANSWERED = 3
#: The question of a probe, and the maximum tokens of its answer; some servers require at least this many.
_PROBE, _PROBE_TOKENS = "Say yes.", 16
#: Seconds to keep asking a server that is rate limited and says how long to wait.
_RATE_LIMIT_TIMEOUT = 120.0
_MIN_PAUSE = 1.0  # seconds
_CONNECT_TIMEOUT = 10.0  # seconds
_SHUTDOWN_TIMEOUT = 2.0  # seconds for open questions when no more results are wanted
#: Pieces that few tokenizers split further: a digit, a mark, four letters, a non-ASCII letter.
_PIECE = re.compile(r"\d|[A-Za-z]{1,4}|[^\sA-Za-z\d]|\n")
#: Tokens that a chat template may add to a message.
_CHAT_TEMPLATE_TOKENS = 64


class OpenAIRewriter(LanguageModelRewriter):
    r"""Rewrite serialised texts by a model behind a server with OpenAI's API.

    Such servers are vLLM, SGLang, llama.cpp, Ollama and ``transformers serve``. This rewriter requires
    ``pip install 'skllm4es[openai]'``. Texts are sent to `base_url` and nowhere else.

    Parameters
    ----------
    model : str
        The name of the model on the server.
    base_url : str
        The address of the server, for example ``"http://localhost:8000/v1"``, without user name and password.
    api_key_env : str, default="OPENAI_API_KEY"
        The environment variable with the API key. It is read when texts are rewritten, without surrounding white
        space, and the key is not stored. A local server usually needs none.
    temperature : float, default=0.6
        Sampling temperature.
    top_p : float, default=0.9
        Sample only from the most likely tokens that together have this probability.
    max_new_tokens : int or "auto", default="auto"
        Maximum number of tokens of an answer. "auto" is 256 plus four per token of the events, or one per
        token for a summary. A model that thinks before it answers needs more.
    context_length : int, default=8192
        Maximum number of tokens of a question and its answer, as configured on the server. A text that is too long is
        split between events, and the answers to its parts are joined by blank lines. A lower number makes smaller
        parts, of which a model omits less. The number of tokens is estimated from the text, rather too high than too
        low.
    max_concurrency : int, default=8
        Maximum number of questions sent to the server at the same time.
    timeout : float, default=300
        Seconds to wait for an answer.
    max_retries : int, default=5
        How often to repeat a question after a timeout, a lost connection, a server error (5xx) or too many requests
        (429). The pauses grow, unless the server's Retry-After header sets them. If this header comes with a 429, the
        question is repeated for at least two minutes, however often that is.
    extra_body : dict, default=None
        Further settings for the server, for example
        ``{"chat_template_kwargs": {"enable_thinking": False}}`` for vLLM.

    Attributes
    ----------
    n_tokens : int
        Number of tokens read and written so far, as counted by the server.

    See Also
    --------
    TransformersRewriter : Rewrites with a model on this machine.
    TemplateRewriter : Rewrites without a model.

    Notes
    -----
    If the server refuses a text, does not answer it after all attempts, or leaves its answer unfinished, this text
    raises a `RewritingError` and the others are still rewritten. A `ConnectionError` ends the run if the server refuses
    the key or does not know the model. It also ends the run if the server is unreachable, gives no answer to three
    texts in a row, or refuses ten without having answered any, and then does not answer a tiny test question either.

    Rewritings are cached by the name of the model, not by the address of the server, so the same model at another
    address is not asked again. If two servers use the same name for different models, give each its own `memory`.
    `max_new_tokens` and `context_length` determine where a long text is split, so changing them rewrites all texts
    again.

    Each question is sent with a seed derived from text, format and seed. Whether the same question gets the same answer
    depends on the server: many sample with this seed, but batches in low precision may still differ.
    ``transformers serve`` samples only if the model's ``generation_config.json`` has ``"do_sample": true``.

    The fields of events are data, and stand between tags that they cannot contain. It is up to the server not to
    recognise control tokens of the chat in them.

    A text without events is written by a template, because a model would invent some.

    Examples
    --------
    >>> from skllm4es.rewriters import OpenAIRewriter
    >>> rewriter = OpenAIRewriter(
    ...     "Qwen/Qwen3-8B",
    ...     "http://localhost:8000/v1",
    ...     max_concurrency=32,
    ...     # Qwen 3 thinks before it answers unless this is switched off.
    ...     extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    ... )
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4"]
    >>> rewriter.rewrite(texts, ["markdown"], [0])  # doctest: +SKIP
    ['- **Heat**: 5\n- **Alien**: 4']
    """

    _parameter_constraints = {
        **LanguageModelRewriter._common_constraints,
        "base_url": [str],
        "api_key_env": [str],
        "context_length": [Interval(Integral, 1, None, closed="left")],
        "max_concurrency": [Interval(Integral, 1, None, closed="left")],
        "timeout": [Interval(Real, 0, None, closed="neither")],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "extra_body": [dict, None],
    }

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_new_tokens: int | Literal["auto"] = "auto",
        context_length: int = 8192,
        max_concurrency: int = 8,
        timeout: float = 300,
        max_retries: int = 5,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.temperature = temperature
        self.top_p = top_p
        self.max_new_tokens = max_new_tokens
        self.context_length = context_length
        self.max_concurrency = max_concurrency
        self.timeout = timeout
        self.max_retries = max_retries
        self.extra_body = extra_body

    @contextmanager
    def _open(self) -> Iterator[Session]:
        try:
            import openai
        except ImportError as error:
            raise ImportError("OpenAIRewriter requires the package openai: pip install 'skllm4es[openai]'.") from error
        self._check_address()
        client = openai.OpenAI(
            base_url=self.base_url,
            api_key=_read_key(self.api_key_env) or _NO_KEY,
            timeout=openai.Timeout(self.timeout, connect=min(_CONNECT_TIMEOUT, self.timeout)),
            max_retries=self.max_retries,
        )
        with client:
            yield _Server(self, client)

    def _determinants(self) -> Mapping[str, object]:
        # It may hold secrets, so the key holds only its hash.
        extra_body = json.dumps(self.extra_body or {}, sort_keys=True, default=repr)
        return {
            "model": self.model,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            # Like context_length, it determines where a long text is split.
            "max_new_tokens": self.max_new_tokens,
            "context_length": self.context_length,
            "extra_body": blake2b(extra_body.encode(), digest_size=16).hexdigest(),
        }

    def _check_address(self) -> None:
        if "@" in self.base_url:
            raise ValueError(
                "base_url contains an @, so it seems to hold a user name or password, which would be visible wherever "
                "the rewriter is printed. Remove them, and put the key into the environment variable that api_key_env "
                "names."
            )
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ValueError(f"base_url={self.base_url!r} is not a URL. Pass one such as 'http://localhost:8000/v1'.")


class _Server(Session):
    """A server, with counts of its answers and failures."""

    def __init__(self, settings: OpenAIRewriter, client: Any) -> None:
        super().__init__(settings.context_length, settings.max_new_tokens)
        self.settings = settings
        self.client = client
        self.n_answered = self.n_refused = 0
        self.n_unanswered = 0  # in a row
        self.lock = Lock()

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(_PIECE.findall(text)) for text in texts]

    def count_message(self, message: Message) -> int:
        return self.count([str(message)])[0] + _CHAT_TEMPLATE_TOKENS

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | RewritingError]]:
        """Ask from several threads.

        They are daemon threads, unlike those of `concurrent.futures`, so that a server that hangs does not keep an
        interrupted program alive.
        """
        waiting = deque(range(len(questions)))
        results: SimpleQueue[tuple[int, Answer | RewritingError | Exception]] = SimpleQueue()
        stopped = Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    position = waiting.popleft()
                except IndexError:
                    return
                try:
                    results.put((position, self._ask(questions[position])))
                except Exception as error:
                    stopped.set()
                    results.put((position, error))

        n_threads = min(self.settings.max_concurrency, len(questions))
        threads = [Thread(target=work, name="OpenAIRewriter", daemon=True) for _ in range(n_threads)]
        try:
            for thread in threads:
                thread.start()
            for _ in range(len(questions)):
                position, result = results.get()
                if isinstance(result, Exception) and not isinstance(result, RewritingError):
                    raise result
                yield position, result
        finally:
            stopped.set()
            end = monotonic() + _SHUTDOWN_TIMEOUT
            for thread in threads:
                thread.join(max(0, end - monotonic()))

    def _ask(self, question: Question) -> Answer | RewritingError:
        import openai

        try:
            self.check_fits(self.count_message(question.message), question.max_new_tokens)
            asked = str(question.message)
            answer = self._read(self._send_patiently(asked, question), asked)
        except RewritingError as error:
            return error
        except (openai.APIError, _NotAChatError) as error:
            failure = error
        else:
            self._count_answer()
            return answer
        # Outside of the except clause, so that no error refers to the client's, whose request holds the key.
        return self._classify(failure)

    def _classify(self, error: Exception) -> RewritingError:
        """Return an error that concerns one text; raise one that concerns all."""
        import openai

        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            raise self._no_access(error)
        if isinstance(error, openai.NotFoundError):
            raise self._unusable(f"knows no model {self.settings.model!r} or nothing at this address", error)
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            return self._lost(error)
        if isinstance(error, openai.APIStatusError) and error.status_code < 500 and error.status_code != 429:
            return self._refused(error)
        return self._unanswered(error)

    def _send_patiently(self, message: str, question: Question) -> Any:
        """Send a message, and again after each pause that a rate-limited server asks for."""
        import openai

        end = monotonic() + _RATE_LIMIT_TIMEOUT
        while True:
            try:
                return self._send(self.client, message, question.max_new_tokens, question.seed)
            except openai.RateLimitError as error:
                pause = _retry_after(error)
                if pause is None or monotonic() + pause > end:
                    raise
            sleep(pause)

    def _send(self, client: Any, message: str, max_new_tokens: int, seed: int) -> Any:
        try:
            return client.chat.completions.create(
                model=self.settings.model,
                messages=[{"role": "user", "content": message}],
                temperature=float(self.settings.temperature),
                top_p=float(self.settings.top_p),
                max_tokens=max_new_tokens,
                seed=seed,
                extra_body=self.settings.extra_body,
            )
        except ValueError as error:  # The response is not JSON.
            raise _NotAChatError(str(error)) from None

    def _read(self, completion: Any, asked: str) -> Answer:
        try:
            choice = completion.choices[0]
            text = choice.message.content or ""
            called = choice.message.tool_calls or choice.message.function_call
        except (AttributeError, IndexError, TypeError):
            raise _NotAChatError(f"not a chat completion but {self._without_key(str(completion))[:200]!r}") from None
        if called:
            raise RewritingError(
                "The model called a tool although none was offered: nothing was called and its answer is discarded. "
                "Try another seed or temperature, or a model that follows instructions better."
            )
        if choice.finish_reason == "content_filter":
            raise RewritingError("The server's content filter withheld the answer.")
        n_tokens = getattr(completion.usage, "total_tokens", None)
        if n_tokens is None:
            n_tokens = sum(self.count([asked, text]))
        return Answer(text, choice.finish_reason != "length", n_tokens)

    def _lost(self, error: Exception) -> RewritingError:
        attempts = f"{self.settings.max_retries + 1} attempts"
        self._raise_unless_alive(f"could not be reached in {attempts}", error)
        return RewritingError(f"The connection to the server was lost in {attempts}: {self._quote(error)}")

    def _unanswered(self, error: Exception) -> RewritingError:
        with self.lock:
            self.n_unanswered += 1
            n_unanswered = self.n_unanswered
        if _retry_after(error) is None:
            what = f"gave no answer in {self.settings.max_retries + 1} attempts"
        else:
            what = f"asked to wait for more than {_RATE_LIMIT_TIMEOUT:.0f} seconds"
        if n_unanswered >= _MAX_UNANSWERED:
            self._raise_unless_alive(f"{what}, to {_MAX_UNANSWERED} texts in a row", error)
        return RewritingError(f"The server {what}: {self._quote(error)}")

    def _refused(self, error: Exception) -> RewritingError:
        with self.lock:
            self.n_refused += 1
            n_refused = self.n_refused
        if n_refused >= _MAX_REFUSED and self.n_answered == 0:
            self._raise_unless_alive(f"refused {n_refused} questions and answered none", error)
        return RewritingError(
            f"The server refused this text: {self._quote(error)}. If it is too long, set context_length to that of the "
            "server."
        )

    def _raise_unless_alive(self, what: str, error: Exception) -> None:
        """Abort the run, unless the server answers a tiny question, which shows that only single texts fail.

        In a run that resumes an earlier one, perhaps only texts that fail are left.
        """
        if not self._is_alive():
            raise self._unusable(what, error)
        self._count_answer()

    def _count_answer(self) -> None:
        with self.lock:
            self.n_answered += 1
            self.n_unanswered = 0

    def _is_alive(self) -> bool:
        import openai

        try:
            self._read(self._send(self.client.with_options(max_retries=0), _PROBE, _PROBE_TOKENS, 0), _PROBE)
        except RewritingError:  # Its content filter works, and so does the server.
            return True
        except (openai.APIError, _NotAChatError):
            return False
        return True

    def _no_access(self, error: Exception) -> ConnectionError:
        name = self.settings.api_key_env
        found = (
            f"It does not accept the key in the environment variable {name}"
            if _read_key(name)
            else f"It requires a key, and the environment variable {name} is not set"
        )
        return ConnectionError(
            f"The server {self._address()} refuses access ({type(error).__name__}). {found}. Set it to the key, or "
            "pass the name of the variable that holds it as api_key_env."
        )

    def _unusable(self, what: str, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"The server {self._address()} {what}: {self._quote(error)}\n"
            "1. Is it running, and is base_url its address? It usually ends in /v1.\n"
            f"2. Is {self.settings.model!r} the name of the model? {self._address()}/models lists them.\n"
            "3. Is it overloaded? Lower max_concurrency; raise timeout and max_retries.\n"
            "4. Does it know all settings? extra_body is passed on unchanged.\n"
            "Texts rewritten so far are kept if memory is set."
        )

    def _address(self) -> str:
        return self.settings.base_url.rstrip("/")

    def _quote(self, error: Exception) -> str:
        """Quote an error, without the key if the server repeats it."""
        response = getattr(error, "response", None)
        text = f"{response.status_code} {response.text}" if response is not None else str(error)
        return self._without_key(text)[:300]

    def _without_key(self, text: str) -> str:
        """Remove the key from a text that is not yet cut, because the beginning of a cut key would remain."""
        key = _read_key(self.settings.api_key_env)
        return text.replace(key, "***") if key else text


class _NotAChatError(Exception):
    """Raised when the server's response is not a chat completion."""


def _retry_after(error: Exception) -> float | None:
    """Return the seconds that a rate-limited server asks to wait, if it does."""
    if getattr(error, "status_code", None) != 429:
        return None
    try:
        return max(_MIN_PAUSE, float(error.response.headers["retry-after"]))  # type: ignore[attr-defined]
    except (KeyError, ValueError):
        return None


def _read_key(name: str) -> str:
    """Read the key from the environment; empty if there is none."""
    key = os.environ.get(name, "").strip()
    for position, character in enumerate(key):
        if not "!" <= character <= "~":
            raise ValueError(
                f"Character {position + 1} of {len(key)} of the key in the environment variable {name} is a control "
                "character, a space or not ASCII, which a key cannot contain. Set the variable to the key alone."
            )
    return key
