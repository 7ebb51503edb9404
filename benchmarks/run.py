"""Run the paper's tables, with one command each.

    python -m benchmarks.run TABLE [--dataset movielens-100k] [--preset smoke|cpu|paper] [--model ...] [--seeds ...]

runs a table: main, ensembles, domains, components, strategies, base-llms or data-efficiency. It writes scores to
``benchmarks/results/*.json`` as they are computed, and embeddings to ``benchmarks/embeddings``. Bars show how far the
slow parts are. The same command continues an interrupted run, and tables share embeddings. A row whose model or extra
is missing on this machine is left out, with the reason. At the end the table is printed.

    python -m benchmarks.run --render

writes ``docs/benchmarks.md`` and its plots from the result files; it needs matplotlib (the extra plot).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import DATA_SETS, Data, load
from benchmarks.embeddings import EmbeddingStore
from benchmarks.presets import PRESETS, Budget, Preset
from benchmarks.protocol import FITS, PROTOCOLS, Split, draw_labelled, scale, score, splits
from benchmarks.render import render_file, write_page
from benchmarks.representations import Context, NotHereError
from benchmarks.results import Record, Results, read
from benchmarks.tables import TABLES, Row, Table, heads_of, label

HERE = Path(__file__).parent
RESULTS, EMBEDDINGS, PAGE = HERE / "results", HERE / "embeddings", HERE.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Experiment:
    """A table on a data set, with everything that its scores depend on."""

    table: Table
    data: Data
    preset: Preset
    budget: Budget
    targets: Sequence[str]
    store: EmbeddingStore
    data_home: str | None = None

    def splits(self, seed: int) -> Iterator[Split]:
        """Yield the folds, which all targets of the data set share, so that they share embeddings."""
        return splits(
            self.data.labelled,
            self.data.strata,
            self.data.groups,
            n_users=len(self.data.X),
            protocol=self.preset.protocol,
            n_folds=self.preset.n_folds,
            seed=seed,
        )

    def build(self, row: Row, seed: int) -> list[Any]:
        """Return the unfitted transformers of a row's parts."""
        context = Context(self.data, self.preset, self.budget, seed, self.data_home, self.store.progress)
        return [build(context) for build in row.parts]

    def seen(self, split: Split) -> np.ndarray:
        """Return the users on which representations are fitted."""
        return np.arange(len(self.data.X)) if self.budget.fit == "transductive" else split.seen

    def subsets(self, split: Split, seed: int) -> Iterator[tuple[int | str, int, np.ndarray]]:
        """Yield the number of labels, the draw and the training users, for each point of a curve and for all users."""
        for size in self.preset.sizes if self.table.is_curve else ():
            for draw in range(self.preset.n_draws if size < len(split.train) else 0):
                drawn_by = [seed, split.fold, size, draw]
                yield size, draw, draw_labelled(split.train, self.data.strata, size, drawn_by)
        yield "all", 0, split.train


def run(experiment: Experiment, rows: Sequence[Row], results: Results) -> bool:
    """Score the rows that are not in the results yet, and return whether all that can run here succeeded.

    Parameters
    ----------
    experiment : Experiment
        The table and the data.
    rows : sequence of Row
        The rows to run.
    results : Results
        Where scores are written.

    Returns
    -------
    bool
        False if a row failed.
    """
    succeeded = True
    for row in rows:
        try:
            for seed in experiment.budget.seeds:
                transformers = experiment.build(row, seed)
                for split in experiment.splits(seed):
                    _run_split(experiment, row, transformers, seed, split, results)
        except NotHereError as reason:
            if not results.has_row(row.name):  # Scores may come from another machine.
                results.cannot_run(row.name, str(reason))
            print(f"{row.name}: not run here: {reason}", flush=True)
        except Exception as error:  # The other rows must still run.
            traceback.print_exc()
            results.cannot_run(row.name, f"failed: {type(error).__name__}: {error}")
            succeeded = False
    return succeeded


def _run_split(
    experiment: Experiment, row: Row, transformers: Sequence[Any], seed: int, split: Split, results: Results
) -> None:
    seen = experiment.seen(split)
    key = " ".join(experiment.store.key(transformer, experiment.data, seen) for transformer in transformers)
    missing: dict[str, list[tuple[Record, np.ndarray]]] = {target: [] for target in experiment.targets}
    for target, cells in missing.items():
        for labels, draw, train in experiment.subsets(split, seed):
            cell = {"row": row.name, "target": target, "seed": seed, "fold": split.fold, "labels": labels, "draw": draw}
            cell["key"] = key
            if not results.has(cell):
                cells.append((cell, train))
    if not any(missing.values()):
        return
    parts = [experiment.store.get(transformer, experiment.data, seen) for transformer in transformers]
    published = experiment.preset.published
    vectors = np.concatenate(
        [part.vectors if published or part.unit_length else scale(part.vectors, split.train) for part in parts], axis=1
    )
    costs = _added([part.costs for part in parts]) | {"n_features": vectors.shape[1]}
    for target, cells in missing.items():
        y = experiment.data.y[target].to_numpy()
        metric = experiment.data.spec.targets[target].metric
        fresh = []
        for cell, train in cells:
            scores = score(vectors, y, train, split.test, metric, heads_of(experiment.table), published=published)
            fresh.append({**cell, "n_train": len(train), "n_test": len(split.test), "scores": scores, **costs})
        if fresh:
            results.add(fresh)
            print(f"{row.name}, {target}, seed {seed}, fold {split.fold}: {_short(fresh[-1])}", flush=True)


def _added(costs: list[Record]) -> Record:
    """Add up the times of an ensemble's parts, which run one after the other; of all else, take the largest."""
    names = dict.fromkeys(name for part in costs for name in part)  # Not all machines and versions record the same.
    parts = {name: [part[name] for part in costs if name in part] for name in names}
    return {name: round((sum if name.endswith("_s") else max)(values), 4) for name, values in parts.items()}


def _short(record: Record) -> str:
    scores = ", ".join(f"{head} {value:.3f}" for head, value in record["scores"].items() if value is not None)
    return f"{scores or 'a single class'} (fit {record['fit_s']:.0f} s, transform {record['transform_s']:.0f} s)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a table, or write the page.

    Parameters
    ----------
    arguments : sequence of str, default=None
        The command line; by default that of the process.

    Returns
    -------
    int
        1 if a row failed, else 0.
    """
    options = _parse(arguments)
    if options.render:
        n_shown = write_page(options.results, options.page)
        print(f"{options.page}: {n_shown} result files, without those of the preset smoke")
        return 0
    preset, budget = _settings(options)
    table = TABLES[options.table]
    rows = table.rows(preset.models_of(options.table))
    chosen = _chosen(rows, options.rows)
    data = load(options.dataset, preset.n_users, options.data_home)
    targets = [options.target] if options.target else list(data.spec.targets)
    experiment = Experiment(table, data, preset, budget, targets, EmbeddingStore(options.embeddings), options.data_home)
    about = _about(options, preset, budget, data) | {"rows": {row.name: row.paper for row in rows}}
    results = Results(options.results / f"{_file_name(options, preset, budget)}.json", about)
    results.begin(_command(options))
    succeeded = run(experiment, chosen, results)
    print(f"\n{render_file(read(results.file))}\n\n{results.file}")
    return 0 if succeeded else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("--dataset", choices=DATA_SETS, default="movielens-100k")
    parser.add_argument("--target", help="a target of the data set (default: all)")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--model", help="language model for all rows: a name, a directory or 'scratch'")
    parser.add_argument(
        "--rewriter", help="what rewrites texts: an instruct model (a name or a directory) or 'templates'"
    )
    parser.add_argument("--fit", choices=FITS, help="which users representations are fitted on")
    parser.add_argument("--protocol", choices=PROTOCOLS)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--rows", nargs="+", help="run only rows whose names contain one of these")
    parser.add_argument("--data-home", help="folder of the data sets")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--embeddings", type=Path, default=EMBEDDINGS, help="folder of the embeddings")
    parser.add_argument("--render", action="store_true", help="write the page from all results and run nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="page that --render writes")
    options = parser.parse_args(arguments)
    if options.render == (options.table is not None):
        parser.error("name a TABLE to run, or pass --render alone")
    targets = list(DATA_SETS[options.dataset].targets)
    if options.target is not None and options.target not in targets:
        parser.error(f"--target {options.target}: the targets of {options.dataset} are {', '.join(targets)}")
    if min(options.seeds or [0]) < 0:
        parser.error(f"--seeds {min(options.seeds)}: a seed must be 0 or more")
    for name in filter(None, (options.model, options.rewriter)):
        if not (Path(name).is_dir() or _may_be_on_the_hub(name)):
            parser.error(f"{name} is neither a directory nor a model hub name")
    return options


def _may_be_on_the_hub(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _settings(options: argparse.Namespace) -> tuple[Preset, Budget]:
    """Return the preset and its budget for the table, as changed by the command line."""
    preset = PRESETS[options.preset]
    if options.model:
        preset = replace(preset, models={"main": (options.model,)})
    if options.rewriter:
        preset = replace(preset, rewriter=options.rewriter, summariser=None)
    preset = replace(preset, protocol=options.protocol or preset.protocol)
    budget = preset.budgets.get(options.table) or TABLES[options.table].budget(preset)
    seeds = tuple(options.seeds) if options.seeds else budget.seeds
    return preset, replace(budget, fit=options.fit or budget.fit, seeds=seeds)


def _about(options: argparse.Namespace, preset: Preset, budget: Budget, data: Data) -> dict[str, Any]:
    return {
        "table": options.table,
        "dataset": data.name,
        "metrics": {name: target.metric for name, target in data.spec.targets.items()},
        "n_users": len(data.X),
        "n_labelled": len(data.labelled),
        "n_events": data.n_events,
        "preset": options.preset,
        "protocol": preset.protocol,
        "n_folds": preset.n_folds,
        "fit": budget.fit,
        "models": [label(model) for model in preset.models_of(options.table)],
        "rewriter": Path(preset.rewriter).name,
        "summariser": None if preset.summariser is None else label(preset.summariser),
        "max_events": budget.max_events,
        "scratch": dict(budget.scratch),
        "pretrained": dict(budget.pretrained),
        "n_tokens": budget.n_tokens,
        "epochs": preset.epochs,
    }


def _file_name(options: argparse.Namespace, preset: Preset, budget: Budget) -> str:
    changed = [Path(name).name for name in (options.model, options.rewriter) if name]
    return "-".join([options.table, options.dataset, options.preset, budget.fit, preset.protocol, *changed])


def _command(options: argparse.Namespace) -> str:
    """Return the command without the folders of this machine."""
    words = ["python", "-m", "benchmarks.run", options.table, "--dataset", options.dataset, "--preset", options.preset]
    for name in ("target", "fit", "protocol"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", value]
    for name in ("model", "rewriter"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", Path(value).name if Path(value).is_dir() else value]
    for name in ("seeds", "rows"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", *map(str, value)]
    return shlex.join(words)


def _chosen(rows: Sequence[Row], parts: Sequence[str] | None) -> Sequence[Row]:
    """Return the rows whose names contain one of the parts."""
    if parts is None:
        return rows
    for part in parts:
        if not any(part in row.name for row in rows):
            names = "; ".join(row.name for row in rows)
            raise SystemExit(f"--rows {part}: no row's name contains it. The rows are {names}")
    return [row for row in rows if any(part in row.name for part in parts)]


if __name__ == "__main__":
    sys.exit(main())
