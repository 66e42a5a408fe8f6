"""The scores of one segmentation as an object: by region, and as a small table."""

import dataclasses
import math
from collections.abc import Iterator

from tfbrats.errors import InputError
from tfbrats.labels import REGIONS
from tfbrats.metrics.region_scores import RegionScores
from tfbrats.terminal.wording import columns

_HEAD = ("region", "Dice", "HD95 mm", "sensitivity", "specificity", "volume ml", "reference ml")
_LAYOUT = ("<", *("  >",) * (len(_HEAD) - 1), "  <")


@dataclasses.dataclass(frozen=True, repr=False)
class Scores:
    """How good a segmentation is, by region: `scores["WT"].dice`, `scores.ET.hd95_mm`; printed, a table.

    Each region is a `RegionScores`: dice, sensitivity, specificity, hd95_mm, hausdorff_mm, nsd_1mm, volume_ml,
    reference_volume_ml, and `empty`, which side lacks it.
    """

    WT: RegionScores
    TC: RegionScores
    ET: RegionScores

    def __getitem__(self, region: str) -> RegionScores:
        if region not in REGIONS:
            raise InputError(f"no region {region!r}: scores are of {', '.join(REGIONS)}.")
        scores: RegionScores = getattr(self, region)
        return scores

    def __iter__(self) -> Iterator[RegionScores]:
        return iter((self.WT, self.TC, self.ET))

    def __repr__(self) -> str:
        return "\n".join(line.rstrip() for line in columns([_HEAD, *map(_cells, self)], _LAYOUT))


def _cells(row: RegionScores) -> list[str]:
    shares = [f"{value:.3f}" for value in (row.dice, row.sensitivity, row.specificity)]
    volumes = [f"{value:.1f}" for value in (row.volume_ml, row.reference_volume_ml)]
    distance = "undefined" if math.isnan(row.hd95_mm) else f"{row.hd95_mm:.1f}"
    absent = {"": "", "both": "absent from both"}.get(row.empty, f"absent from the {row.empty}")
    return [row.region, shares[0], distance, *shares[1:], *volumes, absent]
