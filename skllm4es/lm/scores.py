"""How often each token occurs in a text minus how often the model expected it, from one forward pass.

The log-likelihood of a text has a gradient with respect to the bias of the output layer: for each token of the
vocabulary, ``s_v = sum_t (1[x_t = v] - P(v | x_<t))``. This is the score of the Fisher kernel (Jaakkola and Haussler,
"Exploiting generative models in discriminative classifiers", 1998) for the language model.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from skllm4es.lm.architecture import FORWARD, decoder_of
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.sources import MemorySource

#: What was found out about models that have a fingerprint.
_SCORABLE: dict[str, bool] = {}

#: Predictions that are held at once: tokens of text times tokens of the vocabulary.
_HELD_PREDICTIONS = {"cpu": 2**20, "cuda": 2**28}


def can_score(language_model: LanguageModel) -> bool:
    """Find out, by trying once, whether a model's logits are the product of hidden states and input embeddings.

    In float32, because bfloat16 hides what some models do to their logits afterwards.
    """
    if isinstance(language_model.source, MemorySource):
        return _try_product(language_model.source.read_causal())
    if language_model.fingerprint not in _SCORABLE:
        _SCORABLE[language_model.fingerprint] = _try_product(language_model.source.read_causal())
    return _SCORABLE[language_model.fingerprint]


@torch.inference_mode()
def _try_product(model: PreTrainedModel) -> bool:
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    decoder = decoder_of(model)
    with FORWARD:
        logits = model(input_ids=ids, use_cache=False).logits
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    embeddings = model.get_input_embeddings().weight
    if hidden.shape[-1] != embeddings.shape[-1] or logits.shape[-1] != len(embeddings):
        return False
    return bool((logits - hidden @ embeddings.T).abs().max() <= 1e-4 * logits.abs().max())


def score_tokens(
    hidden: torch.Tensor, output: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Count tokens in texts, minus how often the model expected them.

    Parameters
    ----------
    hidden : torch.Tensor of shape (n_texts, width, hidden_size)
        The last hidden states.
    output : torch.Tensor of shape (vocab_size, hidden_size), dtype float32
        The weights of the output layer.
    ids : torch.Tensor of shape (n_texts, width)
        The tokens of the texts.
    counted : torch.Tensor of shape (n_texts, width), dtype bool
        Which of them count.
    tokens : torch.Tensor of shape (n_tokens,)
        The tokens to score, in rising order.

    Returns
    -------
    torch.Tensor of shape (n_texts, n_tokens), dtype float32
        The scores.
    """
    rows, places = counted[:, 1:].nonzero(as_tuple=True)
    scores = torch.zeros(len(ids), len(output), dtype=torch.float32, device=ids.device)
    scores.index_put_((rows, ids[rows, places + 1]), scores.new_ones(()), accumulate=True)
    n_positions = max(1, _HELD_PREDICTIONS.get(ids.device.type, _HELD_PREDICTIONS["cpu"]) // len(output))
    for row, place in zip(rows.split(n_positions), places.split(n_positions), strict=True):
        predictions = (hidden[row, place].float() @ output.T).softmax(dim=-1)
        # Few texts share these predictions, which are in order: a small product sums those of each.
        texts = row.unique()
        scores[texts] -= (texts[:, None] == row).float() @ predictions
    return scores[:, tokens]
