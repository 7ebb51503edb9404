"""Embeddings on disk: each is computed once for all targets, classifiers, ensembles and numbers of labelled users.

They also let an interrupted run continue. An embedding is found by everything that it depends on: the transformer with
its settings, the data set, and the users that it is fitted on, but not the code. When that changes, empty the folder,
and drop the records of its rows from the result files.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

from benchmarks.data import Data
from benchmarks.memory import peak_bytes, reset_peak
from benchmarks.protocol import Rows
from benchmarks.representations import has_unit_length, keep_rewrites


@dataclass(frozen=True)
class Embedding:
    """The vectors of a data set's users (NaN for users without a label), whether of unit length, and what they cost."""

    key: str
    vectors: npt.NDArray[np.float32]
    unit_length: bool
    costs: dict[str, Any]


class EmbeddingStore:
    """A folder with one file per embedding.

    Parameters
    ----------
    folder : path
        The folder, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress = folder / "progress"

    def key(self, transformer: BaseEstimator, data: Data, seen: Rows) -> str:
        """Return what identifies the vectors of a transformer fitted on the users in `seen`."""
        key: str = joblib.hash((transformer, data.name, len(data.X), seen))
        return key

    def get(self, transformer: BaseEstimator, data: Data, seen: Rows) -> Embedding:
        """Return the vectors of a transformer fitted on the users in `seen`; compute them first if they are missing.

        Parameters
        ----------
        transformer : estimator
            The unfitted transformer.
        data : Data
            The users.
        seen : ndarray of int of shape (n_seen,)
            Rows of the users to fit on.

        Returns
        -------
        Embedding
            With vectors of shape (n_users, n_features).
        """
        key = self.key(transformer, data, seen)
        file = self.folder / data.name / f"{key}.npz"
        if not file.exists():
            self._compute(_for_long_runs(clone(transformer), self.progress), data, seen, file)
        with np.load(file) as stored:
            vectors = np.full((len(data.X), stored["vectors"].shape[1]), np.nan, dtype=np.float32)
            vectors[data.labelled] = stored["vectors"]
            return Embedding(key, vectors, has_unit_length(transformer), json.loads(str(stored["costs"])))

    def _compute(self, transformer: Any, data: Data, seen: Rows, file: Path) -> None:
        _reset_peaks()
        start = time.perf_counter()
        transformer.fit(data.X.iloc[seen])
        fitted = time.perf_counter()
        replaced = _share_replaced(transformer)
        # Vectors of users without a label are never used.
        vectors = np.asarray(transformer.transform(data.X.iloc[data.labelled]), dtype=np.float32)
        costs = {"fit_s": fitted - start, "transform_s": time.perf_counter() - fitted, "replaced": replaced, **_peaks()}
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.draft")
        with draft.open("wb") as written:
            np.savez(written, vectors=vectors, costs=json.dumps(costs))
        draft.replace(file)


def _for_long_runs(transformer: Any, folder: Path) -> Any:
    """Let long work show how far it is, and continue after an interruption; this changes no result, and so no key."""
    parameters = transformer.get_params()
    prefix = "embed__" if isinstance(transformer, Pipeline) else ""
    settings: dict[str, Any] = {f"{prefix}verbose": 1, f"{prefix}memory": str(folder / "vectors")}
    if isinstance(parameters.get("embed__model"), str):
        settings["embed__finetune__checkpoint_dir"] = str(folder / "checkpoints")
    transformer.set_params(**{name: value for name, value in settings.items() if name in parameters})
    return keep_rewrites(transformer, folder)


def _share_replaced(transformer: Any) -> float:
    """Return the share of the texts rewritten in `fit` that a template wrote because the model failed on them."""
    enricher = getattr(transformer, "named_steps", {}).get("enrich")
    return 0.0 if enricher is None else float((enricher.report_["outcome"] == "template").mean())


def _reset_peaks() -> None:
    """Reset the peak memory, where the system can."""
    reset_peak()
    if (cuda := _cuda()) is not None:
        cuda.reset_peak_memory_stats()


def _peaks() -> dict[str, float]:
    """Return the peak memory of the whole process, in megabytes."""
    peaks = {"peak_mb": peak_bytes() / 1024**2}
    if (cuda := _cuda()) is not None:
        peaks["peak_gpu_mb"] = cuda.max_memory_allocated() / 1024**2
    return peaks


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
