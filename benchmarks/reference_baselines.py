"""Train the methods of the reference libraries; `bench_baselines` runs this in a separate environment.

    PYTHON reference_baselines.py METHOD EVENTS.npz [--epochs N] [--seed N] [--vectors VECTORS.npz]

trains as the library's own tutorials do, on one thread, and prints the CPU seconds of each epoch as JSON. The file of
events has ``offsets``, ``codes`` (from 1), ``n_codes``, ``gaps`` (logarithms) and ``days``. The vectors of all users
are written as ``mean`` and ``last``, the mean and the last of the encoder's states. This file imports nothing from
skllm4es.
"""

import argparse
import json
import logging
import random
import time
import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import pytorch_lightning as pl
import torch
import torchmetrics

FIELDS = ("title", "genres", "rating")
SIZES = (32, 16, 8)
HIDDEN_SIZE = 128

#: Epochs, learning rate, and the step size and factor of its decay.
SETTINGS = {
    "CoLES": (40, 0.002, 10, 0.9025),
    "CPC": (30, 0.002, 5, 0.5),
    "RTD": (30, 0.001, 10, 0.9025),
    "NSP": (30, 0.001, 10, 0.9025),
    "IFTPP": (15, 0.001, 10, 0.8),
    "IFTPP-T": (8, 0.001, 10, 0.8),
    "DeTPP": (8, 0.001, 10, 0.9),
}
PTLS = ("CoLES", "CPC", "RTD", "NSP")
SHORT, LONG = (15, 75), (15, 200)


class Clock(pl.Callback):
    """Measure the time of each epoch."""

    def __init__(self):
        self.seconds = []

    def on_train_epoch_start(self, trainer, module):
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer, module):
        self.seconds.append(time.process_time() - self.start)


def ptls_method(name, events):
    """Return a module and a data set of pytorch-lifestream."""
    from ptls.frames.bert.datasets.nsp_dataset import NspDataset
    from ptls.frames.bert.datasets.rtd_dataset import RtdDataset
    from ptls.frames.bert.modules.rtd_module import RtdModule
    from ptls.frames.bert.modules.sop_nsp_module import SopNspModule
    from ptls.frames.coles import ColesDataset, CoLESModule
    from ptls.frames.coles.split_strategy import SampleSlices
    from ptls.frames.cpc.datasets.cpc_dataset import CpcDataset
    from ptls.frames.cpc.modules.cpc_module import CpcModule
    from ptls.nn import RnnSeqEncoder, TrxEncoder

    users = [
        {name: torch.from_numpy(codes[rows]) for name, codes in zip(FIELDS, events["codes"].T, strict=True)}
        | {"gap": torch.from_numpy(events["gaps"][rows]), "event_time": torch.from_numpy(events["days"][rows])}
        for rows in slices_of(events)
    ]
    encoder = RnnSeqEncoder(
        trx_encoder=TrxEncoder(
            embeddings={
                name: {"in": int(n) + 1, "out": size}
                for name, n, size in zip(FIELDS, events["n_codes"], SIZES, strict=True)
            },
            numeric_values={"gap": "identity"},
            embeddings_noise=0.003,
        ),
        hidden_size=HIDDEN_SIZE,
        type="gru",
    )
    settings = {"seq_encoder": encoder, **optimizer(name), "validation_metric": torchmetrics.MeanMetric()}
    if name == "CoLES":
        return CoLESModule(**settings), ColesDataset(users, SampleSlices(5, *SHORT))
    if name == "CPC":
        return CpcModule(n_negatives=40, n_forward_steps=6, **settings), CpcDataset(users, *LONG)
    if name == "RTD":
        return RtdModule(**settings), RtdDataset(users, *LONG)
    return SopNspModule(hidden_size=512, drop_p=0.5, **settings), NspDataset(users, SampleSlices(5, *SHORT))


def hotpp_method(name, events):
    """Return a module of hotpp-benchmark and a data set of random slices."""
    from hotpp import losses
    from hotpp.modules import NextItemModule, NextKModule
    from hotpp.nn import GRU, Embedder, Encoder, Head, HuggingFaceTransformer, RnnEncoder
    from transformers import GPT2Config, GPT2Model

    n_codes = dict(zip(FIELDS, map(int, events["n_codes"]), strict=True))
    embedder = Embedder(
        embeddings={name: {"in": n_codes[name] + 1, "out": size} for name, size in zip(FIELDS, SIZES, strict=True)},
        numeric_values={"timestamps": "identity"},
    )
    if name == "IFTPP-T":
        config = GPT2Config(vocab_size=1, n_embd=HIDDEN_SIZE, n_layer=2, n_head=4)
        encoder = Encoder(embedder, partial(HuggingFaceTransformer, model=GPT2Model(config)), max_time_delta=7)
    else:
        encoder = RnnEncoder(embedder, partial(GRU, hidden_size=HIDDEN_SIZE), max_time_delta=7)
    fields = {field: losses.CrossEntropyLoss(n + 1) for field, n in n_codes.items()}
    settings = {"labels_field": "title", "head_partial": Head, **optimizer(name)}
    if name != "DeTPP":
        loss = losses.NextItemLoss({"timestamps": losses.TimeMAELoss(), **fields})
        return NextItemModule(encoder, loss, **settings), RandomSlices(events, *LONG)
    fields |= {"_presence": losses.BinaryCrossEntropyLoss()}
    pairs = losses.NextItemLoss({"timestamps": losses.TimeMAELoss(delta="start", max_delta=7), **fields})
    loss = losses.DetectionLoss(pairs, 16, 7, categorical_fields=FIELDS, loss_subset=0.25)
    return NextKModule(encoder, loss, **settings), RandomSlices(events, 15, 100)


class RandomSlices(torch.utils.data.Dataset):
    """Random slices of the histories, in padded batches of hotpp."""

    def __init__(self, events, low, high):
        self.events, self.users, self.low, self.high = events, list(slices_of(events)), low, high

    def __len__(self):
        return len(self.users)

    def __getitem__(self, user):
        rows = self.users[user]
        length = random.randint(min(self.low, rows.stop - rows.start), min(self.high, rows.stop - rows.start))
        start = random.randint(rows.start, rows.stop - length)
        fields = {
            name: codes[start : start + length] for name, codes in zip(FIELDS, self.events["codes"].T, strict=True)
        }
        return {"timestamps": self.events["days"][start : start + length].astype(np.float32), **fields}

    @staticmethod
    def collate_fn(users):
        from hotpp.data import PaddedBatch

        lengths = torch.tensor([len(user["timestamps"]) for user in users])
        columns = {
            name: torch.nn.utils.rnn.pad_sequence([torch.from_numpy(user[name]) for user in users], batch_first=True)
            for name in users[0]
        }
        return PaddedBatch(columns, lengths), None


def slices_of(events):
    offsets = events["offsets"].tolist()
    return [slice(start, stop) for start, stop in pairwise(offsets)]


def optimizer(name):
    _, learning_rate, step_size, gamma = SETTINGS[name]
    return {
        "optimizer_partial": partial(torch.optim.Adam, lr=learning_rate),
        "lr_scheduler_partial": partial(torch.optim.lr_scheduler.StepLR, step_size=step_size, gamma=gamma),
    }


def embed(name, module, events):
    """Return the mean and the last state of each user."""
    states = ptls_states if name in PTLS else hotpp_states
    with torch.inference_mode():
        users = [states(module.eval(), events, rows) for rows in slices_of(events)]
    return {
        "mean": torch.stack([user.mean(0) for user in users]).numpy(),
        "last": torch.stack([user[-1] for user in users]).numpy(),
    }


def ptls_states(module, events, rows):
    from ptls.data_load.padded_batch import PaddedBatch

    module.seq_encoder.seq_encoder.is_reduce_sequence = False
    fields = codes_of(events, rows) | {"gap": torch.from_numpy(events["gaps"][rows])[None]}
    return module.seq_encoder(PaddedBatch(fields, torch.tensor([rows.stop - rows.start]))).payload[0]


def hotpp_states(module, events, rows):
    from hotpp.data import PaddedBatch

    fields = codes_of(events, rows) | {"timestamps": torch.from_numpy(events["days"][rows].astype(np.float32))[None]}
    states, _ = module._seq_encoder(PaddedBatch(fields, torch.tensor([rows.stop - rows.start])))
    return states.payload[0]


def codes_of(events, rows):
    return {name: torch.from_numpy(codes[rows])[None] for name, codes in zip(FIELDS, events["codes"].T, strict=True)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=SETTINGS)
    parser.add_argument("events")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vectors")
    arguments = parser.parse_args()
    name = arguments.method
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(arguments.seed)
    events = dict(np.load(arguments.events))
    module, data = (ptls_method if name in PTLS else hotpp_method)(name, events)
    loader = torch.utils.data.DataLoader(
        data, batch_size=16 if name == "DeTPP" else 64, shuffle=True, collate_fn=data.collate_fn
    )
    clock = Clock()
    pl.Trainer(
        max_epochs=SETTINGS[name][0] if arguments.epochs is None else arguments.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[clock],
    ).fit(module, loader)
    if arguments.vectors:
        np.savez(arguments.vectors, **embed(name, module, events))
    print(json.dumps(clock.seconds))


if __name__ == "__main__":
    main()
