"""Which series of a study is which scan: by description, contrast agent and sequence. A guess, and told."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfbrats.dicom import geometry, scan_words
from tfbrats.dicom.geometry import Geometry
from tfbrats.dicom.headers import PAGE, Series
from tfbrats.errors import InputError
from tfbrats.labels import MODALITIES

FLAGS = " ".join(f"--{modality} DIR" for modality in MODALITIES)
_CURE = f"name them all: {FLAGS} (DIR#5 is series 5 of a folder of several)"
_FEWEST_SLICES = 10  # of a scan of the head; a localizer has fewer
_NO_AGENT = ("", "NONE", "NO", "N", "0", "NO CONTRAST")
_DERIVED = ("ADC", "TRACEW", "FA", "PERFUSION", "DIFFUSION", "PROJECTION IMAGE", "MIP", "SUB", "SUBTRACTION")
_SHOWN = 8
_MOST_CHOICES = 10_000  # of a series for each scan; a study has two or three of a kind
# Milliseconds by which sequences are told apart at 1.5 and 3 T.
_LONG_ECHO, _SHORT_ECHO = 60, 35
_LONG_REPETITION, _SHORT_REPETITION = 1800, 1200
_OF_FLUID = 1500  # an inversion that nulls fluid; that of MPRAGE is about 1000
_OF_MPRAGE = 500, 1500


@dataclass(frozen=True, eq=False)
class Scan:
    """A series that is one of the four scans."""

    series: Series
    modality: str
    told_by: str


def scan_of(series: Series) -> Scan | None:
    """What a series is, and by what it is told; None for what is none of the four, or tells nothing."""
    header, description = series.first, series.description
    kinds = {str(word).upper() for word in header.get("ImageType") or ()}
    if scan_words.tells_another(description) or kinds & set(_DERIVED) or _number(header, "DiffusionBValue"):
        return None
    modality, told_by = scan_words.modality_in(description), "its description"
    if modality is None and (protocol := str(header.get("ProtocolName") or "")):
        modality, told_by = scan_words.modality_in(protocol), "its protocol's name"
    if modality is None:
        if scan_words.tells_native(description) and _has_agent(header):
            return None  # both with and without
        modality, told_by = _by_parameters(header), "its sequence"
    if modality == "t1" and _has_agent(header) and not scan_words.tells_native(description):
        return Scan(series, "t1ce", f"{told_by} and its contrast agent")
    return None if modality is None else Scan(series, modality, told_by)


def _has_agent(header: Any) -> bool:
    agent = str(header.get("ContrastBolusAgent") or "").strip().upper()
    return agent not in _NO_AGENT or bool(header.get("ContrastBolusAgentSequence"))


def _number(header: Any, keyword: str) -> float | None:
    """A number of the sequence, of a single-frame header or of an enhanced one's first frame."""
    value = header.get(keyword)
    if value in (None, ""):
        places = {
            "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
            "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
            "InversionTime": ("MRModifierSequence", "InversionTimes"),
            "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
        }
        macro, name = places[keyword]
        for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            items = header[groups].value[0].get(macro) if header.get(groups) else None
            if items and items[0].get(name) is not None:
                value = items[0].get(name)
                break
    if value in (None, ""):
        return None
    return float(value if isinstance(value, int | float | str) else value[0])


def _by_parameters(header: Any) -> str | None:
    echo, repetition, inversion = (
        _number(header, f"{name}Time") for name in ("Echo", "Repetition", "Inversion")
    )
    if echo is None or repetition is None:
        return None
    if echo >= _LONG_ECHO and repetition >= _LONG_REPETITION:
        return "flair" if inversion and inversion >= _OF_FLUID else None if inversion else "t2"
    least, most = _OF_MPRAGE
    is_t1 = repetition <= _SHORT_REPETITION or (inversion is not None and least <= inversion <= most)
    return "t1" if echo <= _SHORT_ECHO and is_t1 else None


# --- of a study -----------------------------------------------------------------------------------------


def chosen(series: Sequence[Series], root: str) -> tuple[dict[str, tuple[Series, Geometry]], str]:
    """Modality -> its series and where that lies; and a sentence that tells the guess.

    Where several series may be one scan, those are taken that lie on one grid, if there is one such choice.

    Raises:
        InputError: no choice, or several; or one whose planes make no volume.
    """
    candidates: dict[str, list[Scan]] = {}
    left: list[Series] = []
    for one in series:
        scan = scan_of(one) if one.is_mr and one.frame_count >= _FEWEST_SLICES else None
        if scan is None:
            left.append(one)
        else:
            candidates.setdefault(scan.modality, []).append(scan)
    if len(candidates) < 2:
        raise InputError(
            f"{root}: which series is which scan is not told: {_listed(candidates, left)}. N{_CURE[1:]}; "
            f"see {PAGE}."
        )
    scans, places = _one_of_each(candidates, left, root)
    taken = [scan.series for scan in scans.values()]
    others = [one for one in series if one not in taken]
    text = "; ".join(f"{name} is {scan.series.name}, by {scan.told_by}" for name, scan in scans.items())
    if others:
        text += f"; left out: {_names(others)}"
    return {name: (scan.series, places[name]) for name, scan in scans.items()}, f"{text}. If not so, {_CURE}"


def _one_of_each(
    candidates: Mapping[str, Sequence[Scan]], left: Sequence[Series], root: str
) -> tuple[dict[str, Scan], dict[str, Geometry]]:
    names = [name for name in MODALITIES if name in candidates]
    if all(len(candidates[name]) == 1 for name in names):
        scans = {name: candidates[name][0] for name in names}
        return scans, {name: geometry.of(scan.series) for name, scan in scans.items()}
    lying: dict[str, list[tuple[Scan, Geometry]]] = {}
    for name in names:
        for scan in candidates[name]:
            try:
                lying.setdefault(name, []).append((scan, geometry.of(scan.series)))
            except InputError:  # it is no volume, so that another is meant
                continue
    if math.prod(len(lying.get(name, ())) for name in names) > _MOST_CHOICES:
        raise InputError(
            f"{root}: {sum(map(len, lying.values()))} series may be one of the four scans, too many to try. "
            f"N{_CURE[1:]}; see {PAGE}."
        )
    choices = [
        choice
        for choice in itertools.product(*(lying.get(name, ()) for name in names))
        if all(not place.differences(choice[0][1]) for _, place in choice)
    ]
    if len(choices) != 1:
        doubled = "; ".join(
            f"{_names([scan.series for scan in candidates[name]], ' and ')} may each be {name}"
            for name in names
            if len(candidates[name]) > 1
        )
        grids = "no choice of them lies" if not choices else f"{len(choices)} choices of them lie"
        raise InputError(f"{root}: {doubled}, and {grids} on one grid. N{_CURE[1:]}; see {PAGE}.")
    scans = {name: scan for name, (scan, _) in zip(names, choices[0], strict=True)}
    return scans, {name: place for name, (_, place) in zip(names, choices[0], strict=True)}


def _listed(candidates: Mapping[str, Sequence[Scan]], left: Sequence[Series]) -> str:
    told = [f"{name} {_names([scan.series for scan in scans])}" for name, scans in candidates.items()]
    return "; ".join([*told, f"not understood {_names(left)}"] if left else told)


def _names(series: Sequence[Series], between: str = ", ") -> str:
    more = f" and {len(series) - _SHOWN} more" if len(series) > _SHOWN else ""
    return between.join(one.name for one in series[:_SHOWN]) + more
