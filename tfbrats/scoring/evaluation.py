"""Two folders of segmentations compared: every case scored in worker processes, then means by region."""

import concurrent.futures
import functools
import importlib.metadata
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tfbrats import __version__
from tfbrats.cases import case
from tfbrats.datasets import label_candidates
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.machine import files, memory
from tfbrats.metrics import lesion_rules, region_scores, stage_misses
from tfbrats.predictions import seen
from tfbrats.predictions.model_card import ModelCard
from tfbrats.scoring import case_scores, comparison, label_tables, origin, pairs, papers
from tfbrats.scoring.case_scores import Scored
from tfbrats.scoring.comparison import Comparison
from tfbrats.scoring.origin import BySplit, Model, NotTold, Split
from tfbrats.scoring.summaries import Row, Statistics, Summary, summarise, summarise_lesions
from tfbrats.terminal import bars, wording

_TUNED = ", tuned"  # of a row that is not as the paper says
_WORKER_BYTES = 300 * 2**20  # of a process that scores cases of BraTS


@dataclass(frozen=True)
class EmptyRule:
    """What a score is where a mask is empty: a key of `region_scores.EMPTY_RULES`, and what it means."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Cascade:
    """What each stage of a cascade missed; see `metrics.stage_misses`.

    Attributes:
        margin_voxels: by which the model grew its boxes; None if it is no cascade, or if that is not known.
        summary: by region, as `stage_misses.summarise`.
        rows: keys as `score_files.CASCADE_COLUMNS`.
    """

    margin_voxels: int | None
    summary: dict[str, dict[str, int | dict[str, float]]]
    rows: list[Row]


@dataclass(frozen=True)
class Lesions:
    """Scores lesion by lesion.

    Attributes:
        rule: a key of `lesion_rules.MEANINGS`.
        summary: region -> score -> statistics, or a number of lesions.
        rows: of every case and region, as `lesion_rules.score_case` with `case_id`.
        each: every lesion, found, missed or false, where the rule tells them apart.
    """

    rule: str
    meaning: str
    summary: dict[str, dict[str, Statistics | int]]
    rows: list[Row]
    each: list[Row] = field(default_factory=list, metadata={"key": "list"})


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A folder of predictions scored against one of references: the content of metrics.json.

    Entries with a default are those that older versions did not write. Undefined numbers are nan.

    Attributes:
        prediction: the folder.
        reference: the folder.
        edition_given: of the reference, where its names were not asked.
        editions: of the references.
        tables: which label values stood for which tissues, as `label_tables.as_json`.
        cases: how many were scored.
        missing: ids of those without a prediction, which were scored as empty.
        warnings: what must not be overlooked of label values and cards; `score_text.warnings` has all.
        rows: of every case and region, keys as `score_files.COLUMNS`.
        counts: of every case, as `Scored.counts`.
        versions: of tfbrats, Python and what the numbers depend on.
    """

    prediction: str
    reference: str
    edition_given: str | None
    editions: list[str]
    tables: list[dict[str, Any]] = field(default_factory=list)
    cases: int
    missing: list[str] = field(default_factory=list)
    notes: list[str]
    warnings: list[str] = field(default_factory=list)
    model: Model | None = None
    split: Split | None = None
    by_split: BySplit | NotTold | None = None
    empty_rule: EmptyRule
    summary: Summary
    rows: list[Row]
    cascade: Cascade | None = None
    lesions: Lesions | None = None
    compared: list[Comparison] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str]

    @property
    def row(self) -> str | None:
        """Which row of a paper's table its model is; None if that is not known."""
        return self.model.row if self.model else None

    @property
    def seen_by_model(self) -> BySplit | None:
        """Which of the cases the model has seen; None if that is not known."""
        return self.by_split if isinstance(self.by_split, BySplit) else None

    @property
    def which_cases(self) -> str:
        """E.g. "test split, 12 cases (1 scored as empty), BraTS 2020"."""
        split = f"{self.split.name} split" if self.split else "all cases given"
        number = wording.counted(self.cases, "case")
        missing = f" ({len(self.missing)} scored as empty)" if self.missing else ""
        data = ", ".join(map(papers.title_of, self.editions))
        return f"{split}, {number}{missing}{self.seen_briefly}, {data}"

    @property
    def seen_briefly(self) -> str:
        """For a line that names the cases: ", 5 of them seen by the model"; "" where nothing is amiss."""
        number = seen.number_seen(self.seen_by_model.cases) if self.seen_by_model else 0
        return f", {number} of them seen by the model" if number else ""

    @property
    def tuned(self) -> list[str]:
        """What was chosen for its model on validation cases, in words; none where it is as the paper says."""
        return self.model.tuned if self.model else []

    def name(self, folder: str | os.PathLike) -> str:
        """What to call it on screen: its row of a table, else the name of the folder that holds it."""
        return f"{self.row}{_TUNED if self.tuned else ''}" if self.row else files.name(folder)

    def line(self, table: papers.PaperTable) -> papers.Line:
        """Its means as a row of a paper's table."""
        title = table.row_titles.get(self.row)
        name = self.row or (self.model.name if self.model else None) or ""
        name = f"{name}{_TUNED}" if name and self.tuned else name
        return papers.Line(
            row=self.row if title else None,
            name=name,
            title=f"{title}{_TUNED if self.tuned else ''}" if title else name or "no row",
            whose="ours",
            cases=self.which_cases,
            values={(region, s): self.summary[region][s].mean for region in REGIONS for s in table.scores},
            reference=files.name(self.reference),
        )

    def compared_with(self, other: "Evaluation", folder: str | os.PathLike) -> Comparison:
        """How far it differs from another run's scores, which were read from a folder.

        Raises:
            InputError: other cases, another reference or another empty-mask rule.
        """
        rule, other_rule = self.empty_rule.name, other.empty_rule.name
        if rule != other_rule:
            raise InputError(
                f"{folder}: scored with --empty {other_rule}, this run with {rule}. Score both by one rule."
            )
        try:
            differences = comparison.differences(self.rows, other.rows)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from error
        return Comparison(other.name(folder), os.fspath(folder), differences)


class WorkerDiedError(InputError):
    """A worker process died. Whoever set their number says how to have fewer."""


def fitting_workers(most: int | None = None) -> int:
    """How many processes this one has cores and free memory for, of `most` if that is fewer."""
    cores = memory.cores()
    return max(1, min(cores, memory.fitting_workers(_WORKER_BYTES), most or cores))


def _in_parallel(function: Callable, items: Sequence, workers: int) -> Iterator:
    if workers == 1:
        yield from bars.bar(map(function, items), total=len(items), desc="score", unit="case")
        return
    context = multiprocessing.get_context("spawn")  # a fork may copy a lock that nobody will open
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        try:
            yield from bars.bar(pool.map(function, items), total=len(items), desc="score", unit="case")
        except concurrent.futures.process.BrokenProcessPool as error:
            raise WorkerDiedError(
                f"a worker process died, most likely for want of memory ({workers} at a time)."
            ) from error


def evaluate(
    prediction: str | os.PathLike,
    reference: str | os.PathLike,
    edition: str | None = None,
    *,
    empty: str = "brats",
    cases: Sequence[str] | None = None,
    allow_missing: bool = False,
    workers: int = 1,
    splits: str | os.PathLike | None = None,
    split: str | None = None,
    fold: int | None = None,
    row: str | None = None,
    lesion_rule: str | None = None,
    prediction_edition: str | None = None,
) -> Evaluation:
    """Scores every case; writes nothing.

    Args:
        prediction: as for `pairs.match`, and so are `reference`, `edition`, `cases` and `allow_missing`.
        empty: a key of `region_scores.EMPTY_RULES`.
        workers: processes, ~0.3 GB each at full size. More than one needs a main module that can be
            imported (`if __name__ == "__main__":`), and folders that another process can open.
        splits: a run's splits.json; only the cases of its split `split` ("test") are scored.
        fold: which, of `splits` that hold the folds of a cross-validation.
        row: of a paper's table, `papers.ROWS`, where no model's card beside the predictions tells it.
        lesion_rule: a key of `lesion_rules.MEANINGS`; None for no lesion-wise scores.
        prediction_edition: as for `label_tables.settle`.

    Raises:
        InputError: everything that is missing, extra, unreadable, misaligned or written in another table than
            it is read by, a line each; a rule that is unknown; splits on which the model was not trained; a row
            that is not the model's.
        WorkerDiedError: one of several `workers`.
    """
    _check_options(empty, lesion_rule, row, cases, splits, split, fold)
    card, card_notes = origin.card_beside(prediction)
    model = origin.model_of(card, prediction, row)
    chosen, named_by = None, "--cases"
    if splits is not None:
        cases, chosen = origin.split_of(splits, split or "test", fold)
        origin.check_split(chosen, model, prediction)
        named_by = f"{chosen.name} in {splits}"
    matched = pairs.match(prediction, reference, edition, cases, allow_missing, named_by)
    settled = label_tables.settle(matched.pairs, prediction, reference, edition, prediction_edition, card)
    margin = model.margin if model else None
    attempt = functools.partial(case_scores.attempt, empty=empty, margin=margin, lesion_rule=lesion_rule)
    scored = _score_all(matched, settled, attempt, workers)
    rows = [row for of_case in scored for row in of_case.rows]
    guessed = {path: notes for of_case in scored for path, notes in of_case.notes.items()}
    return Evaluation(
        prediction=os.fspath(prediction),
        reference=os.fspath(reference),
        edition_given=edition,
        editions=sorted({pair.schema.edition for pair in settled.pairs}),
        tables=label_tables.as_json(settled.pairs, settled.found_by),
        cases=len(settled.pairs),
        missing=list(matched.missing),
        notes=[*matched.notes, *settled.notes, *card_notes, *case.noted(guessed)],
        warnings=_warnings(prediction, card, settled, scored),
        model=model,
        split=chosen,
        by_split=origin.by_split_of(card, rows, splits, fold),
        empty_rule=EmptyRule(empty, region_scores.EMPTY_RULES[empty]),
        summary=summarise(rows),
        rows=rows,
        cascade=_cascade(margin, scored),
        lesions=_lesions(lesion_rule, scored),
        counts=[of_case.counts for of_case in scored],
        versions=_versions(),
    )


def _check_options(
    empty: str,
    lesion_rule: str | None,
    row: str | None,
    cases: Sequence[str] | None,
    splits: str | os.PathLike | None,
    split: str | None,
    fold: int | None,
) -> None:
    """Raises InputError for a name that is unknown, and for options that do not go together."""
    if empty not in region_scores.EMPTY_RULES:
        raise InputError(
            f"empty-mask rule {empty!r} is unknown; choose from {', '.join(region_scores.EMPTY_RULES)}."
        )
    if lesion_rule is not None:
        lesion_rules.check(lesion_rule)
    if row is not None and row not in papers.ROWS:
        raise InputError(f"row {row!r} is in no table; choose from {', '.join(papers.ROWS)}.")
    if cases is not None and splits is not None:
        raise InputError("--cases and --splits both say which cases to score. Pass one of them.")
    if split is not None and splits is None:
        raise InputError(f"--split {split} needs --splits: the file that says which cases it has.")
    if fold is not None and splits is None:
        raise InputError(f"--fold {fold} needs --splits: the file that holds the folds.")


def _score_all(
    matched: pairs.Matched, settled: label_tables.Settled, attempt: Callable[..., Scored], workers: int
) -> list[Scored]:
    """Every case, in the order of the pairs.

    Raises:
        InputError: with every fault of every case.
        WorkerDiedError: see `evaluate`.
    """
    # With a fault in hand there will be no scores: the rest is only looked through for more.
    attempt = functools.partial(attempt, only_check=bool(matched.faults or settled.faults))
    scored = list(_in_parallel(attempt, settled.pairs, max(1, min(workers, len(settled.pairs)))))
    faults = [*matched.faults, *settled.faults, *(fault for of_case in scored for fault in of_case.faults)]
    if faults:
        raise InputError(f"nothing was scored; faults: {len(faults)}\n  " + "\n  ".join(faults))
    return scored


def _warnings(
    prediction: str | os.PathLike,
    card: ModelCard | None,
    settled: label_tables.Settled,
    scored: Sequence[Scored],
) -> list[str]:
    """Where the model's card is missing, and where the label values may be another table's."""
    paths = [pair.prediction for pair in settled.pairs if pair.prediction is not None]
    tables = [pair.written_in for pair in settled.pairs]
    return [
        *origin.doubts(prediction, card, paths),
        *settled.warnings,
        *label_candidates.doubts(tables, [of_case.voxels for of_case in scored], prediction),
    ]


def _cascade(margin: int | None, scored: Sequence[Scored]) -> Cascade:
    rows = [row for of_case in scored for row in of_case.misses]
    return Cascade(margin, stage_misses.summarise(rows), rows)


def _lesions(rule: str | None, scored: Sequence[Scored]) -> Lesions | None:
    if rule is None:
        return None
    rows = [row for of_case in scored for row in of_case.lesions]
    each = [lesion for of_case in scored for lesion in of_case.lesion_list]
    return Lesions(rule, lesion_rules.MEANINGS[rule], summarise_lesions(rows), rows, each)


def _versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "nibabel")}
    return {"tfbrats": __version__, "python": platform.python_version(), **libraries}
