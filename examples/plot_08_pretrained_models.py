"""
========================
Frozen, fine-tuned, LoRA
========================

A pretrained language model can be used in three ways: as it is, with all its weights
trained further, or with small matrices trained beside them. The parameter ``finetune``
chooses.
"""

# %%
# A pretrained model
# ------------------
# Mostly it has a name, ``LLMEmbedder("meta-llama/Llama-3.2-3B")``, or is a directory
# that was copied to this machine. To run offline, this page trains its own on the
# clients of another bank, and saves it the way the model hub keeps models.

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils import logging

from skllm4es import EventSerializer, LLMEmbedder
from skllm4es.datasets import make_transactions
from skllm4es.vocabularies import load_mcc_names

serializer = EventSerializer(
    ["mcc", "amount", "type"], labels={"mcc": load_mcc_names()}, max_events=20
)
elsewhere, _ = make_transactions(n_users=300, mean_events=20, random_state=1)
pretrained = LLMEmbedder(n_params=200_000, epochs=0.5, random_state=0).fit(
    serializer.fit_transform(elsewhere)
)

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
# - ``finetune=None`` leaves it as it is: nothing to train, and nothing of the users in
#   the weights.
# - ``finetune="full"`` trains all weights, as the paper does.
# - ``finetune="lora"`` trains a low-rank adapter: a fraction of the memory for large
#   models, and a few megabytes to save, with ``merge_adapter=False``.
#
# For so small a model the learning rates of large ones are too low, so they are raised
# here.

embedders = {
    "frozen": LLMEmbedder(directory, finetune=None),
    "fine-tuned": LLMEmbedder(
        directory, finetune="full", epochs=1, learning_rate=1e-3, batch_tokens=1024
    ),
    "LoRA": LLMEmbedder(
        directory, finetune="lora", epochs=1, learning_rate=3e-3, batch_tokens=1024
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
# The losses of the two trainings
# -------------------------------

import matplotlib.pyplot as plt

from skllm4es.plotting import FineTuningLossDisplay

figure, ax = plt.subplots(layout="constrained")
for name in ("fine-tuned", "LoRA"):
    FineTuningLossDisplay.from_estimator(embedders[name], ax=ax, name=name)
plt.show()

# %%
# What their vectors tell
# -----------------------
# The same classifier on each, with the mean and the standard deviation over repeated
# splits. A lower loss is a better model of the text, and not always a better vector: a
# pretrained model gives its hidden layers, which tell little in one as small as this.

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
