"""Write the table that says when a pretrained model pays, from the lines of `bench_quality`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.json_lines import read
from benchmarks.markdown import row as row_of

#: What readers call each target, in the order of the table.
_NAMES = {
    ("movielens", "gender"): "MovieLens 100k: gender",
    ("movielens", "age"): "MovieLens 100k: age (error in years)",
    ("groceries", "kids (binary)"): "groceries: children",
    ("groceries", "age (binary)"): "groceries: age of 45 or more",
    ("groceries", "income (binary)"): "groceries: income",
    ("retail", "buys again"): "a shop's customers: buys again",
    ("synthea", "gender"): "synthetic patients: gender",
    ("synthea", "death"): "synthetic patients: death",
    ("cards", "churn"): "simulated cards: leaves",
    ("mimic", "death"): "MIMIC-IV demo: death",
}
#: Its 13 deaths say too little for the start page.
_TOO_FEW = {("mimic", "death")}
_COLUMNS = {"aggregates": "aggregates", "bag of events": "bag of events", "LLM": "frozen LLM"}
#: What needs no language model in the vectors of the last column. It is compared with no other.
_WITHOUT = "LLM, without the model's block"
_HEADS = ("linear", "LightGBM")
_ERRORS = {("movielens", "age")}


class Quality:
    """The scores with all labels: for each representation, those of the better head.

    Parameters
    ----------
    file : path
        What `bench_quality` wrote. It may be absent.
    """

    def __init__(self, file: Path) -> None:
        by_head = defaultdict(list)
        for line in read(file):
            for target, of_heads in line["scores"].items():
                for head in _HEADS:
                    if head in of_heads:  # event_pipeline has a head of its own.
                        by_head[(line["data"], target), line["row"], head].append(of_heads[head])
        self.scores = {
            task: {
                row: max((by_head[task, row, head] for head in _HEADS), key=lambda scores: _gain(task, scores))
                for row in (*_COLUMNS, _WITHOUT)
                if all(by_head[task, row, head] for head in _HEADS)
            }
            for task in _NAMES
            if all(by_head[task, row, head] for row in _COLUMNS for head in _HEADS)
        }

    def n_ahead(self) -> int:
        """Return for how many targets the language model has the best mean."""
        return sum(self._best(task) == "LLM" for task in self.scores)

    def table(self, *, brief: bool) -> str:
        """Return the scores as Markdown: means, or means and standard deviations of the folds.

        Parameters
        ----------
        brief : bool
            Whether to leave out the standard deviations, and targets with too few cases to say much.

        Returns
        -------
        str
            A Markdown table.
        """
        head = [*_COLUMNS.values(), *([] if brief else ["without its reading"])]
        lines = [row_of(["data: target", *head]), row_of(["---", *["--:"] * len(head)])]
        for task, scores in self.scores.items():
            if not (brief and task in _TOO_FEW):
                best = self._best(task)
                cells = [_format(task, scores[row], brief, row == best) for row in _COLUMNS]
                if not brief:
                    cells.append(_format(task, scores[_WITHOUT], brief, False) if _WITHOUT in scores else "")
                lines.append(row_of([_NAMES[task], *cells]))
        return "\n".join([*lines, ""])

    def _best(self, task: tuple[str, str]) -> str:
        return max(_COLUMNS, key=lambda row: _gain(task, self.scores[task][row]))


def _gain(task: tuple[str, str], scores: list[float]) -> float:
    return -float(np.mean(scores)) if task in _ERRORS else float(np.mean(scores))


def _format(task: tuple[str, str], scores: list[float], brief: bool, bold: bool) -> str:
    digits = 2 if task in _ERRORS else 3
    mean = f"{np.mean(scores):.{digits}f}"
    mean = f"**{mean}**" if bold else mean
    return mean if brief else f"{mean} ± {np.std(scores):.{digits}f}"
