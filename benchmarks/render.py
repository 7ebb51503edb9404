"""Write Markdown tables, plots and the page of the docs from result files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bench_engines import table as speed_table
from benchmarks.markdown import row as row_of
from benchmarks.paper import Figures, figures_of
from benchmarks.protocol import HEADS
from benchmarks.render_quality import Quality
from benchmarks.representations import NEURAL
from benchmarks.results import Record, read
from benchmarks.tables import TABLES, heads_of

_FITS = {
    "leak-free": "leak-free: representations see the events of all users except the test users, but no labels",
    "transductive": "transductive: representations see the events of all users, including test users, but no labels",
}
_HEAD = """\
# Benchmarks

**The vectors of a frozen pretrained model pay. What the model itself reads adds on films, and little elsewhere.**
"""
_QUALITY = """\
With all labels, the vectors of frozen SmolLM2, with 135 million weights, have a better mean than both aggregates and a
bag of events for {n_ahead} of {n_targets} targets, at a cost of seconds to minutes on one core. A bag is level for
children, the age of 45, the gender of patients and MIMIC-IV: the vectors are ahead in 7 to 9 of 15 folds. The lead
comes mostly from what the vectors hold beside the model's reading: which events a user has, and statistics of numbers
and times. The reading adds on films, most of all with few labels; for income, the shop, cards and both deaths the mean
is better without it, and with few labels it mostly costs a little. The paper's gains come from training up to 3 billion
weights, which needs a GPU and has not been run here.

## What a pretrained model brings

`LLMEmbedder(smollm2(), finetune=None)` beside aggregates and a bag of events, each learned from the training users
alone. ROC-AUC, or the mean absolute error for the age; means ± standard deviations of three times five folds, of the
better of a linear model and LightGBM (cards: of fifteen draws of 800 users to learn from and 1,200 to test on); the
best mean of the first three columns is bold. The last column is the third without the block that the language model
reads, and so needs no language model. The MIMIC-IV demo has 13 deaths, so its folds differ by more than its columns.
[What a vector holds](guide/features.md#when-does-it-pay) has both heads, and 25 and 100 labels.
`python -m benchmarks.bench_quality RESULTS.jsonl` measures this.

{table}"""
_SPEED = """\
## How fast a pretrained model reads on a CPU

SmolLM2-135M as we run it, and as a user would otherwise: the same texts, the mean of the last layer over all tokens,
each in a process of its own. The file has 4-bit weights: llama.cpp multiplies with these, the others with the numbers
that they stand for. "events" are single events, as event features read them; "histories" are card transactions of
log-normal lengths. Compare tokens per second of CPU, because other programs ran at the same time. The cosine is to
transformers in float32. `python -m benchmarks.bench_engines` measures this.

{table}
"""
_PAPER = """\
## The paper's tables

The tables of the paper, as far as one core could run them, with SmolLM2-135M where the paper has LLaMA 3.2 3B; [how to
read them](#how-to-read-the-papers-tables) is at the end of the page. `python -m benchmarks.run TABLE` runs one, and
continues where it was interrupted.
"""
_REMARKS = {
    "main": """
On MovieLens, the vectors of frozen SmolLM2 are ahead of all neural baselines, of which LATTE is the best for both
targets: it learns from the model's reading of one description per user, and needs no model for new users. A bag of
events is ahead of all neural baselines as well, and level with the vectors for the age; most of the neural baselines
are no better than an untrained encoder. On the simulated cards the vectors stand among the neural baselines, without
training anything. With a linear model, RTD, NPPR, IFTPP and IFTPP-T have higher means there, by at most 0.013, and NSP
an equal one; with LightGBM, six of nine have higher ones, by at most 0.02. The folds differ by 0.01 to 0.03: the table
does not rank these. With LightGBM, aggregates are ahead of the vectors by 0.02, in four of five folds. (These cards are
1,000 users in five folds, those of the first table on this page are 2,000 in each of fifteen draws: compare rows within
a table.)
""",
    "ensembles": """
On MovieLens, beside CoLES, the vectors of frozen SmolLM2 add most: 0.10 of ROC-AUC and 1.3 years with a linear model.
Aggregates add 0.03 and 0.8 years; IFTPP and IFTPP-T at most 0.02 and 0.1 years, where the folds differ by 0.02 and 0.3.
CoLES adds nothing to these vectors, which reach 0.807 and 6.98 years alone (main results). On the simulated cards no
second part is sure to help: IFTPP, IFTPP-T and the vectors add 0.007 to 0.008 to CoLES with a linear model, in four of
five folds, and aggregates take 0.009; all of it is within a deviation of the folds' differences. Here the vectors of
SmolLM2 have length 1.3, and all other parts length 1; `event_pipeline` gives aggregates 0.5.
""",
    "domains": """
The paper also has a private data set here (CLTV), which nobody else can run.
""",
    "components": """
With 135 million weights, 300,000 tokens and ten events a user, rows cannot be told apart on films or cards: with a
linear model, fine-tuning, enrichment and a second data set change the means by less than a fifth of their standard
deviation, with LightGBM by up to .032 or 0.07 years, at most three quarters of a deviation, in both directions. Only
two changes have the same sign in all five folds, both with a linear model: fine-tuning lowers the error of the age by
0.08 years, and a second data set, the best row of the paper, adds .002 on cards. The paper reports .016 to .139 of
ROC-AUC for fine-tuning, .010 to .017 for enrichment and .002 to .008 for a second data set, with 3 billion weights and
whole histories; this table neither supports nor contradicts that. On groceries, with 150,000 tokens, ten purchases say
nothing of children (.474 to .534) and little of age and income (.546 to .593), whichever of the four rows reads them:
with a linear model, fine-tuning changes the means by -.017 to .012, enrichment by -.005 to .025 and a second data set
by -.003 to .004 (with LightGBM by -.042 to -.007). The times of its enriched row leave out most of the work, which an
earlier process did; by its log, training took 86 minutes.
""",
    "strategies": """
With 150,000 tokens for each, formats cannot be told apart: from the raw texts to seven formats of each beside them,
ROC-AUC is between .585 and .626 and the error of the age between 9.63 and 9.80 years, over both heads, with deviations
of .05 to .07 and .4 to .6. The formats share the tokens of one here, so this says nothing of the paper's longer
trainings, in which seven formats are ahead of one, and behind it with raw texts beside them. Summaries that SmolLM2
writes take more than they give: in place of the events, in training and after it, they cost .08 to .10 of ROC-AUC and
0.4 to 0.7 years against the same model that reads the events; that one, trained on summaries alone, is level with the
rows above. The paper orders the two uses in the same way. SmolLM2 repeats some events or talks of others, and where its
answer came to no end twice, a template stands in: for 17 % of the users with LLM-TRSR and for 58 % with HKFR. Both
uses share one training, whose time is that of the first.
""",
    "base-llms": """
A model made from scratch that reads ten films of each user is next to chance for the gender; pretrained models are
ahead of it, and within a standard deviation of each other. Training moves none of them.
""",
    "data-efficiency": """
The paper says that on Rosbank LLM4ES is ahead of all by 15.2 % with one labelled user and by 8.6 % with ten. For gender
in MovieLens the frozen vectors are ahead of the best other by 3.4 % with one user of each class, by 5.6 % with ten
users and by 5.1 % with 25. For the age they are level with a bag of events up to ten users; with 25 to 250, the bag is
ahead. On the simulated cards they are level with CoLES up to ten users and with all; with 25 to 250, CoLES is ahead by
2 to 3 %. LightGBM needs more labels to split at all, so only the linear model is scored.
""",
}
_HOW_TO_READ = """\
## How to read the paper's tables

- Scores are mean ± standard deviation over the folds, and over seeds and draws of labelled users if there are several.
  Folds share users, so ± is not a standard error. "(3 of 5 folds)" means that the other folds have no score, either
  yet or at all. Higher is better for ROC-AUC and accuracy, lower for MAE.
- "linear" and "LightGBM" are the two models that `event_pipeline` averages. Vectors without a length of their own
  (aggregates, neural baselines, hidden states) are first standardised by the training users and brought to unit length.
  The preset "paper" has the published settings of LightGBM instead.
- "paper" is the paper's figure for the same data set; its LLM4ES is LLaMA 3.2 3B. "paper, rosbank" is its figure for
  another data set, if it has none for this one: compare the order of the rows, not the values.
- Times are seconds by the clock of the slowest fit, and of the slowest transform of all labelled users, on machines of
  different speed that did other work at times: they do not say which method is faster. With a frozen model or LATTE,
  the slowest is the one that read the texts: later ones find what it has kept. Features are the most of any fold, peak
  memory is that of the whole process.
- "not run here" means that the machine lacked something that the row needs.
- On MovieLens, the bag of events has only the titles.
- Aggregates, here and in the first table of the page, alone or beside other parts, are those of 0.2.0, which counted
  all values of a field beyond the 100 commonest as one distinct value; they count each since. On groceries, today's
  aggregates alone score .006 to .008 lower with LightGBM (children .661 ± .025, age .684 ± .045).
- Vectors that were computed again differ by rounding, which moves a fold of LightGBM by up to .013: "Agg + LLM4ES" on
  transactions has slightly different figures in two tables.
- "leak-free": representations are learned from the events of all users outside the test set. "transductive": they are
  also learned from those of the test set, as in the paper. Neither ever sees a label.
- Protocol "cv": cross-validation over all labelled users. Protocol "holdout", as in the paper: one test set with a
  tenth of the users, for several models that are each trained on four fifths of the other users.
- The preset "cpu" is what one core does in hours: models read the latest ten events of each user in the tables that
  train one per row. Each training of a pretrained model there sees as many tokens as is said below the table, one from
  scratch its texts once. "paper" is as published.

`python -m benchmarks.run --render` writes this page from the files in `benchmarks/results`.
"""


def write_page(results: Path, page: Path) -> int:
    """Write the page with all tables except those of the preset "smoke", its plots, and the start page's table.

    Parameters
    ----------
    results : path
        The folder with the results.
    page : path
        The Markdown file. The plots and the start page's table go into a folder of the same name.

    Returns
    -------
    int
        The number of result files on the page.
    """
    contents = [(file.stem, read(file)) for file in sorted(results.glob("*.json"))]
    contents = [(name, content) for name, content in contents if content["about"]["preset"] != "smoke"]
    order = list(TABLES)
    # The data set with most events first: the largest says most.
    contents.sort(key=lambda of: (order.index(of[1]["about"]["table"]), -of[1]["about"]["n_events"], of[0]))
    plots = page.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    parts = [_HEAD]
    quality = Quality(results / "quality.jsonl")
    if quality.scores:
        (plots / "when_it_pays.md").write_text(quality.table(brief=True))
        parts.append(
            _QUALITY.format(n_ahead=quality.n_ahead(), n_targets=len(quality.scores), table=quality.table(brief=False))
        )
    if (engines := results / "engines.jsonl").exists():
        parts.append(_SPEED.format(table=speed_table(engines)))
    parts.append(_PAPER)
    table = None
    for name, content in contents:
        if table != (table := content["about"]["table"]):
            parts.append(f"## {TABLES[table].title}\n{_REMARKS.get(table, '')}")
        parts.append(render_file(content))
        for target in _targets(content) if content["records"] else ():
            file = plots / f"{name}-{target}.png"
            draw(content, target, file)
            title = TABLES[table].title
            parts.append(f"![{title}, {content['about']['dataset']}, {target}]({plots.name}/{file.name})\n")
    parts.append(_HOW_TO_READ)
    page.write_text("\n".join(parts))
    return len(contents)


def render_file(content: Record) -> str:
    """Return the tables of a result file, one per target, as Markdown.

    Parameters
    ----------
    content : dict
        The content of the file.

    Returns
    -------
    str
        Markdown.
    """
    about = content["about"]
    lines = [f"### {about['dataset']}"]
    how = f"preset {about['preset']}, protocol {about['protocol']}, {about['fit']} fit"
    for target in _targets(content):
        lines += ["", f"**{target}: {about['metrics'][target]}**, {how}", ""]
        lines += _curve_rows(content, target) if TABLES[about["table"]].is_curve else _table_rows(content, target)
    lines += _notes(content)
    # Markdown in an HTML element needs empty lines around it.
    lines += ["", "<details>", "<summary>How this was run</summary>", "", _describe(content), "", "</details>"]
    return "\n".join([*lines, ""])


def _describe(content: Record) -> str:
    about = content["about"]
    seeds = sorted({record["seed"] for record in content["records"]})
    run_rows = {record["row"] for record in content["records"]} & set(about["rows"])
    named = [model for model in about["models"] if any(model in row for row in about["rows"])]
    models = ", ".join(named or about["models"][:1])  # Tables of one model do not name it in their rows.
    events = "all events" if about["max_events"] is None else f"the latest {about['max_events']} events of each user"
    sentences = [
        f"{about['n_users']:,} users, {about['n_labelled']:,} of them labelled; {about['n_events']:,} events.",
        f"Protocol {about['protocol']}, {about['n_folds']} folds, {len(seeds)} seed{'s' * (len(seeds) != 1)}.",
        f"Fit {_FITS[about['fit']]}.",
        f"Language models ({models}) read {events}; other methods use all events.",
        f"Texts are rewritten by {about['rewriter']}.",
    ]
    if about.get("n_tokens"):
        sentences.append(f"Each training of a pretrained model sees about {about['n_tokens']:,} tokens.")
    if about.get("summariser") and any(name in row for row in run_rows for name in ("HKFR", "LLM-TRSR")):
        sentences.append(
            f"Summaries are written by {about['summariser']}, in about 50 words, those of HKFR on two themes; one that "
            "fails twice is replaced by a template."
        )
    if about["epochs"] != 1 and any(name in row for row in run_rows for name in NEURAL):
        sentences.append(f"Neural baselines train for {about['epochs']:.0%} of their epochs, at least one.")
    runs = [_describe_run(run) for run in content["runs"]]
    return "\n".join([" ".join(sentences), "", *runs])


def _describe_run(run: Record) -> str:
    machine = run["machine"]
    hardware = machine.get("gpu") or f"{machine['cpus']} CPU cores ({machine['threads']} used by torch)"
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    dtype = f", language models in {machine['dtype']}" if "dtype" in machine else ""
    return f"`{run['command']}`  \n{hardware}, {machine['architecture']}{dtype}; {versions}."


def _table_rows(content: Record, target: str) -> list[str]:
    dataset, figures = _figures(content, target)
    paper = [] if dataset is None else ["paper" if dataset == content["about"]["dataset"] else f"paper, {dataset}"]
    head = ["method", *HEADS, *paper, "features", "fit, s", "transform, s", "peak, MB"]
    lines = [row_of(head), row_of(["---"] * len(head))]
    for row, paper_name in content["about"]["rows"].items():
        records = _of(content, row, target)
        scores = [_mean_and_sd(content, records, name) for name in HEADS] if records else [_absent(content, row), ""]
        costs = [_largest(records, name) for name in ("n_features", "fit_s", "transform_s", "peak_mb")]
        lines.append(row_of([row, *scores, *[figures.get(paper_name, "") for _ in paper], *costs]))
    return lines


def _curve_rows(content: Record, target: str) -> list[str]:
    rows = content["about"]["rows"]
    lines = []
    for head in heads_of(TABLES[content["about"]["table"]]):
        curves = {row: _curve(_of(content, row, target), head) for row in rows}
        labels = sorted({label for curve in curves.values() for label in curve}, key=_by_number)
        names = [
            row + (_left_out(content, _of(content, row, target), head) if curve else f" ({_absent(content, row)})")
            for row, curve in curves.items()
        ]
        lines += [row_of([f"labelled users, {head}", *names]), row_of(["---"] * (1 + len(names)))]
        for label in labels:
            cells = [_format(curve[label].values) if label in curve else "" for curve in curves.values()]
            lines.append(row_of([str(label), *cells]))
        lines.append("")
    return lines[:-1]


class _Point(NamedTuple):
    """A point of a learning curve: the mean number of labelled users, and the scores."""

    n_train: float
    values: list[float]


def _curve(records: Iterable[Record], head: str) -> dict[Any, _Point]:
    """Return the points of a row's curve, by the requested number of labels."""
    by_labels: dict[Any, list[Record]] = defaultdict(list)
    for record in records:
        by_labels[record["labels"]].append(record)
    return {
        labels: _Point(float(np.mean([record["n_train"] for record in of_labels])), _values(of_labels, head))
        for labels, of_labels in sorted(by_labels.items(), key=lambda point: _by_number(point[0]))
    }


def _by_number(labels: int | str) -> float:
    return float("inf") if isinstance(labels, str) else labels


def _absent(content: Record, row: str) -> str:
    """Return the note for a row without scores."""
    return "not run here" if row in content["not_run"] else "not run yet"


def _notes(content: Record) -> list[str]:
    """Return why rows were not run, or not completely, and how many texts a template wrote in place of the model."""
    rows: dict[str, list[str]] = defaultdict(list)
    for row in content["about"]["rows"]:
        if row in content["not_run"]:
            rows[f"Not run here: {content['not_run'][row]}."].append(row)
        replaced = max((record.get("replaced", 0) for record in content["records"] if record["row"] == row), default=0)
        if replaced:
            rows[f"A template replaced the model's answer in up to {replaced:.1%} of the texts of a fit."].append(row)
    return ["", *[f"- {note} ({'; '.join(names)})" for note, names in rows.items()]] if rows else []


def _targets(content: Record) -> list[str]:
    scored = {record["target"] for record in content["records"]}
    return [target for target in content["about"]["metrics"] if target in scored] or list(content["about"]["metrics"])


def _figures(content: Record, target: str) -> tuple[str | None, Figures]:
    about = content["about"]
    dataset, figures = figures_of(about["table"], about["dataset"], target)
    # Figures of other data sets are all ROC-AUC, so they are shown only beside ROC-AUC.
    return (dataset, figures) if dataset == about["dataset"] or about["metrics"][target] == "ROC-AUC" else (None, {})


def _of(content: Record, row: str, target: str) -> list[Record]:
    return [record for record in content["records"] if (record["row"], record["target"]) == (row, target)]


def _values(records: Iterable[Record], head: str) -> list[float]:
    return [record["scores"][head] for record in records if record["scores"][head] is not None]


def _mean_and_sd(content: Record, records: Sequence[Record], head: str) -> str:
    return _format(_values(records, head)) + _left_out(content, records, head)


def _left_out(content: Record, records: Sequence[Record], head: str) -> str:
    """Return a note if folds of any seed have no score: not run yet, or only one class."""
    n_folds = content["about"]["n_folds"] * len({record["seed"] for record in content["records"]})
    n_scored = len({(record["seed"], record["fold"]) for record in records if record["scores"][head] is not None})
    return f" ({n_scored} of {n_folds} folds)" if records and n_scored < n_folds else ""


def _format(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "no score"


def _largest(records: Sequence[Record], name: str) -> str:
    if not records:
        return ""
    value = max(record[name] for record in records)
    return f"{value:,.1f}" if name.endswith("_s") else f"{value:,.0f}"


def draw(content: Record, target: str, file: Path) -> None:
    """Draw the scores of a table, or its learning curves.

    Parameters
    ----------
    content : dict
        The content of a result file.
    target : str
        The target.
    file : path
        The file of the plot.
    """
    # An extra, not needed to run tables.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'Pictures need matplotlib: pip install "skllm4es[plot]" ({error})') from error

    is_curve = TABLES[content["about"]["table"]].is_curve
    heads = heads_of(TABLES[content["about"]["table"]])
    rows = [row for row in content["about"]["rows"] if _of(content, row, target)]
    height = 4.5 if is_curve else 1.7 + 0.32 * len(rows)
    figure = Figure(figsize=(10 if len(heads) == 2 else 7, height), layout="constrained")
    axes = figure.subplots(1, len(heads), sharex=True, sharey=True, squeeze=False)[0]
    for head, axis in zip(heads, axes, strict=True):
        (_draw_curves if is_curve else _draw_scores)(axis, content, rows, target, head)
        axis.set_title(head)
        axis.grid(alpha=0.3)
    about = content["about"]
    metric = about["metrics"][target]
    for axis in axes:
        axis.set(**({"xlabel": "labelled users", "ylabel": metric} if is_curve else {"xlabel": metric}))
        axis.label_outer()
    if is_curve and metric == "MAE":
        # Regression on a handful of users can be wrong by any amount, which would flatten everything else.
        means = np.concatenate([line.get_ydata()[2:] for axis in axes for line in axis.get_lines()])
        axes[0].set_ylim(0.9 * means.min(), 1.15 * means.max())
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(f"{about['dataset']}, {target}: {metric}, protocol {about['protocol']}, {about['fit']}")
    # Without matplotlib's version in the file, so that the same results give the same file.
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _draw_scores(axis: Any, content: Record, rows: Sequence[str], target: str, head: str) -> None:
    places = np.arange(len(rows))
    values = [_values(_of(content, row, target), head) for row in rows]
    means = [np.mean(scores) if scores else np.nan for scores in values]
    deviations = [np.std(scores) if scores else np.nan for scores in values]
    axis.errorbar(means, places, xerr=deviations, fmt="o", capsize=3, label="mean ± sd over folds")
    dataset, figures = _figures(content, target)
    figures = figures if dataset == content["about"]["dataset"] else {}
    names = [content["about"]["rows"][row] for row in rows]
    known = [
        (float(figures[name].split()[0]), place) for name, place in zip(names, places, strict=True) if name in figures
    ]
    if known:
        axis.plot(*zip(*known, strict=True), "D", mfc="none", color="tab:red", label="paper (its own model and split)")
    axis.locator_params(axis="x", nbins=5)  # So that numbers do not touch.
    axis.set_yticks(places, rows)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def _draw_curves(axis: Any, content: Record, rows: Sequence[str], target: str, head: str) -> None:
    sizes = np.empty(0)
    for row in rows:
        points = [point for point in _curve(_of(content, row, target), head).values() if point.values]
        sizes = np.array([point.n_train for point in points])
        means = np.array([np.mean(point.values) for point in points])
        deviations = np.array([np.std(point.values) for point in points])
        (line,) = axis.plot(sizes, means, "o-", label=row)
        axis.fill_between(sizes, means - deviations, means + deviations, alpha=0.12, color=line.get_color())
    axis.set_xscale("log")
    axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axis.minorticks_off()
