"""Score features: what a user did more and less often than the model expected, as a short vector.

`skllm4es.lm.scores` counts; here the counts are brought to one scale and projected. What the model can foresee
(separators, the day of the previous event) cancels out, and what is left is the user's own. The Fisher kernel divides
each entry by the root of its Fisher information, here its mean square over the texts of `fit`, so that all tokens count
the same. A slightly lower power leaves a little more to the common ones, because the rare ones are mostly noise where
there are few texts. Then, as in the Fisher vectors of images (Perronnin et al., 2010), the vector gets unit length. The
principal directions of the texts of `fit` shorten it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.utils.extmath import randomized_svd

FloatArray = npt.NDArray[np.float32]

#: Tokens are scored if they are in this many texts; if there are too many tokens, only the most common ones.
_MIN_TEXTS, _MAX_TOKENS = 5, 8192
#: Power of the root mean square that scores are divided by. With 1/2, the most common tokens dominate.
_POWER = 7 / 8


def shared_tokens(texts: Iterable[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Choose the tokens to score: those that several texts share.

    Parameters
    ----------
    texts : iterable of sequence of int
        The tokens of each text.

    Returns
    -------
    ndarray of shape (n_tokens,), dtype int64
        In ascending order. All tokens, if none is in five texts; the first of the vocabulary, if there are none at all.
    """
    counts: Counter[int] = Counter()
    for ids in texts:
        counts.update(set(ids))
    shared = {token: count for token, count in counts.items() if count >= _MIN_TEXTS} or counts or {0: 0}
    return np.array(sorted(sorted(shared, key=lambda token: (-shared[token], token))[:_MAX_TOKENS]), dtype=np.int64)


@dataclass(frozen=True)
class ScoreProjection:
    """Project the scores of tokens to a short vector.

    Parameters
    ----------
    tokens : ndarray of shape (n_tokens,), dtype int64
        The scored tokens.
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
            The scored tokens.
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
    """Scale the scores, and each row to unit length."""
    scaled = scores * scale
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, lengths, out=np.zeros_like(scaled), where=lengths > 0)
