"""
========================
Frozen, fine-tuned, LoRA
========================

There are three ways to use a pretrained language model: as it is, with all weights
trained further, or with small trainable matrices beside its weights. The parameter
``finetune`` chooses.
"""

# %%
# A pretrained model
# ------------------
# Usually you pass a name, ``LLMEmbedder("meta-llama/Llama-3.2-3B")``, or a directory on
# this machine. To run offline, this page trains its own model on the clients of another
# bank and saves it in the format of the model hub.

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils import logging

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder, LoRA
from skllm4es.datasets import make_transactions
from skllm4es.vocabularies import load_mcc_names

serializer = EventSerializer(
    ["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=20
)
elsewhere, _ = make_transactions(n_users=300, mean_events=20, random_state=1)
pretrained = LLMEmbedder(
    FromScratch(n_params=200_000), finetune=FineTuning(epochs=0.5), random_state=0
).fit(serializer.fit_transform(elsewhere))

logging.disable_progress_bar()
home = TemporaryDirectory()
directory = Path(home.name, "my-model")
model, tokenizer = pretrained.load_model()
model.save_pretrained(directory)
tokenizer.save_pretrained(directory)
sorted(path.name for path in directory.iterdir())

# %%
# Three ways to use it
# --------------------
# - ``finetune=None`` leaves it as it is. Nothing is trained, and the weights hold
#   nothing about the users.
# - ``finetune="full"`` or ``FineTuning(...)`` trains all weights, as in the paper.
# - ``finetune="lora"`` or ``LoRA(...)`` trains a low-rank adapter, which needs a
#   fraction of the memory for a large model. With ``merge=False``, only a few megabytes
#   are saved.
#
# The learning rates of large models are too low for one this small, so they are raised
# here. ``features="hidden"`` pools the hidden layers over whole texts, as in the paper,
# and so depends on the weights more than event features do.

embedders = {
    "frozen": LLMEmbedder(directory, features="hidden", finetune=None),
    "fine-tuned": LLMEmbedder(
        directory,
        features="hidden",
        finetune=FineTuning(epochs=1, learning_rate=1e-3, batch_tokens=1024),
    ),
    "LoRA": LLMEmbedder(
        directory,
        features="hidden",
        finetune=LoRA(epochs=1, learning_rate=3e-3, batch_tokens=1024),
    ),
}

X, y = make_transactions(n_users=240, mean_events=20, random_state=0)
texts = serializer.transform(X)
vectors, rows = {}, {}
for name, embedder in embedders.items():
    embedder.set_params(random_state=0)
    vectors[name] = embedder.fit(texts).transform(texts)
    rows[name] = {
        "tokens trained on": embedder.n_tokens_seen_,
        "seconds": embedder.training_time_,
    }

# %%
# The two training losses
# -----------------------

import matplotlib.pyplot as plt

from skllm4es.plotting import FineTuningLossDisplay

figure, ax = plt.subplots(layout="constrained")
for name in ("fine-tuned", "LoRA"):
    FineTuningLossDisplay.from_estimator(embedders[name], ax=ax, name=name)
plt.show()

# %%
# What the vectors predict
# ------------------------
# The same classifier scores all three; the table has the mean and the standard
# deviation over repeated splits. A lower loss means a better model of the text, but not
# always a better vector, and the hidden layers of a model as small as this hold little
# information.

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
folds = RepeatedStratifiedKFold(n_splits=4, n_repeats=5, random_state=0)
for name in embedders:
    scores = cross_val_score(classifier, vectors[name], y, scoring="roc_auc", cv=folds)
    rows[name] |= {"ROC-AUC": scores.mean(), "std": scores.std()}
home.cleanup()
pd.DataFrame(rows).T.round(3)
