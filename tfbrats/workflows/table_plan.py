"""What reproducing a table means: a config for each row, the cases, where everything goes.

A row is what its YAML has different from that of the table's last row, the method itself: sizes and recipe may
come from elsewhere, what makes the row may not.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfbrats import config_file
from tfbrats.cases.split_files import Splits
from tfbrats.config import Config
from tfbrats.datasets import case_names, layouts
from tfbrats.datasets.layouts import Dataset
from tfbrats.errors import InputError
from tfbrats.machine import files, paths
from tfbrats.scoring import papers
from tfbrats.terminal import wording


def row_names(table: str) -> list[str]:
    """The configs of a table's rows, in the paper's order; the method itself comes last."""
    return [row.row for row in papers.TABLES[table].rows]


def row_config(table: str, row: str, settings: str | None, overrides: Sequence[str] = ()) -> Config:
    """A row's config: its own YAML, or `settings` with all that sets the row apart from the table's last row.

    Args:
        settings: a config of the same paper that brings sizes and recipe. A row's width keeps its ratio to the
            last row's.
        overrides: section.key=value, of every row alike.

    Raises:
        InputError: settings of another paper, overrides of what makes a row, or no batch size, which all rows
            must share.
    """
    method = config_file.load(f"{row_names(table)[-1]}.yaml")
    own = config_file.load(f"{row}.yaml")
    base = config_file.load(settings) if settings else method
    if type(base) is not type(method):
        raise InputError(
            f"--settings {settings}: {base.model.name} is not of {papers.TABLES[table].title}. Take a config "
            f"of {method.model.name}'s kind."
        )
    identity = {key: value for key, value in _apart(own, method).items() if key != "run.dir"}
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("model.name", "lws.enabled", "run.dir", "data.records", "region"):
            raise InputError(f"{override}: {key} is settled by the table's row.")
    if "model.width" in identity:
        identity["model.width"] = max(2, identity["model.width"] * base.model.width // method.model.width)
    config = config_file.overridden(base, overrides, identity)
    if config.train.batch_size == "auto":
        raise InputError(
            "train.batch_size=auto: each row would take another, and the rows of a table differ in nothing but "
            f"the method. Name a number; `tfbrats probe --config {method.model.name} "
            "train.batch_size=auto` says what fits."
        )
    return config


def _apart(own: Config, other: Config) -> dict[str, Any]:
    """section.key -> own value, wherever two configs differ."""
    values = {}
    own_content, other_content = own.model_dump(mode="json"), other.model_dump(mode="json")
    for section, content in own_content.items():
        for key, value in content.items() if isinstance(content, Mapping) else ():
            if (other_content.get(section) or {}).get(key) != value:
                values[f"{section}.{key}"] = value
    return values


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        configs: by row, in the table's order.
        test_data: where the scored cases lie: `data`, or a folder of its own.
        case_ids: of the scored cases.
        folds: of a cross-validation, whose held-out cases are scored; () where one split is trained.
    """

    table: str
    configs: dict[str, Config]
    data: str
    dataset: Dataset
    splits: dict[str, list[str]]
    test_data: str
    case_ids: list[str]
    output: pathlib.Path
    folds: Sequence[Splits] = ()

    @property
    def main_row(self) -> str:
        """The one that the others are compared with: the method itself, if it is among them."""
        return list(self.configs)[-1]

    @property
    def records_config(self) -> Config:
        """Any row's: they share the records."""
        return self.configs[self.main_row]

    @property
    def stored(self) -> dict[str, list[str]]:
        """Split -> ids of the cases in the records: of folds, what all of them see."""
        if not self.folds:
            return self.splits

        from tfbrats.records.folder import cases_of  # opens images
        from tfbrats.records.manifest import batches_of_folds

        return cases_of(batches_of_folds(self.folds, self.records_config.records.kind, 0.0))

    def path(self, *parts: str) -> str:
        return str(self.output.joinpath(*parts))


def plan(
    table: str,
    data: str,
    output: str,
    rows: Sequence[str] | None = None,
    settings: str | None = None,
    test_data: str | None = None,
    overrides: Sequence[str] = (),
    scored: bool = True,
    folds: int | None = None,
) -> Plan:
    """Settles what is to be done; reads names alone and writes nothing.

    Args:
        rows: only these.
        settings: as for `row_config`, and so are `overrides`.
        test_data: a data set to score on; else the test split of `data`.
        scored: False needs no case to score on.
        folds: of a cross-validation: every case is scored, by the network that did not train on it.

    Raises:
        InputError: an unknown row, data that cannot be used, no case to score on.
    """
    if folds is not None and test_data:
        raise InputError(
            f"--folds {folds} scores the cases of {data} that each fold holds out. Leave --test out."
        )
    if not files.is_local(output):
        raise InputError(f"{output}: reproduce into a local folder.")
    names = row_names(table)
    unknown = [row for row in rows or () if row not in names]
    if unknown:
        raise InputError(f"--rows {','.join(unknown)}: {table} has the rows {', '.join(names)}.")
    chosen = [row for row in names if not rows or row in rows]
    home = pathlib.Path(paths.absolute(output))
    all_configs = {}
    for row in chosen:
        places = {"data.records": str(home / "records"), "run.dir": str(home / "runs" / row)}
        all_configs[row] = config_file.overridden(row_config(table, row, settings, overrides), values=places)
    first = all_configs[chosen[-1]]
    identity = first.records_identity()
    differing = [row for row, config in all_configs.items() if config.records_identity() != identity]
    if differing:
        raise InputError(f"the rows {', '.join(differing)} would need records of their own.")
    dataset = layouts.find(data)

    from tfbrats.cases import dealing  # opens images; all that is typed is settled by now

    if folds is not None:
        dealt_folds = dealing.folds(dataset, folds, first.records.seed)
        ids = sorted(case_id for fold in dealt_folds for case_id in fold["validation"])
        return Plan(table, all_configs, data, dataset, dealt_folds[0], data, ids, home, dealt_folds)
    dealt = dealing.split_cases(dataset, first.records.split, first.records.seed)
    case_ids = _unseen(test_data, dataset, dealt, first.data.modalities) if test_data else dealt["test"]
    if not case_ids and scored:
        raise InputError(
            f"no case to score on: records.split={list(first.records.split)} keeps none of {data} for testing. "
            "(Paper B trains on all cases, and its test cases are not public.) Hold some out, e.g. "
            "records.split=[4,0,1], or name another data set with --test."
        )
    return Plan(table, all_configs, data, dataset, dealt, test_data or data, sorted(case_ids), home)


def _unseen(
    test_data: str, dataset: Dataset, dealt: Mapping[str, Sequence[str]], modalities: Sequence[str]
) -> list[str]:
    """The cases of a data set to score on.

    Raises:
        InputError: it has none, some lack a modality, or are of patients that are trained or validated on.
    """
    cases = [case for case in layouts.find(test_data).cases if case.label or case.label_expected]
    if not cases:
        raise InputError(f"{test_data}: no case with a segmentation to score against.")
    faults = [f"{case.case_id}: {problem}" for case in cases for problem in case.problems]
    for case in cases:
        missing = [name for name in modalities if name not in {image[0] for image in case.images}]
        faults += [f"{case.case_id}: no {', '.join(missing)}"] if missing else []
    if faults:
        raise InputError(f"--test {test_data}: cases that cannot be segmented:\n  " + "\n  ".join(faults))
    used = {case_id for name in ("train", "validation") for case_id in dealt[name]}
    # By person: the two data sets may be of two editions.
    persons = {
        case_names.person_of(patient) for case_id, patient in dataset.patient_of.items() if case_id in used
    }
    seen = [case.case_id for case in cases if case_names.person_of(case.patient_id) in persons]
    if seen:
        raise InputError(
            f"--test {test_data}: {wording.counted(len(seen), 'case')} of patients who are trained or "
            f"validated on, e.g. {', '.join(seen[:5])}. Take them out of one of the two data sets."
        )
    return [case.case_id for case in cases]
