"""Cases under a dataset.json: the Medical Segmentation Decathlon's Task01, and nnU-Net's raw data sets.

Channels and labels are read by their names in it, not by their places. Opens no image.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tfbrats.datasets.label_names import schema_of_table
from tfbrats.datasets.scan_names import Group, Leftovers, nifti_stem
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, LabelSchema, modality_named
from tfbrats.machine import files
from tfbrats.terminal.wording import counted

MSD = "MSD Task01: imagesTr/CASE.nii.gz (4-D), labelsTr/CASE.nii.gz, dataset.json"
NNUNET = "nnU-Net raw: imagesTr/CASE_0000.nii.gz ..., labelsTr/CASE.nii.gz, dataset.json"
TABLE = "dataset.json"
_TEST = "imagesTs"
_PARTS = {"imagesTr": "labelsTr", _TEST: "labelsTs"}  # the folder of scans -> that of their masks
_READ = "read as those in labelsTr are; to keep the cases out of training, deal out with --splits FILE"
_CHANNEL = re.compile(r"(.+)_(\d{4})")  # of nnU-Net's files
_Channels = dict[int | None, list[str]]  # channel, None for all in one 4-D file -> paths of a case's scans


def tables(listing: Sequence[str], niftis: Sequence[str]) -> list[str]:
    """The folders that are such a data set."""
    with_table = {files.parent(path) for path in listing if files.name(path) == TABLE}
    return sorted(t for t in with_table if any(path.startswith(f"{t}/imagesTr/") for path in niftis))


def is_scan(path: str) -> bool:
    """Whether a file's name is that of one channel of a case: imagesTr/CASE_0000.nii.gz."""
    folder = files.name(files.parent(path))
    return folder in _PARTS and bool(_CHANNEL.fullmatch(nifti_stem(path)))


def _contents(table: str, edition: str | None) -> tuple[dict[int, str], LabelSchema | None]:
    """Channel -> modality, and what the label names state.

    That is None where they are not understood, but an edition is given.
    """
    where = files.join(table, TABLE)
    content = files.read_json(where)
    content = content if isinstance(content, dict) else {}
    channels = content.get("channel_names") or content.get("modality")
    labels = content.get("labels")
    if not isinstance(channels, dict) or not isinstance(labels, dict):
        raise InputError(f"{where}: expected the entries channel_names (or modality) and labels.")
    modalities = {}
    for number, text in channels.items():
        if not str(number).isdigit():
            raise InputError(f"{where}: channel {number!r}; expected a whole number, with its modality's name.")
        if modality_named(str(text)) is None:
            raise InputError(f"{where}: channel {number} is {text!r}; expected one of {MODALITIES}.")
        modalities[int(number)] = modality_named(str(text))
    try:
        return modalities, schema_of_table(labels, where)
    except InputError:
        if edition is None:
            raise
        return modalities, None


def read(table: str, niftis: Sequence[str], edition: str | None, leftovers: Leftovers) -> list[Group]:
    """The cases of one such data set.

    Args:
        niftis: the files under it.
        edition: given by hand; then label names need not be understood.

    Raises:
        InputError: the table does not say what a channel or a label is.
    """
    modalities, schema = _contents(table, edition)
    scans, masks = _scans_and_masks(table, niftis, leftovers)
    groups = []
    for (part, case_id), by_channel in sorted(scans.items()):
        group = _group(table, case_id, by_channel, modalities, schema)
        group.is_test = part == _TEST
        _give_mask(group, masks[_PARTS[part]])
        if group.schema is not None and group.schema.ignored is not None:
            leftovers.add(
                files.join(table, TABLE),
                f"value {group.schema.ignored} is called ignore: a mask that holds it is refused",
            )
        groups.append(group)
    for part, unused in masks.items():
        for path in itertools.chain.from_iterable(unused.values()):
            leftovers.add(path, f"no scan in {part.replace('labels', 'images')} has its name, left out")
    drawn = sum(group.is_test and bool(group.masks) for group in groups)
    if drawn:
        leftovers.add(files.join(table, "labelsTs"), f"masks of {counted(drawn, 'case')} in imagesTs, {_READ}")
    return groups


def _scans_and_masks(
    table: str, niftis: Sequence[str], leftovers: Leftovers
) -> tuple[dict[tuple[str, str], _Channels], dict[str, dict[str, list[str]]]]:
    """(Folder, case id) -> its scans, and folder -> case id -> its masks: more than one is a problem."""
    scans: dict[tuple[str, str], _Channels] = defaultdict(lambda: defaultdict(list))
    masks: dict[str, dict[str, list[str]]] = {part: {} for part in _PARTS.values()}
    for path in niftis:
        part = path.removeprefix(f"{table}/").split("/")[0]
        stem = nifti_stem(path)
        channel = _CHANNEL.fullmatch(stem)
        if part in masks:
            masks[part].setdefault(stem, []).append(path)
        elif part not in _PARTS:
            leftovers.add(path, "not in imagesTr, imagesTs, labelsTr or labelsTs, left out")
        elif channel:
            scans[part, channel.group(1)][int(channel.group(2))].append(path)
        else:
            scans[part, stem][None].append(path)
    return scans, masks


def tables_of(scans: Iterable[tuple[str, str]]) -> set[str]:
    """The dataset.json that cases were read from, if any.

    Args:
        scans: layout and path of each scan.
    """
    folders = {
        re.sub(r"/imagesT[rs]/.*", "", files.canonical(path))
        for layout, path in scans
        if layout in (MSD, NNUNET)
    }
    return {files.join(folder, TABLE) for folder in folders}


def _group(
    table: str,
    case_id: str,
    by_channel: _Channels,
    modalities: Mapping[int, str],
    schema: LabelSchema | None,
) -> Group:
    """One case with its scans; the labels of a stacked one may be the Decathlon's."""
    stacked = None in by_channel  # one 4-D file: the Decathlon
    if stacked and schema is not None and schema.values == EDITIONS["msd"].values:
        schema = EDITIONS["msd"]
    group = Group(case_id, MSD if stacked else NNUNET, table, schema)
    for number, modality in modalities.items():
        if stacked or number in by_channel:
            channel = number if stacked else None
            paths = by_channel[None if stacked else number]
            group.scans[modality] += [(path, channel, ()) for path in paths]
    return group


def _give_mask(group: Group, masks: dict[str, list[str]]) -> None:
    """Moves a case's mask out of `masks` (by id) to the case; one in other letter case is told."""
    if group.case_id in masks:
        group.masks += masks.pop(group.case_id)
        return
    alike = [stem for stem in masks if stem.lower() == group.case_id.lower()]
    if len(alike) == 1:
        group.misnamed += masks.pop(alike[0])
        group.masks += group.misnamed
