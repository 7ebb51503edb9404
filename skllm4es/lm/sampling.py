"""Sampling of tokens whose outcome hangs on nothing but a text's own seed.

A token is drawn by adding Gumbel noise to the log-probabilities and taking the largest sum. The noise is a hash of
seed, step and token, so a text gets the same draws on any device, and whichever texts share its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import TopPLogitsWarper

_MASK = 0xFFFFFFFF
#: Multiplier of the hash, and what parts the seeds of two steps: odd, and small enough for 64-bit products.
_MULTIPLIER = 0x45D9F3B
_STEP = 0x9E3779B1


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the scores that a model gives.

    Parameters
    ----------
    temperature : float
        The scores are divided by it; 0 takes the most likely token.
    top_p : float
        Only the most likely tokens that together have this probability are drawn.
    """

    temperature: float
    top_p: float

    def choose(self, scores: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """Turn scores into ones of which the largest is that of the token drawn.

        Parameters
        ----------
        scores : torch.Tensor of shape (n_texts, n_tokens)
            What the model gives.
        seeds : torch.Tensor of shape (n_texts,), dtype int64
            One a text, of `seed_of_step`.

        Returns
        -------
        torch.Tensor of shape (n_texts, n_tokens)
            The scores, with noise.
        """
        if self.temperature == 0:
            return scores
        scores = scores.float() / self.temperature
        if self.top_p < 1:
            scores = TopPLogitsWarper(self.top_p)(None, scores)
        return scores + gumbel_noise(seeds, scores.shape[1])


def seed_of_step(seed: int, step: int) -> int:
    """Give the seed of one token of a text.

    Parameters
    ----------
    seed : int
        The seed of the text.
    step : int
        How many tokens were drawn before.

    Returns
    -------
    int
        A number of 32 bits.
    """
    return (seed + step * _STEP) & _MASK


def gumbel_noise(seeds: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Make independent noise with the Gumbel distribution.

    Parameters
    ----------
    seeds : torch.Tensor of shape (n_texts,), dtype int64
        Numbers of 32 bits.
    n_tokens : int
        How many tokens there are.

    Returns
    -------
    torch.Tensor of shape (n_texts, n_tokens), dtype float32
        The noise.
    """
    tokens = torch.arange(1, n_tokens + 1, device=seeds.device)
    hashed = _hash(_hash(seeds)[:, None] ^ _hash(tokens)[None, :])
    # 23 bits and a half: float32 holds these exactly, and neither 0 nor 1 is among them.
    uniform = ((hashed >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _hash(numbers: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        numbers = (((numbers >> 16) ^ numbers) * _MULTIPLIER) & _MASK
    return (numbers >> 16) ^ numbers
