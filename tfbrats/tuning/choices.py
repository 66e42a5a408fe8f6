"""What was chosen for a model on validation cases, beside its weights: `Tuned`, and its JSON both ways.

All defaults together are the plain model, which answers as the papers' networks say. What each choice does to
an answer, and in which order, stands in `rules`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tfbrats.errors import InputError
from tfbrats.labels import CHILD, REGIONS

_ALL = ", ".join(REGIONS)
_MOST_OFFSET = 80  # exp of 89 is beyond float32
_MOST_VOXELS = 2**31 - 1  # the graph counts in int32


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Which pieces of a region stay, pieces being its 26-connected components. One of the four is set.

    Attributes:
        least_voxels: a piece of fewer goes.
        least_highest: a piece goes whose highest probability of the region is lower.
        largest_alone: all but the largest go; of equally large ones the first in C order stays.
        most_inner_alone: all but one go: that with most voxels of the region inside (`labels.CHILD`), TC in WT
            and ET in TC. Of those with equally many, and of ET, the largest stays.
    """

    least_voxels: int = 0
    least_highest: float = 0.0
    largest_alone: bool = False
    most_inner_alone: bool = False

    def __post_init__(self):
        _check_whole("least_voxels", self.least_voxels)
        _check_number("least_highest", self.least_highest)
        _check_bool("largest_alone", self.largest_alone)
        _check_bool("most_inner_alone", self.most_inner_alone)
        levels, alone = (self.least_voxels, self.least_highest), (self.largest_alone, self.most_inner_alone)
        if sum(level > 0 for level in levels) + sum(alone) != 1:
            raise InputError(
                f"a rule of pieces sets one of {', '.join(_names(Pieces))}; found {_short(self) or 'none'}."
            )
        if not 0 <= self.least_highest < 1:
            raise InputError(f"least_highest is {self.least_highest}; expected a probability below 1.")

    def to_json(self) -> dict[str, Any]:
        return _short(self)

    @property
    def keeps_one(self) -> bool:
        """Whether one piece stays, whatever there is."""
        return self.largest_alone or self.most_inner_alone

    def text(self, region: str) -> str:
        """E.g. "pieces of fewer than 100 voxels removed"."""
        if self.most_inner_alone and CHILD[region]:
            return f"all pieces but the one with the most {CHILD[region]} removed"
        if self.keeps_one:
            return "all pieces but the largest removed"
        if self.least_voxels:
            return f"pieces of fewer than {self.least_voxels} voxels removed"
        return f"pieces whose highest probability is under {self.least_highest:g} removed"


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was chosen for a model.

    Attributes:
        offset: is added to the log odds of tumour; paper A.
        veto: no tumour where branch 2 takes non-tumour for likeliest; `cun` alone, which has branches.
        thresholds: region -> from which probability on a voxel is of it; paper B. A region that is not named
            has `cascade.threshold`.
        floor: where a region's probability reaches it, the next stage of the cascade looks; None:
            `cascade.threshold`. Below `thresholds`, else what lies between them has none of the next region.
        pieces: region -> which of its pieces stay.
        filled: regions whose holes are filled.
        least_et_voxels: if a case has fewer of ET, they become NCR.
        flips: the networks' answers are averaged over mirrored inputs.

    Voxels are the case's own: the graph knows no spacing.
    """

    offset: float = 0.0
    veto: bool = False
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    floor: float | None = None
    pieces: Mapping[str, Pieces] = dataclasses.field(default_factory=dict)
    filled: tuple[str, ...] = ()
    least_et_voxels: int = 0
    flips: bool = False

    def __post_init__(self):
        _check_number("offset", self.offset)
        if abs(self.offset) > _MOST_OFFSET:
            raise InputError(f"offset is {self.offset}; expected {-_MOST_OFFSET} to {_MOST_OFFSET}.")
        _check_bool("veto", self.veto)
        _check_bool("flips", self.flips)
        _check_whole("least_et_voxels", self.least_et_voxels)
        for name in ("thresholds", "pieces", "filled"):
            if unknown := [region for region in getattr(self, name) if region not in REGIONS]:
                raise InputError(f"{name}: no region {', '.join(map(str, unknown))}; there are {_ALL}.")
        if len(set(self.filled)) < len(self.filled):
            raise InputError(f"filled names a region twice: {', '.join(self.filled)}.")
        levels = {f"thresholds: {region}": level for region, level in self.thresholds.items()}
        for name, level in {**levels, **({} if self.floor is None else {"floor": self.floor})}.items():
            _check_number(name, level)
            if not 0 < level < 1:
                raise InputError(f"{name} is {level}; expected a probability between 0 and 1.")
        for region, rule in self.pieces.items():
            if not isinstance(rule, Pieces):
                raise InputError(f"pieces: {region} is {rule!r}; expected a rule of pieces.")

    @property
    def is_plain(self) -> bool:
        """Whether nothing was chosen."""
        return self == PLAIN

    def in_cascade(self, threshold: float) -> "Tuned":
        """The same with every threshold and the floor named.

        Args:
            threshold: `cascade.threshold`.
        """
        levels = {region: self.thresholds.get(region, threshold) for region in REGIONS}
        floor = threshold if self.floor is None else self.floor
        return dataclasses.replace(self, thresholds=levels, floor=floor)

    def check_fits(self, evidence: str, where: str) -> None:
        """Raises InputError if something is chosen that a model does not have.

        Args:
            evidence: which the model gives, one of `rules.KINDS`.
            where: the choices are from.
        """
        without = {
            "branches": ("thresholds", "floor"),
            "classes": ("thresholds", "floor", "veto"),
            "regions": ("offset", "veto"),
        }[evidence]
        if found := [name for name in without if name in self.to_json()]:
            raise InputError(
                f"{where}: {', '.join(found)} chosen, which a model with evidence of {evidence} does not "
                "have. Choose them for this model anew, or export it with --plain."
            )

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the plain model; {} for that."""
        content = _short(self)
        for name in ("thresholds", "pieces"):
            if name in content:
                content[name] = {region: content[name][region] for region in REGIONS if region in content[name]}
        if self.pieces:
            content["pieces"] = {region: rule.to_json() for region, rule in content["pieces"].items()}
        if self.filled:
            content["filled"] = list(self.filled)
        return content

    @classmethod
    def from_json(cls, content: Any, where: str) -> "Tuned":
        """The inverse of `to_json`.

        Args:
            where: the content is from, named in errors.

        Raises:
            InputError: a name or value that is none of these choices.
        """
        try:
            known = dict(_mapping(content, "the choices", _names(cls)))
            if "thresholds" in known:
                known["thresholds"] = dict(_mapping(known["thresholds"], "thresholds", REGIONS))
            if "pieces" in known:
                rules = _mapping(known["pieces"], "pieces", REGIONS)
                known["pieces"] = {
                    region: Pieces(**_mapping(rule, f"pieces: {region}", _names(Pieces)))
                    for region, rule in rules.items()
                }
            if "filled" in known:
                if not isinstance(known["filled"], list):
                    raise InputError(f"filled is {known['filled']!r}; expected a list of regions.")
                if strange := [one for one in known["filled"] if not isinstance(one, str)]:
                    raise InputError(f"filled holds {strange[0]!r}; expected names of regions.")
                known["filled"] = tuple(known["filled"])
            return cls(**known)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    @property
    def lines(self) -> list[str]:
        """What was chosen, a line each, in the order in which it acts; none for the plain model."""
        lines = []
        if self.flips:
            lines.append("answers averaged over mirrored inputs")
        if self.offset:
            lines.append(f"{self.offset:+.3g} on the log odds of tumour")
        if self.veto:
            lines.append("no tumour where branch 2 takes non-tumour for likeliest")
        lines += [f"{region} from probability {level:g} on" for region, level in self.thresholds.items()]
        if self.floor is not None:
            lines.append(f"stages look where the probability above them reaches {self.floor:g}")
        for region in REGIONS:
            if region in self.pieces:
                lines.append(f"{region}: {self.pieces[region].text(region)}")
            if region in self.filled:
                lines.append(f"{region}: holes filled")
        if self.least_et_voxels:
            lines.append(f"ET of fewer than {self.least_et_voxels} voxels becomes NCR")
        return lines


def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _short(choices: Tuned | Pieces) -> dict[str, Any]:
    """What differs from the defaults, by name."""
    content = {}
    for field in dataclasses.fields(choices):
        value = getattr(choices, field.name)
        usual = field.default if field.default is not dataclasses.MISSING else {}
        if value != usual:
            content[field.name] = value
    return content


def _mapping(content: Any, name: str, known: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise InputError(f"{name}: expected a mapping with {', '.join(known)}; found {content!r}.")
    if unknown := [key for key in content if key not in known]:
        raise InputError(f"{name}: unknown {', '.join(map(str, unknown))}; there are {', '.join(known)}.")
    return content


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}; expected true or false.")


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_VOXELS:
        raise InputError(f"{name} is {value!r}; expected a whole number from 0 to {_MOST_VOXELS}.")


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; expected a number.")


PLAIN = Tuned()
