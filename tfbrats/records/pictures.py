"""Stored slices and patches as one picture: what a network is shown, modality by modality, and its label.

Examples are spread evenly over a split, never picked by hand. Intensities are z-scores in one fixed window, so
that panels can be compared.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tfbrats.cases import overlays
from tfbrats.labels import LwsRegion
from tfbrats.machine import files
from tfbrats.records.manifest import Manifest, Shard
from tfbrats.records.reading import check_case, placed, spacings_mm, stored
from tfbrats.records.to_nifti import Written

_WINDOW = (-2.5, 4.0)  # z-scores shown from black to white; enhancing tumour reaches 4 and more
_PANEL_INCHES = 2.0
_DPI = 110
_SHOWN_FIRST = ("flair", "t1ce")  # under the label


def spread(count: int, number: int) -> list[int]:
    """`number` of `count` places, each in the middle of an equal piece; all where there are no more."""
    pieces = min(count, number)
    return [(2 * piece + 1) * count // (2 * pieces) for piece in range(pieces)]


def _grey(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """z-scores [i, j] -> 0 to 1, black outside the brain."""
    low, high = _WINDOW
    return np.where(brain, np.clip((image.astype(np.float32) - low) / (high - low), 0.03, 1), 0)


def panels(
    example: Mapping[str, Any], modalities: Sequence[str], spacing_mm: Sequence[float]
) -> dict[str, np.ndarray]:
    """Title -> uint8 [rows, columns, 3], axial, front on top; of a patch the middle plane."""
    is_patch = "x1" in example
    at = example["label"].shape[2] // 2 if is_patch else None
    image = example["x1"][:, :, at] if is_patch else example["image"]
    label = example["label"][:, :, at] if is_patch else example["label"]
    pixel_mm = (spacing_mm[1], spacing_mm[0])  # rows lie along j, columns along i
    brain = (image != 0).any(axis=-1)
    nothing = np.zeros_like(label)

    def drawn(values, inside, tissues):
        return overlays.overlay(_grey(values, inside).T, tissues.T, pixel_mm)

    under = next((name for name in _SHOWN_FIRST if name in modalities), modalities[0])
    m = modalities.index(under)
    pictures = {name: drawn(image[..., n], brain, nothing) for n, name in enumerate(modalities)}
    pictures[f"{under}, label"] = drawn(image[..., m], brain, label)
    if is_patch:
        half = example["half"][:, :, at]
        pictures[f"{under}, x0.5"] = drawn(half[..., m], (half != 0).any(axis=-1), nothing)
    else:
        regions = overlays.lws_picture(example["region"].T)
        pictures["regions S1 to S4"] = overlays.enlarged(regions, pixel_mm)
    return pictures


def _name(example: Mapping[str, Any]) -> str:
    if "slice_k" in example:
        return f"{example['case_id']}\nk = {example['slice_k']}"
    return f"{example['case_id']}\ncentre {' '.join(map(str, example['centre_ijk'].tolist()))}"


@overlays.own_style()
def sheet(
    title: str,
    examples: Sequence[Mapping[str, Any]],
    modalities: Sequence[str],
    spacings_mm: Mapping[str, Sequence[float]],
) -> bytes:
    """A PNG file: a row for each example, a column for each modality, the label and the rest of it.

    Args:
        examples: of `schema.SLICES` or `schema.PATCHES`, at least one.
        spacings_mm: by case id, along i, j, k.
    """
    rows = [panels(example, modalities, spacings_mm[example["case_id"]]) for example in examples]
    columns = list(rows[0])
    figure = Figure(
        figsize=(_PANEL_INCHES * len(columns) + 0.4, (_PANEL_INCHES + 0.1) * len(rows) + 1.0),
        dpi=_DPI,
        layout="constrained",
    )
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for place, name in zip(axes[0], columns, strict=True):
        place.set_title(name, fontsize=9)
    for line, row, example in zip(axes, rows, examples, strict=True):
        for place, picture in zip(line, row.values(), strict=True):
            place.imshow(picture)
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
        line[0].set_ylabel(_name(example), fontsize=7)
    figure.suptitle(title, fontsize=10)
    keys = _keys(examples)
    if keys:
        figure.legend(
            handles=[Patch(facecolor=colour, edgecolor="#888888", label=text) for colour, text in keys],
            loc="outside lower center",
            ncols=3,
            fontsize=7,
            frameon=False,
        )
    buffer = io.BytesIO()
    # PNG's metadata names the library's version: left out, the same records give the same picture.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _keys(examples: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(colour, name) of each tissue that is shown; of slices also of the regions of loss weighted sampling."""
    values = {int(value) for example in examples for value in np.unique(example["label"])}
    keys = [(overlays.COLOURS[t], overlays.NAMES[t]) for t in overlays.COLOURS if int(t) in values]
    if "slice_k" in examples[0]:
        keys += [(overlays.LWS_COLOURS[region], overlays.LWS_NAMES[region]) for region in LwsRegion]
    return keys


# --- which, and where to --------------------------------------------------------------------------------

Places = list[tuple[Shard, list[int]]]  # records of each shard


def _groups(manifest: Manifest, case_ids: Sequence[str] | None) -> Iterator[tuple[str, str, Places]]:
    """(file name without ending, title, records) of each picture: a split or case, of each region apart."""
    for what in case_ids or manifest.examples:
        for region in manifest.regions or ("",):
            places: Places = []
            for shard in manifest.shards:
                if shard.region not in ("", region):
                    continue
                numbers = [
                    number
                    for first, row in placed(shard)
                    if what == (row.case_id if case_ids else shard.split)
                    for number in range(first, first + row.examples)
                ]
                places.append((shard, numbers))
            if any(numbers for _, numbers in places):
                name = "-".join(filter(None, (what, region.lower())))
                yield name, f"{what}{f', patches for {region}' if region else ''}", places


def _chosen(places: Places, number: int) -> Places:
    """`number` of these records, spread evenly over all; shards without any are left out."""
    records = [(place, record) for place, (_, numbers) in enumerate(places) for record in numbers]
    picked = [records[at] for at in spread(len(records), number)]
    chosen = [
        (shard, [record for at, record in picked if at == place]) for place, (shard, _) in enumerate(places)
    ]
    return [(shard, numbers) for shard, numbers in chosen if numbers]


def write(
    folder: str | os.PathLike,
    manifest: Manifest,
    output: str | os.PathLike,
    number: int,
    case_ids: Sequence[str] | None = None,
    overwrite: bool = False,
    seen: Callable[[str, bool], None] = lambda path, drawn: None,
) -> None:
    """Draws a picture of each split, or of each named case; of patches one for each region.

    Args:
        number: of examples in a picture, at most.
        overwrite: draw again what is there already.
        seen: called with each file, and whether it was drawn now.

    Raises:
        InputError: no such case; a damaged record; an output that holds what this command did not write.
    """
    for case_id in case_ids or ():
        check_case(manifest, folder, case_id)
    written = Written(output)
    spacings = spacings_mm(manifest)
    for name, what, places in _groups(manifest, case_ids):
        chosen = _chosen(places, number)
        content = str([(shard.file, shard.crc32c, numbers) for shard, numbers in chosen])
        source = hashlib.sha256(content.encode()).hexdigest()
        path = files.join(output, f"{name}.png")
        if written.is_done(name, source, [path], overwrite):
            seen(path, False)
            continue
        examples = [
            record.example
            for shard, numbers in chosen
            for record in stored(manifest, folder, shard, numbers=frozenset(numbers))
        ]
        count = sum(len(numbers) for _, numbers in places)
        window = f"z-scores from {_WINDOW[0]:g} to {_WINDOW[1]:g}"
        title = f"{what}: {len(examples)} of {count} {manifest.kind}, {window}"
        picture = sheet(title, examples, manifest.modalities, spacings)
        written.begin(name, source, [path])
        files.write_bytes(path, picture)
        seen(path, True)
