"""
==================================================
A rewriting LLM behind an OpenAI-compatible server
==================================================

The paper enriches texts with an instruct model.
:class:`~skllm4es.rewriters.OpenAIRewriter` uses one behind any server that speaks
OpenAI's protocol: vLLM, SGLang, llama.cpp, Ollama, ``transformers serve``. To run
without one, this page starts a small server of its own, whose "model" is five lines of
Python, and not a good one.
"""

# %%
# A server
# --------
# It answers ``POST /v1/chat/completions``. The last message has the events between two
# tags. This model writes them as a Markdown list and forgets every event after the
# eighth; real models leave things out as well.

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

questions = []


def forgetful_model(question):
    tagged = re.search(r"<(data-\w+)>\n(.*)\n</\1>", question, re.DOTALL)
    header, *events = tagged[2].split("\n")
    lines = [f"- {header.replace('|', ', ')}: {event}" for event in events[:8]]
    return "\n".join(["# Transactions", *lines])


class Chat(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        questions.append(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": forgetful_model(questions[-1])}
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 100,
                "total_tokens": 200,
            },
        }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
server.daemon_threads = True
Thread(target=server.serve_forever, daemon=True).start()

# %%
# Rewriting with it
# -----------------
# For a real server, this is all you need: its address, and its name for the model. If
# it needs a key, set the environment variable ``OPENAI_API_KEY``. The users' texts go
# to this address and nowhere else.

from tempfile import TemporaryDirectory

from skllm4es import EventSerializer, TextEnricher
from skllm4es.datasets import make_transactions
from skllm4es.rewriters import OpenAIRewriter
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=40, mean_events=10, random_state=0)
texts = EventSerializer(
    ["mcc", "amount"], labels={"mcc": load_mcc_names()}, max_events=20
).fit_transform(X)

cache = TemporaryDirectory()
rewriter = OpenAIRewriter("forgetful-1", f"http://127.0.0.1:{server.server_port}/v1")
enricher = TextEnricher(
    rewriter,
    formats="markdown",
    check="retry",
    max_retries=1,
    memory=cache.name,
    random_state=0,
)
enriched = enricher.fit_transform(texts)
print(questions[0])

# %%
# What happened to each text
# --------------------------
# ``check="retry"`` compares each rewritten text with its original, asks again if the
# text lost events, and lets a template write texts that remain unfaithful. One warning
# says how many there were; ``report_`` has a row for each text.

report = enricher.report_
report["outcome"].value_counts()

# %%
# A text that was kept, and one that a template wrote instead:

for outcome in ("ok", "template"):
    row = report[report["outcome"] == outcome].index[0]
    print(f"--- {outcome}", report.loc[row, ["recall", "reason"]].to_dict())
    print(enriched["variant_0"].iloc[row][:300], "\n")

# %%
# The model forgets everything after the eighth event, so templates had to write the
# long histories. Eight of nine events still pass, because that share is above
# ``min_recall``.

import matplotlib.pyplot as plt
import pandas as pd

counts = pd.crosstab(
    texts["text"].str.count("\n").to_numpy(),
    report["outcome"].to_numpy(),
    colnames=["written by"],
)
counts = counts.rename(columns={"ok": "the model", "template": "a template"})
counts = counts.reindex(range(1, counts.index.max() + 1), fill_value=0)
ax = counts.plot.bar(stacked=True, color=["tab:blue", "tab:orange"], width=0.9)
ax.set(xlabel="events of the user", ylabel="texts")
ax.figure.set_layout_engine("constrained")
plt.show()

# %%
# Nothing is asked twice
# ----------------------
# ``memory`` keeps each text as soon as it is written. An interrupted run continues
# where it stopped, and the folds of a cross-validation share the rewritten texts.

n_questions = len(questions)
enricher.fit_transform(texts)
print(f"{n_questions} requests at first, {len(questions) - n_questions} afterwards")

server.shutdown()
server.server_close()
cache.cleanup()
