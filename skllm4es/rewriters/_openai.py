"""Rewriting by a model behind a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from numbers import Integral, Real
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import Any, Literal
from urllib.parse import urlsplit

from skllm4es._compat import Interval
from skllm4es.rewriters._base import RewritingError
from skllm4es.rewriters._llm import Answer, LanguageModelRewriter, Question, Session
from skllm4es.rewriters._prompts import Message

#: What a server that asks for no key is sent.
_NO_KEY = "none"
#: Questions that may be refused, with none answered, before the server is asked whether it answers at all.
_MAX_REFUSED = 10
#: Questions in a row without an answer after which it is asked the same.
_MAX_UNANSWERED = 3
#: What it is asked then, and the tokens of the answer, which some servers want to be this many.
_PROBE, _PROBE_TOKENS = "Say yes.", 16
#: Seconds for which a text is asked again, at least, where the server has too many requests and names the pauses.
_PATIENCE = 120.0
_SHORTEST_PAUSE = 1.0
_CONNECT = 10.0  # seconds to find the server
_LEAVE = 2.0  # seconds for questions that are under way when no more is wanted
#: Pieces that few tokenizers cut further: a digit, a mark, four letters, a letter beyond ASCII.
_PIECE = re.compile(r"\d|[A-Za-z]{1,4}|[^\sA-Za-z\d]|\n")
#: Tokens that the form of a chat may add to a message.
_FORM_OF_CHAT = 64


class OpenAIRewriter(LanguageModelRewriter):
    r"""Rewrite serialised texts by a model behind a server that speaks OpenAI's protocol.

    Such as vLLM, SGLang, llama.cpp, Ollama and ``transformers serve``. Needs ``pip install 'skllm4es[openai]'``. The
    texts are sent to `base_url`, and to nowhere else.

    Parameters
    ----------
    model : str
        The name by which the server knows the model.
    base_url : str
        Where the server is, for example ``"http://localhost:8000/v1"``; without name and password.
    api_key_env : str, default="OPENAI_API_KEY"
        The environment variable that holds the key. It is read when texts are rewritten, without the white space
        around it; the key is kept nowhere. A server on this machine mostly needs none.
    temperature : float, default=0.6
        How freely tokens are drawn.
    top_p : float, default=0.9
        Only the most likely tokens that together have this probability are drawn.
    max_new_tokens : int or "auto", default="auto"
        The most tokens of an answer. "auto" is 256 and four for each token of the events. A model that thinks before
        it answers needs more.
    context_length : int, default=8192
        The most tokens of a question and its answer, as the server is set up. A text that is too long is split
        between events, and the answers to its parts are joined with a blank line between them. A lower number makes
        smaller parts, of which a model leaves out less. Tokens are estimated from the text, rather too many than too
        few.
    max_concurrency : int, default=8
        Questions that are with the server at once.
    timeout : float, default=300
        Seconds to wait for an answer.
    max_retries : int, default=5
        How often a question is asked again after a time-out, a lost connection, an error of the server (5xx) or too
        many requests (429), each time after a longer pause, or after the one that the server's Retry-After names. Too
        many requests, where Retry-After names seconds, are waited for at least two minutes, however often that is.
    extra_body : dict, default=None
        Further settings that the server knows, for example
        ``{"chat_template_kwargs": {"enable_thinking": False}}`` for vLLM.

    Attributes
    ----------
    n_tokens : int
        Tokens that were read and written so far, as the server counts them.

    See Also
    --------
    TransformersRewriter : Runs the model itself.
    TemplateRewriter : Needs no model.

    Notes
    -----
    A text that the server refuses, does not answer after all attempts, or leaves unfinished is a `RewritingError`, and
    the others are rewritten. A `ConnectionError` ends it all when the server refuses the key or does not know the
    model. When it is not there, gives three texts in a row no answer, or refuses ten and has answered none, it is asked
    one tiny question: only if that has no answer either, the `ConnectionError` comes.

    Rewritings are kept by the name of the model, not by the address of the server: the same model at another address
    is not asked again. Where two servers call different models the same, give each its own `memory`. `max_new_tokens`
    and `context_length` decide where a long text is split; with others all texts are rewritten anew.

    Each question is sent with a seed that hangs on text, format and seed. Whether the same question then gets the
    same answer is up to the server: many draw by the seed, but batches in low precision still differ at times.
    ``transformers serve`` draws at all only if the model's ``generation_config.json`` has ``"do_sample": true``.

    Whatever an event's fields hold is data, and stands between tags that it cannot contain. That the control tokens
    of the model's chat are not recognised in it, is up to the server.

    A text without events is written by a template, because a model would invent some.

    Examples
    --------
    >>> from skllm4es.rewriters import OpenAIRewriter
    >>> rewriter = OpenAIRewriter(
    ...     "Qwen/Qwen3-8B",
    ...     "http://localhost:8000/v1",
    ...     max_concurrency=32,
    ...     # Qwen 3 thinks before it answers unless it is told not to.
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
            raise ImportError("OpenAIRewriter needs the package openai: pip install 'skllm4es[openai]'.") from error
        self._check_address()
        client = openai.OpenAI(
            base_url=self.base_url,
            api_key=_read_key(self.api_key_env) or _NO_KEY,
            timeout=openai.Timeout(self.timeout, connect=min(_CONNECT, self.timeout)),
            max_retries=self.max_retries,
        )
        with client:
            yield _Server(self, client)

    def _determinants(self) -> Mapping[str, object]:
        # It may hold what is secret, so not even the cache shall show it.
        extra_body = json.dumps(self.extra_body or {}, sort_keys=True, default=repr)
        return {
            "model": self.model,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            # It decides, as context_length does, where a long text is split.
            "max_new_tokens": self.max_new_tokens,
            "context_length": self.context_length,
            "extra_body": blake2b(extra_body.encode(), digest_size=16).hexdigest(),
        }

    def _check_address(self) -> None:
        if "@" in self.base_url:
            raise ValueError(
                "base_url has an @, before which a name or a password stands; these would be shown wherever the "
                "rewriter is. Leave them out, and put the key into the environment variable that api_key_env names."
            )
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ValueError(
                f"base_url={self.base_url!r} is not an address: pass one such as 'http://localhost:8000/v1'."
            )


class _Server(Session):
    """A server, and how it behaved so far."""

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
        return self.count([str(message)])[0] + _FORM_OF_CHAT

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | RewritingError]]:
        """Ask from several threads.

        They are daemons, unlike those of `concurrent.futures`: a server that hangs does not keep a program alive
        that was interrupted.
        """
        waiting: SimpleQueue[int] = SimpleQueue()
        for position in range(len(questions)):
            waiting.put(position)
        results: SimpleQueue[tuple[int, Answer | RewritingError | Exception]] = SimpleQueue()
        stopped = Event()

        def work() -> None:
            while not stopped.is_set():
                try:
                    position = waiting.get_nowait()
                except Empty:
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
            end = monotonic() + _LEAVE
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
            trouble = error
        else:
            with self.lock:
                self.n_answered += 1
                self.n_unanswered = 0
            return answer
        # What is raised here does not refer to the client's error, whose request holds the key.
        return self._judge(trouble)

    def _judge(self, error: Exception) -> RewritingError:
        """Tell what befell one text from what befalls all, which is raised."""
        import openai

        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            raise self._no_access(error)
        if isinstance(error, openai.NotFoundError):
            raise self._end(f"knows no model {self.settings.model!r} or nothing at this address", error)
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            return self._lost(error)
        if isinstance(error, openai.APIStatusError) and error.status_code < 500 and error.status_code != 429:
            return self._refused(error)
        return self._unanswered(error)

    def _send_patiently(self, message: str, question: Question) -> Any:
        """Send, and again after each pause that the server names: many requests are no trouble of this one."""
        import openai

        end = monotonic() + _PATIENCE
        while True:
            try:
                return self._send(self.client, message, question.max_new_tokens, question.seed)
            except openai.RateLimitError as error:
                pause = _named_pause(error)
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
        except ValueError as error:  # What came is not JSON.
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
                "The model called a tool, and none was offered to it: nothing was called, and the answer is not used. "
                "Try another seed or temperature, or a model that follows instructions better."
            )
        if choice.finish_reason == "content_filter":
            raise RewritingError("The server's filter kept the answer back.")
        n_tokens = getattr(completion.usage, "total_tokens", None)
        if n_tokens is None:
            n_tokens = sum(self.count([asked, text]))
        return Answer(text, choice.finish_reason != "length", n_tokens)

    def _lost(self, error: Exception) -> RewritingError:
        attempts = f"{self.settings.max_retries + 1} attempts"
        self._end_unless_well(f"was not there in {attempts}", error)
        return RewritingError(f"The connection to the server was lost in {attempts}: {self._said(error)}")

    def _unanswered(self, error: Exception) -> RewritingError:
        with self.lock:
            self.n_unanswered += 1
            n_unanswered = self.n_unanswered
        if _named_pause(error) is None:
            what = f"gave no answer in {self.settings.max_retries + 1} attempts"
        else:
            what = f"asked to wait for more than {_PATIENCE:.0f} seconds"
        if n_unanswered >= _MAX_UNANSWERED:
            self._end_unless_well(f"{what}, to {_MAX_UNANSWERED} texts in a row", error)
        return RewritingError(f"The server {what}: {self._said(error)}")

    def _refused(self, error: Exception) -> RewritingError:
        with self.lock:
            self.n_refused += 1
            n_refused = self.n_refused
        if n_refused >= _MAX_REFUSED and self.n_answered == 0:
            self._end_unless_well(f"refused {n_refused} questions and answered none", error)
        return RewritingError(
            f"The server refused this text: {self._said(error)}. If it is too long, set context_length to that of the "
            "server."
        )

    def _end_unless_well(self, what: str, error: Exception) -> None:
        """End it all, unless the server answers a tiny question: then the trouble is that of single texts.

        In a run that goes on from an earlier one, only the texts that failed may be left.
        """
        if not self._is_well():
            raise self._end(what, error)
        with self.lock:
            self.n_answered += 1
            self.n_unanswered = 0

    def _is_well(self) -> bool:
        import openai

        try:
            self._read(self._send(self.client.with_options(max_retries=0), _PROBE, _PROBE_TOKENS, 0), _PROBE)
        except RewritingError:  # Its filter is at work, and so is the server.
            return True
        except (openai.APIError, _NotAChatError):
            return False
        return True

    def _no_access(self, error: Exception) -> ConnectionError:
        name = self.settings.api_key_env
        found = (
            f"The key in the environment variable {name} is wrong for it"
            if _read_key(name)
            else (f"It asks for a key, and the environment variable {name} is not set")
        )
        return ConnectionError(
            f"The server {self._address()} refuses access ({type(error).__name__}). {found}. Set it to the key, or "
            "name the variable that holds it by api_key_env."
        )

    def _end(self, what: str, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"The server {self._address()} {what}: {self._said(error)}\n"
            "1. Is it running, and is base_url its address? It mostly ends in /v1.\n"
            f"2. Is {self.settings.model!r} the name of the model? {self._address()}/models lists them.\n"
            "3. Is it asked for too much? Lower max_concurrency; raise timeout and max_retries.\n"
            "4. Does it know all settings? extra_body is passed on as it stands.\n"
            "What was rewritten before is not lost where a cache keeps it."
        )

    def _address(self) -> str:
        return self.settings.base_url.rstrip("/")

    def _said(self, error: Exception) -> str:
        """Quote an error, without the key if the server repeats it."""
        response = getattr(error, "response", None)
        said = f"{response.status_code} {response.text}" if response is not None else str(error)
        return self._without_key(said)[:300]

    def _without_key(self, text: str) -> str:
        """Take the key out of a text, which must be whole: of a key that is cut the beginning would be left."""
        key = _read_key(self.settings.api_key_env)
        return text.replace(key, "***") if key else text


class _NotAChatError(Exception):
    """What the server sent is no answer of a chat."""


def _named_pause(error: Exception) -> float | None:
    """Read for how many seconds a server with too many requests asks to be left alone, if it does."""
    if getattr(error, "status_code", None) != 429:
        return None
    try:
        return max(_SHORTEST_PAUSE, float(error.response.headers["retry-after"]))  # type: ignore[attr-defined]
    except (KeyError, ValueError):
        return None


def _read_key(name: str) -> str:
    """Read the key from the environment; empty where there is none."""
    key = os.environ.get(name, "").strip()
    for position, character in enumerate(key):
        if not "!" <= character <= "~":
            raise ValueError(
                f"Character {position + 1} of {len(key)} of the key in the environment variable {name} is a control "
                "character, a space or none of ASCII, which no key has. Set the variable to the key alone."
            )
    return key
