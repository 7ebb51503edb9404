"""A rewriter whose model is a function, which records the questions."""

from contextlib import contextmanager

from skllm4es.rewriters._llm import Answer, LanguageModelRewriter, Session


class RecordingRewriter(LanguageModelRewriter):
    """Asks `answer(message)`, which returns a str, an `Answer` or a `RewritingError`; a word is a token."""

    _parameter_constraints = {
        "answer": [callable],
        "context_length": "no_validation",
        "temperature": "no_validation",
        "events_at_a_time": "no_validation",
        "reproducible": "no_validation",
    }

    def __init__(
        self,
        answer=lambda message: "an answer",
        context_length=None,
        temperature=0.6,
        events_at_a_time=None,
        reproducible=False,
    ):
        self.answer = answer
        self.context_length = context_length
        self.temperature = temperature
        self.events_at_a_time = events_at_a_time
        self.reproducible = reproducible

    @contextmanager
    def _open(self):
        self.asked = []
        self.rounds = []
        yield _Words(self)

    def _determinants(self):
        return {"temperature": self.temperature}


class _Words(Session):
    def __init__(self, rewriter):
        super().__init__(rewriter.context_length, "auto")
        self.rewriter = rewriter
        self.reproducible = rewriter.reproducible
        if rewriter.events_at_a_time is not None:
            self.n_questions = 8

    @property
    def events_at_a_time(self):
        return self.rewriter.events_at_a_time

    def count(self, texts):
        return [len(text.split()) for text in texts]

    def count_message(self, message):
        return self.count([str(message)])[0]

    def ask(self, questions):
        self.rewriter.rounds.append(len(questions))
        for position, question in reversed(list(enumerate(questions))):
            self.rewriter.asked.append(question)
            answer = self.rewriter.answer(question.message)
            yield position, Answer(answer, True, 7) if isinstance(answer, str) else answer
