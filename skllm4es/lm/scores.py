"""What a user did beyond what the model expected: score features, the gradient of the log-likelihood of a text.

The next-token loss of a text has a gradient in the bias of the output layer: for each token of the vocabulary, how
often it occurs less how often the model expected it, ``s_v = sum_t (1[x_t = v] - P(v | x_<t))``. This is the score of
the Fisher kernel (Jaakkola and Haussler, "Exploiting generative models in discriminative classifiers", 1998) for the
language model. What the model can foresee (separators, the day of the previous event) cancels out, and what is left is
the user's own. That kernel divides each entry by the root of its Fisher information, here its mean square over the
texts of `fit`, so that all tokens count the same. A slightly lower power leaves a little more to the common ones, as
the rare ones are mostly noise where there are few texts. Then, as for the Fisher vectors of images (Perronnin et al.,
2010), the vector gets unit length. The principal directions of the texts of `fit` make it short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.extmath import randomized_svd

FloatArray = npt.NDArray[np.float32]

#: Tokens are followed that so many texts have; the most common ones, if there are more than so many.
_MIN_TEXTS, _MAX_TOKENS = 5, 8192
#: Power of the root mean square that scores are divided by. With 1/2, the most common tokens decide alone.
_POWER = 7 / 8
#: Predictions that are held at once: tokens of text times tokens of the vocabulary.
_AT_ONCE = {"cpu": 2**20, "cuda": 2**28}


def shared_tokens(texts: Iterable[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Choose the tokens to follow: those that several texts have in common.

    Parameters
    ----------
    texts : iterable of sequence of int
        The tokens of each text.

    Returns
    -------
    ndarray of shape (n_tokens,), dtype int64
        In rising order. All tokens, if none is in five texts; the first of the vocabulary, if there are none at all.
    """
    counts: Counter[int] = Counter()
    for ids in texts:
        counts.update(set(ids))
    shared = {token: count for token, count in counts.items() if count >= _MIN_TEXTS} or counts or {0: 0}
    return np.array(sorted(sorted(shared, key=lambda token: (-shared[token], token))[:_MAX_TOKENS]), dtype=np.int64)


def score_tokens(
    hidden: torch.Tensor, output: torch.Tensor, ids: torch.Tensor, counted: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Count tokens in texts, less how often the model expected them.

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
    scores = torch.zeros(len(ids), len(output), device=ids.device)
    scores.index_put_((rows, ids[rows, places + 1]), torch.ones((), device=ids.device), accumulate=True)
    at_once = max(1, _AT_ONCE.get(ids.device.type, _AT_ONCE["cpu"]) // len(output))
    for some, those in zip(rows.split(at_once), places.split(at_once), strict=True):
        predictions = (hidden[some, those].float() @ output.T).softmax(dim=-1)
        # Few texts share these predictions, which are in order: a small product sums those of each.
        texts = some.unique()
        scores[texts] -= (texts[:, None] == some).float() @ predictions
    return scores[:, tokens]


@dataclass(frozen=True)
class ScoreProjection:
    """From the scores of tokens to a short vector.

    Parameters
    ----------
    tokens : ndarray of shape (n_tokens,), dtype int64
        The tokens that are followed.
    scale : ndarray of shape (n_tokens,), dtype float32
        What their scores are multiplied by; zero for those without any.
    directions : ndarray of shape (n_components, n_tokens), dtype float32
        Principal directions.
    """

    tokens: npt.NDArray[np.int64]
    scale: FloatArray
    directions: FloatArray

    @classmethod
    def fit(cls, tokens: npt.NDArray[np.int64], scores: FloatArray, n_components: int) -> ScoreProjection:
        """Find the principal directions of texts.

        Parameters
        ----------
        tokens : ndarray of shape (n_tokens,), dtype int64
            The tokens that are followed.
        scores : ndarray of shape (n_texts, n_tokens), dtype float32
            The scores of the texts.
        n_components : int
            How many directions; there are no more than texts or tokens.

        Returns
        -------
        ScoreProjection
            The projection.
        """
        spread = np.sqrt(np.einsum("ij,ij->j", scores, scores) / len(scores))
        scale = np.divide(1, spread**_POWER, out=np.zeros_like(spread), where=spread > 0)
        n_components = min(n_components, *scores.shape)
        _, _, directions = randomized_svd(_normalise(scores, scale), n_components, random_state=0)
        return cls(tokens, scale, np.ascontiguousarray(directions, dtype=np.float32))

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Project the scores of texts.

        Parameters
        ----------
        scores : ndarray of shape (n_texts, n_tokens), dtype float32
            The scores.

        Returns
        -------
        ndarray of shape (n_texts, n_components), dtype float32
            The vectors.
        """
        return _normalise(scores, self.scale) @ self.directions.T


def _normalise(scores: FloatArray, scale: FloatArray) -> FloatArray:
    """Scale, and give each row unit length."""
    scaled = scores * scale
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, lengths, out=np.zeros_like(scaled), where=lengths > 0)
