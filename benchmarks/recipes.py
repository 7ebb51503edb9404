"""Published settings of the neural baselines, by data set and method, for the preset "paper".

They come from the configurations of ptls-experiments and HoTPP. Where a range was published (100 to 150 epochs of RTD
and NSP), the lower end is used. Day numbers, which CoLES treats as categories on Age, are times here, and embeddings
get no noise. Settings not listed here are the embedders' defaults.
"""

from __future__ import annotations

from typing import Any

PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("rosbank", "CoLES"): {
        "encoder": "lstm",
        "hidden_size": 1024,
        "min_length": 15,
        "max_length": 150,
        "batch_size": 128,
        "epochs": 60,
        "learning_rate": 0.004,
        "embedding_sizes": {"MCC": 24, "channel_type": 4, "currency": 4, "trx_category": 4},
        "max_events": 1600,
    },
    ("gender", "CoLES"): {
        "hidden_size": 1024,
        "min_length": 15,
        "max_length": 75,
        "batch_size": 128,
        "epochs": 150,
        "learning_rate": 0.002,
        "embedding_sizes": {"mcc_code": 48, "tr_type": 24},
        "max_events": 2000,
    },
    ("age", "CoLES"): {
        "hidden_size": 800,
        "min_length": 25,
        "max_length": 200,
        "batch_size": 64,
        "epochs": 150,
        "learning_rate": 0.001,
        "lr_step": 30,
        "embedding_sizes": {"small_group": 16},
        "max_events": 1600,
    },
    ("rosbank", "CPC"): {"hidden_size": 512},
    ("gender", "CPC"): {"hidden_size": 256},
    ("age", "CPC"): {"hidden_size": 512},
    ("rosbank", "RTD"): {"encoder": "lstm", "hidden_size": 512, "epochs": 100, "learning_rate": 0.001},
    ("gender", "RTD"): {"hidden_size": 256, "epochs": 100, "learning_rate": 0.001},
    ("age", "RTD"): {"hidden_size": 800, "epochs": 100, "learning_rate": 0.001},
    ("rosbank", "NSP"): {"encoder": "lstm", "hidden_size": 512, "epochs": 100, "learning_rate": 0.001},
    ("gender", "NSP"): {"hidden_size": 256, "epochs": 100, "learning_rate": 0.001},
    ("age", "NSP"): {"hidden_size": 800, "epochs": 100, "learning_rate": 0.001},
    ("rosbank", "IFTPP"): {"hidden_size": 256, "batch_size": 128, "epochs": 60, "learning_rate": 0.001},
    ("age", "IFTPP"): {"hidden_size": 512, "epochs": 30, "learning_rate": 0.001, "lr_step": 5},
}
