"""
========================
Saving, loading, serving
========================

A fitted pipeline has two kinds of state: a language model, which is large and best kept
in files that cannot run code, and a small classifier. This tutorial saves both, loads
them as another process would, and puts them behind an HTTP server.
"""

# %%
# Fit
# ---

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from skllm4es import EventSerializer, FineTuning, LLMEmbedder, TextEnricher
from skllm4es.datasets import make_transactions
from skllm4es.vocabularies import load_mcc_names

X, y = make_transactions(n_users=200, mean_events=25, random_state=0)
serializer = EventSerializer(
    ["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=25
)
pipeline = Pipeline(
    [
        ("serialize", serializer),
        ("enrich", TextEnricher(random_state=0)),
        ("embed", LLMEmbedder(finetune=FineTuning(epochs=0.5), random_state=0)),
        ("classify", LogisticRegression()),
    ]
).fit(X, y)

# %%
# Save
# ----
# :meth:`~skllm4es.LLMEmbedder.save_pretrained` writes weights as safetensors and
# settings as JSON. The rest is a small pickle; load it only if you trust its author.
# (``joblib.dump(pipeline, ...)`` alone works, too; the pickle then contains the trained
# weights.)

from pathlib import Path
from tempfile import TemporaryDirectory

import joblib

home = TemporaryDirectory()
embedder = Path(home.name, "embedder")
rest = Path(home.name, "rest.joblib")
pipeline["embed"].save_pretrained(embedder)
joblib.dump(
    {"serialize": pipeline["serialize"], "classify": pipeline["classify"]}, rest
)

for path in sorted(Path(home.name).rglob("*.*")):
    print(f"{path.relative_to(home.name)}: {path.stat().st_size / 1000:.0f} kB")

# %%
# Load
# ----
# The enricher is only needed for training, so it is left out. This is the largest
# difference between the predictions of the loaded and the fitted pipeline:

import numpy as np

loaded = joblib.load(rest)
scorer = make_pipeline(
    loaded["serialize"], LLMEmbedder.from_pretrained(embedder), loaded["classify"]
)
np.abs(scorer.predict_proba(X) - pipeline.predict_proba(X)).max()

# %%
# Serve
# -----
# A client's events arrive as JSON. The table must have the same types as in training: a
# column of another kind raises an error instead of giving a wrong prediction. Any web
# framework will do; this server is in the standard library.

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pandas as pd

from skllm4es import nest_events


class Scorer(BaseHTTPRequestHandler):
    """Answer with the probability that the client with these events leaves."""

    def do_POST(self):
        events = pd.DataFrame(
            json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        )
        events["event_time"] = pd.to_datetime(events["event_time"])
        client = nest_events(events.assign(client=0), user="client", time="event_time")
        answer = json.dumps(
            {"leaves": float(scorer.predict_proba(client)[0, 1])}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        """Do not print a line per request."""


server = HTTPServer(("127.0.0.1", 0), Scorer)
Thread(target=server.serve_forever, daemon=True).start()

# %%
# Ask
# ---

from time import perf_counter
from urllib.request import urlopen

from skllm4es import unnest_events

clients = [X.iloc[[row]] for row in range(40)]
n_events, milliseconds, answers = [], [], []
for client in clients:
    events = unnest_events(client).drop(columns="user_id")
    question = events.to_json(orient="records", date_format="iso").encode()
    start = perf_counter()
    with urlopen(f"http://127.0.0.1:{server.server_port}", question) as response:
        answers.append(json.load(response)["leaves"])
    milliseconds.append(1000 * (perf_counter() - start))
    n_events.append(len(events))
server.shutdown()
server.server_close()
home.cleanup()

np.abs(np.array(answers) - pipeline.predict_proba(X.iloc[:40])[:, 1]).max()

# %%
# How long an answer takes
# ------------------------
# Each answer has a fixed cost and a cost per token. With a model this small, the fixed
# cost is nearly everything. With a large one, the time grows with the client's events,
# up to ``max_events``. The first answer is left out because it loads the model. A
# server with many simultaneous requests should score them in one call, which shares the
# fixed cost and keeps the device busy.

import matplotlib.pyplot as plt

figure, ax = plt.subplots(layout="constrained")
ax.plot(n_events[1:], milliseconds[1:], "o", alpha=0.6)
ax.axvline(25, color="black", linestyle="--", label="max_events=25")
ax.set(xlabel="events of the client", ylabel="milliseconds per answer", ylim=(0, None))
ax.legend()
plt.show()
