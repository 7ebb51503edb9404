"""Sequences of events as tensors: the events of all users, batches cut from them, and the vectors of users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from skllm4es.baselines._encoder import Batch, EventEncoder
from skllm4es.baselines._features import EncodedEvents, Floats, Integers
from skllm4es.baselines._scaling import NumberScaler

#: About how many events, including padding, are embedded at a time.
EVENTS_A_BATCH = 32_768


@dataclass(frozen=True)
class Slices:
    """Slices of the histories of users; both arrays are of shape (n_users, n_slices)."""

    starts: Integers  # the first event, counted over all users
    lengths: Integers

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, users: Integers) -> Slices:
        return Slices(self.starts[users], self.lengths[users])


@dataclass(frozen=True)
class SequenceData:
    """The events of all users as tensors on one device."""

    codes: torch.Tensor  # of shape (n_events, n_fields), int64: the categories
    numbers: torch.Tensor  # of shape (n_events, n_numbers), float32, scaled; NaN is missing
    elapsed: torch.Tensor  # of shape (n_events,), float64: the time, or the position, from an arbitrary point on
    users: Slices  # of shape (n_users, 1): the events of each user

    def batch(self, slices: Slices) -> Batch:
        """Cut out slices, with padding at the end."""
        device = self.codes.device
        starts = torch.from_numpy(slices.starts.ravel()).to(device)
        lengths = torch.from_numpy(slices.lengths.ravel()).to(device)
        steps = torch.arange(int(slices.lengths.max()), device=device)
        rows = starts[:, None] + steps.minimum(lengths[:, None] - 1)  # Padding repeats the last event.
        # Of users who begin at the same event, all but the last have none.
        users = np.searchsorted(self.users.starts[:, 0], slices.starts.ravel(), side="right") - 1
        owners = torch.from_numpy(users).to(device)
        return Batch(self.codes[rows], self.numbers[rows], self.elapsed[rows], lengths, owners)


def to_sequences(events: EncodedEvents, scaler: NumberScaler, device: str) -> SequenceData:
    """Turn events into tensors."""
    n_events = int(events.offsets[-1])
    codes = [field.values for field in events.codes.values()]
    gaps = np.ones(n_events) if events.gaps is None else np.nan_to_num(events.gaps)
    return SequenceData(
        codes=torch.from_numpy(np.stack(codes, axis=1) if codes else np.empty((n_events, 0), np.int64)).to(device),
        numbers=torch.from_numpy(scaler.scale(events)).to(device),
        elapsed=torch.from_numpy(np.cumsum(gaps)).to(device),
        users=Slices(events.offsets[:-1, None].copy(), events.lengths[:, None]),
    )


def embed_users(encoder: EventEncoder, data: SequenceData, pooling: str, *, progress: bool) -> npt.NDArray[np.float32]:
    """Return one vector per user, zeros for users without events."""
    lengths = data.users.lengths[:, 0]
    vectors = np.zeros((len(lengths), encoder.hidden_size), dtype=np.float32)
    encoder.eval()
    bar = tqdm(total=int((lengths > 0).sum()), desc="embedding", disable=not progress, unit="user")
    with torch.inference_mode(), bar:
        for users in _batches_by_length(lengths):
            try:
                vectors[users] = encoder.embed(data.batch(data.users[users]), pooling).float().cpu().numpy()
            except torch.OutOfMemoryError as error:
                raise MemoryError(
                    f"{len(users)} users of up to {lengths[users[0]]} events do not fit into the memory of "
                    f"{data.codes.device}. Limit the events of a user with max_events=..., or set device='cpu'."
                ) from error
            bar.update(len(users))
    return vectors


def _batches_by_length(lengths: Integers) -> Iterator[Integers]:
    """Yield the users that have events, longest first, in batches with about equally many events."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        stop = start + max(1, EVENTS_A_BATCH // int(lengths[order[start]]))
        yield order[start:stop]
        start = stop


def mean_gap(events: EncodedEvents) -> float:
    """Return the mean time from event to event; 1 if there is none."""
    gaps: Floats = np.ones(1) if events.gaps is None else events.gaps[~np.isnan(events.gaps)]
    return float(gaps.mean()) or 1.0 if len(gaps) else 1.0
