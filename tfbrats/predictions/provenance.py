"""Where a segmentation comes from, as a JSON file beside it: model, its data, inputs. No TensorFlow.

The same case segmented by the same model has the same file, whoever asked for it: `predict`, the client, or the
Beam job; where a server was asked, but for the request's id, by which its log knows the call. It holds no times
and no paths. When a segmentation is replaced, its old file is removed. Another
file of that name is refused before work begins, and never touched.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from tfbrats import __version__
from tfbrats.datasets import references
from tfbrats.datasets.layouts import CaseFiles
from tfbrats.dicom.segmentation_object import Algorithm
from tfbrats.errors import InputError
from tfbrats.machine import files
from tfbrats.predictions import model_card
from tfbrats.predictions.model_card import ModelCard

FORMAT = 1
PAGE_MARK = b'<meta name="generator" content="tfbrats view">'  # stands at the beginning of the viewer's pages
_PAGE_BEGINS = 1024  # bytes


def path_of(segmentation: str | os.PathLike) -> str:
    """CASE.json for CASE.nii.gz or CASE.nii."""
    folder, name = files.parent(segmentation), files.name(segmentation)
    stem = name.removesuffix(".gz").removesuffix(".nii")
    return files.join(folder, f"{stem}.json") if folder else f"{stem}.json"


def sha256(path: str | os.PathLike) -> str:
    """Of a file's bytes, hexadecimal. Errors as `files.read_chunks`."""
    digest = hashlib.sha256()
    for piece in files.read_chunks(path):
        digest.update(piece)
    return digest.hexdigest()


def _config_sha256(card: ModelCard) -> str | None:
    """Of the config's values, in whatever order they stand; None for a model that tells no config."""
    config = card.training_data.get("config")
    if not config:
        return None
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def describe(
    card: ModelCard,
    entry: CaseFiles,
    segmentation: str | os.PathLike,
    notes: Sequence[str] = (),
    request_id: str | None = None,
) -> dict[str, Any]:
    """What is known of a segmentation that has been written.

    Args:
        card: of the model that made it.
        entry: the case's files, as they were read.
        segmentation: the file.
        notes: guesses that were made in reading the case, and what the model was not trained on.
        request_id: by which a server was asked.

    Raises:
        InputError: one of these files cannot be read.
    """
    images = sorted(image for image in entry.images if image[0] in card.modalities)
    sums = {path: sha256(path) for path in {path for _, path, _ in images}}
    return {
        "format": FORMAT,
        "case_id": entry.case_id,
        "segmentation": {"file": files.name(segmentation), "sha256": sha256(segmentation)},
        "labels": entry.schema.to_json(),
        "model": {
            "name": card.name,
            "version": card.version,
            "tfbrats_json_sha256": hashlib.sha256(card.to_file()).hexdigest(),
            "records_sha256": card.training_data.get("records_sha256"),
            "config_sha256": _config_sha256(card),
            "exported_by": f"tfbrats {card.tfbrats_version}",
        },
        "inputs": [
            {"modality": modality, "file": files.name(path), "sha256": sums[path]}
            | ({} if channel is None else {"channel": channel})
            for modality, path, channel in images
        ],
        **({"notes": list(notes)} if notes else {}),
        **({"request_id": request_id} if request_id else {}),
        "written_by": f"tfbrats {__version__}",
        "intended_use": card.intended_use,
    }


def algorithm(card: ModelCard) -> Algorithm:
    """What a DICOM-SEG says of the model that made it."""
    n4 = ", ".join(card.n4.modalities) or "none"
    parameters = {
        "tfbrats_json_sha256": hashlib.sha256(card.to_file()).hexdigest(),
        "records_sha256": card.training_data.get("records_sha256"),
        "config_sha256": _config_sha256(card),
        "modalities": ", ".join(card.modalities),
        "spacing_mm": " x ".join(f"{side:g}" for side in card.spacing_mm),
        "n4": f"{n4} by {card.n4.method}" if card.n4.modalities else n4,
        "normalisation": card.normalisation,
        "averaged": card.averaged and card.averaged.text,
        "tuned": card.tuned and card.tuned.text,
        "intended_use": card.intended_use,
    }
    return Algorithm(
        card.name,
        str(card.version),
        f"tfbrats {card.tfbrats_version}",
        {name: str(value) for name, value in parameters.items() if value},
    )


def check(segmentations: Iterable[str | os.PathLike]) -> None:
    """Looks, before work begins, whether each of these may get a file beside it.

    Raises:
        InputError: there lies another file of that name, or the model's card would have to.
    """
    for segmentation in segmentations:
        path = path_of(segmentation)
        if files.name(path) == model_card.FILE:
            raise InputError(
                f"{path}: the file beside {files.name(segmentation)} would have the name of a model's card. "
                "Give the segmentation another name, or leave --provenance out."
            )
        if files.exists(path) and not _is_ours(path):
            raise InputError(
                f"{path}: there already, and not written by --provenance. Move it, choose another --output, or "
                "leave --provenance out."
            )


def _is_ours(path: str) -> bool:
    try:
        content = files.read_json(path)
    except InputError:  # not JSON, or gone meanwhile
        return False
    return references.is_own_record(content)


def write(
    card: ModelCard,
    entry: CaseFiles,
    segmentation: str | os.PathLike,
    notes: Sequence[str] = (),
    request_id: str | None = None,
) -> str:
    """Writes the file beside a segmentation; returns its path. Errors as `check` and `describe`."""
    check([segmentation])
    path = path_of(segmentation)
    files.write_json(path, describe(card, entry, segmentation, notes, request_id))
    return path


def page_of(segmentation: str | os.PathLike) -> str:
    """CASE.html for CASE.nii.gz: the page that shows it (the wing `viewer`)."""
    return f"{path_of(segmentation).removesuffix('.json')}.html"


def drop(segmentation: str | os.PathLike) -> None:
    """Removes what lies beside a segmentation that is about to be replaced, its page too; only what is ours."""
    path, page = path_of(segmentation), page_of(segmentation)
    if files.exists(path) and _is_ours(path):
        files.remove(path)
    if files.exists(page) and PAGE_MARK in next(files.read_chunks(page, _PAGE_BEGINS), b""):
        files.remove(page)
