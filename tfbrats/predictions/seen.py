"""Which cases a model has seen: those that trained it, those that chose its checkpoint, and their patients.

A model's card carries hashes of the case ids of each split and of their patients, so that a served card tells
nobody's name and yet every scored case can be held against it. Pure: opens no file.

    kind                 the case
    train                trained the model
    validation           chose its checkpoint
    tuned                is in neither, and chose what `tfbrats tune` put into it
    train_patient        shows a patient of whom another scan trained the model
    validation_patient   shows a patient of whom another scan chose its checkpoint
    tuned_patient        shows a patient of whom another scan chose what was tuned
    fold                 was held out by the fold whose network segmented it; that fold chose its checkpoint
    test                 was kept apart in the model's own split
    unseen               is in none of its splits
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfbrats.datasets import case_names

_KNOWN_SPLITS = ("train", "validation", "tuned")  # splits of a card whose cases a model knows
KNOWN_TO_THE_MODEL = (*_KNOWN_SPLITS, *(f"{split}_patient" for split in _KNOWN_SPLITS))
KINDS = (*KNOWN_TO_THE_MODEL, "fold", "test", "unseen")
_CASES, _PATIENTS = "case_hashes", "patient_hashes"  # of a card's training_data
_NOT_TRAINED_ON = "not_trained_on"  # of one of its runs
_DIGITS = 16  # of 64: one false match in 10^13 for a thousand cases against a thousand
TITLES = {  # of a table's rows
    "train": "train",
    "validation": "validation",
    "tuned": "chose what is tuned",
    "train_patient": "train, another scan of the patient",
    "validation_patient": "validation, another scan of the patient",
    "tuned_patient": "chose what is tuned, another scan of the patient",
    "fold": "held out by its network's fold",
    "test": "test",
    "unseen": "in no split of the model",
}
_WORDS = {
    "train": ("trained the model",) * 2,
    "validation": ("chose its checkpoint",) * 2,
    "tuned": ("chose what is tuned in it",) * 2,
    "train_patient": (
        "is of a patient whose other scan trained it",
        "are of patients whose other scans trained it",
    ),
    "validation_patient": (
        "is of a patient whose other scan chose its checkpoint",
        "are of patients whose other scans chose its checkpoint",
    ),
    "tuned_patient": (
        "is of a patient whose other scan chose what is tuned in it",
        "are of patients whose other scans chose what is tuned in it",
    ),
    "fold": ("was held out by its network's fold", "were held out by their networks' folds"),
    "test": ("is of its test split", "are of its test split"),
    "unseen": ("is in none of its splits", "are in none of its splits"),
}
_NAMESAKES = {  # where an id tells no published data set, so that another may have the same
    "train": (
        "has the name of a case that trained the model",
        "have the names of cases that trained the model",
    ),
    "validation": (
        "has the name of a case that chose its checkpoint",
        "have the names of cases that chose its checkpoint",
    ),
}
# Ways of naming, each by the editions of cards and of ids that have it: they share patients under other names.
_LATER = "BraTS 2021 and later"
_WAYS = {
    "BraTS 2017 to 2019": ("2017", "2018", "2019"),
    "BraTS 2020": ("2020",),
    _LATER: ("2021", "2023"),
    "UPenn-GBM": ("upenn",),
    "UCSF-PDGM": ("ucsf",),
    "the Decathlon": ("msd",),
}
_UCSF = "UCSF-PDGM"  # in 2021 and later alone


def _hash(name: str) -> str:
    """Of a case id or a patient; letter case makes no other patient."""
    return hashlib.sha256(case_names.spelt_alike(name).encode()).hexdigest()[:_DIGITS]


def _patient_of(case_id: str) -> str:
    """Whose scan it is: what all time points of a patient share, under the names of any edition."""
    return case_names.person_of(case_names.patient_of(case_id))


def hashes_of(splits: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """What a card's `training_data` carries of splits: `case_hashes` and `patient_hashes` by split.

    Args:
        splits: split -> case ids; whatever is no list (a file's sha256) is left out.

    Returns:
        of each split the hashes with blanks between them. Patients who are called as their case are left out.
    """
    lists = {split: ids for split, ids in splits.items() if not isinstance(ids, str)}
    patients = {
        split: {_patient_of(case_id) for case_id in ids} - {case_names.spelt_alike(case_id) for case_id in ids}
        for split, ids in lists.items()
    }
    return {
        _CASES: {split: " ".join(map(_hash, ids)) for split, ids in lists.items()},
        _PATIENTS: {split: " ".join(sorted(map(_hash, names))) for split, names in patients.items()},
    }


def together(*training_data: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What a card carries of a model that went on from another: the cases of both, each as `hashes_of`.

    Args:
        training_data: `hashes_of` of each, or a card's; what carries no cases adds none.
    """
    joined: dict[str, dict[str, str]] = {_CASES: {}, _PATIENTS: {}}
    for name, of_splits in joined.items():
        for data in training_data:
            for split, text in data.get(name, {}).items():
                known = of_splits.get(split, "").split()
                of_splits[split] = " ".join(dict.fromkeys([*known, *text.split()]))
    return joined


def hashes_of_run(
    splits: Mapping[str, Sequence[str]], begun_from: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """`hashes_of` a run: of its splits, and of what it began from (begun_from.json)."""
    own = hashes_of(splits)
    return together(own, begun_from["seen"]) if begun_from else own


def union_of(runs: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Splits of a model of several runs: each case in the first of train, validation, test where any has it.

    Args:
        runs: split -> case ids of each; whatever is no list is left out.
    """
    union: dict[str, list[str]] = {}
    taken: set[str] = set()
    for split in ("train", "validation", "test"):
        ids = dict.fromkeys(case_id for splits in runs for case_id in splits.get(split, ()))
        union[split] = [case_id for case_id in ids if case_id not in taken]
        taken.update(ids)
    return union


def not_trained_on(of_run: Mapping[str, Any], case_ids: Iterable[str]) -> dict[str, dict[str, str]]:
    """What a model's card tells of one of several runs: which cases did not train it, nor did their patients.

    Args:
        of_run: `hashes_of` the run's splits, or `together` with those of what it began from.
        case_ids: of all runs.

    Returns:
        {"not_trained_on": {"validation": hashes of those that chose its checkpoint, "unseen": of the others}}.
    """
    kinds = kinds_of(of_run, case_ids) or {}
    groups = {"validation": ("validation", "validation_patient"), "unseen": ("test", "unseen")}
    return {
        _NOT_TRAINED_ON: {
            group: " ".join(_hash(case_id) for case_id, kind in kinds.items() if kind in members)
            for group, members in groups.items()
        }
    }


def runs_without(training_data: Mapping[str, Any], case_ids: Iterable[str]) -> dict[str, list[str]]:
    """Case id -> names of a model's runs that were not trained on the case; of a model of one run {}.

    A case that no run knows is left out: none was trained on it.
    """
    of_splits = (training_data.get(_CASES) or {}).items()
    known = {one for split, text in of_splits if split != "tuned" for one in text.split()}
    by_run = {
        run["name"]: set(" ".join(run[_NOT_TRAINED_ON].values()).split())
        for run in training_data.get("runs", ())
    }
    return {
        case_id: [name for name, hashes in by_run.items() if digest in hashes]
        for case_id in case_ids
        if by_run and (digest := _hash(case_id)) in known
    }


def kinds_of(training_data: Mapping[str, Any], case_ids: Iterable[str]) -> dict[str, str] | None:
    """Case id -> one of `KINDS`; None where the card does not carry its cases.

    Args:
        training_data: of a model's card, or `hashes_of` of its splits.
    """
    try:
        cases, patients = (
            {split: set(text.split()) for split, text in training_data[name].items()}
            for name in (_CASES, _PATIENTS)
        )
    except (KeyError, AttributeError, TypeError):  # an older version's, or another program's
        return None
    return {case_id: _kind(case_id, cases, patients) for case_id in case_ids}


def _kind(case_id: str, cases: Mapping[str, set[str]], patients: Mapping[str, set[str]]) -> str:
    own, patient = _hash(case_id), _hash(_patient_of(case_id))
    for split in _KNOWN_SPLITS:
        if own in cases.get(split, ()):
            return split
    for split in _KNOWN_SPLITS:
        if patient in patients.get(split, ()) or patient in cases.get(split, ()):
            return f"{split}_patient"
    return next((split for split in ("fold", "test") if own in cases.get(split, ())), "unseen")


def by_kind(kinds: Mapping[str, str]) -> dict[str, list[str]]:
    """Kind -> its case ids, in the order of `KINDS`; kinds without a case are left out."""
    lists = {kind: [case_id for case_id, its in kinds.items() if its == kind] for kind in KINDS}
    return {kind: ids for kind, ids in lists.items() if ids}


def number_seen(cases: Mapping[str, Sequence[str]]) -> int:
    """How many of `by_kind`'s cases the model knows."""
    return sum(len(ids) for kind, ids in cases.items() if kind in KNOWN_TO_THE_MODEL)


def others(cases: Mapping[str, Sequence[str]]) -> list[str]:
    """Those that the model does not know."""
    return [case_id for kind, ids in cases.items() if kind not in KNOWN_TO_THE_MODEL for case_id in ids]


def listed(cases: Mapping[str, Sequence[str]], kinds: Sequence[str] = KINDS) -> str:
    """E.g. "3 trained the model, 2 chose its checkpoint, 1 is of its test split"."""
    texts = []
    for kind in (kind for kind in kinds if kind in cases):
        ids = cases[kind]
        tells = any(case_names.edition_by_id(case_id) is not None for case_id in ids)
        words = _WORDS[kind] if tells else _NAMESAKES.get(kind, _WORDS[kind])
        texts.append(f"{len(ids)} {words[len(ids) > 1]}")
    return ", ".join(texts)


def other_names(trained_on: Iterable[str], case_ids: Iterable[str]) -> list[str]:
    """Data sets by whose names patients of these cases may have been seen, though no id tells it.

    Args:
        trained_on: editions of the model's training cases.
        case_ids: of cases that it has not seen by their names.

    Returns:
        ["BraTS 2020", "BraTS 2021 and later"]: the model's and the cases'; empty if both have one way of names.
    """
    ways_of_model = {way for edition in trained_on if (way := _way_of(edition, is_of_a_card=True))}
    schemas = (case_names.edition_by_id(case_id) for case_id in case_ids)
    ways_of_cases = {way for schema in schemas if schema is not None and (way := _way_of(schema.edition))}
    for of_model in sorted(ways_of_model):
        for of_cases in sorted(ways_of_cases - ways_of_model):
            if _UCSF not in (of_model, of_cases) or _LATER in (of_model, of_cases):
                return [of_model, of_cases]
    return []


def _way_of(edition: str, is_of_a_card: bool = False) -> str | None:
    """The way of naming that an edition has; None for one whose patients are no other edition's."""
    # A model of 2024 to 2026 was trained on 2023's cases too; ids that tell 2024 are of other patients.
    if is_of_a_card and edition in ("2024", "2025", "2026"):
        return _LATER
    return next((way for way, editions in _WAYS.items() if edition in editions), None)


def has_test(training_data: Mapping[str, Any]) -> bool:
    """Whether the model's own split kept cases apart; those of a model before it do not count."""
    own = training_data.get("cases")
    if isinstance(own, Mapping) and own:
        return bool(own.get("test"))
    return bool((training_data.get(_CASES) or {}).get("test"))
