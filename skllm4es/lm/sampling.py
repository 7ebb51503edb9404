"""Token sampling that depends on nothing but a text's own seed.

A token is sampled by adding Gumbel noise to the log-probabilities and taking the largest sum. The noise is a hash of
seed, step and token, so a text gets the same noise on any device and in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import TopPLogitsWarper

_MASK = 0xFFFFFFFF
#: Multiplier of the hash, and the distance between the seeds of two steps: odd, and small enough for 64-bit products.
_MULTIPLIER = 0x45D9F3B
_STEP = 0x9E3779B1


@dataclass(frozen=True)
class Sampling:
    """How to sample a token from a model's scores.

    A temperature of 0 takes the most likely token. Otherwise tokens are sampled from the most likely ones that together
    have the probability `top_p`.
    """

    temperature: float
    top_p: float

    def perturb(self, scores: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """Add noise to scores of shape (n_texts, n_tokens), so that the largest belongs to the sampled token.

        `seeds` has one int64 per text, from `seed_of_step`.
        """
        if self.temperature == 0:
            return scores
        scores = scores.float() / self.temperature
        if self.top_p < 1:
            scores = TopPLogitsWarper(self.top_p)(None, scores)
        return scores + gumbel_noise(seeds, scores.shape[1])


def seed_of_step(seed: int, step: int) -> int:
    """Return the seed of one token of a text, of 32 bits; `step` is the number of tokens before it."""
    return (seed + step * _STEP) & _MASK


def gumbel_noise(seeds: torch.Tensor, n_tokens: int) -> torch.Tensor:
    """Return independent Gumbel noise of shape (n_texts, n_tokens), float32, from int64 seeds of 32 bits."""
    tokens = torch.arange(1, n_tokens + 1, device=seeds.device)
    hashed = _hash(_hash(seeds)[:, None] ^ _hash(tokens)[None, :])
    # 23 bits plus a half: float32 holds these exactly, and neither 0 nor 1 is among them.
    uniform = ((hashed >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _hash(numbers: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        numbers = (((numbers >> 16) ^ numbers) * _MULTIPLIER) & _MASK
    return (numbers >> 16) ^ numbers
