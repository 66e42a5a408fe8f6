"""Our scores of one segmentation against MedPy, surface-distance and MONAI, measured in one run.

    pip install -e . medpy surface-distance monai
    python benchmarks/metrics.py --reference BraTS20_Training_001_seg.nii.gz --prediction PREDICTION.nii.gz
    python benchmarks/metrics.py --real FOLDER    # holds <case>_seg.nii.gz and <case>_pred_<model>.nii.gz

Each peer computes what it can, for WT, TC and ET, from the masks as they are in the image; ours of the same
scores starts from the same masks. Our full score (`region_scores.score_case`: all scores of all regions, from
the label map) stands beside them. Rounds alternate between all of them, so that a busy moment of the machine
meets every one; a figure is the median over the rounds. CPU seconds sum over threads: they vary less than
wall seconds where other programs run.

The ratio is the peer's time over ours for the same scores: 10 means that ours takes a tenth. Peers are
imported only here; a missing one is named and left out. Regions that either side lacks are left out.
"""

import argparse
import importlib.metadata
import os
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfbrats.cases import case
from tfbrats.labels import EDITIONS, REGIONS, region_mask
from tfbrats.metrics import region_scores, surfaces

Masks = tuple[np.ndarray, np.ndarray]  # predicted, reference
Scores = dict[str, float]  # by name


@dataclass(frozen=True)
class Peer:
    """What another package computes of one region, and ours of the same."""

    package: str  # as pip knows it
    theirs: Callable[[Masks, Sequence[float]], Scores]
    ours: Callable[[Masks, Sequence[float]], Scores]


# --- MedPy: one call per score, both directions pooled ---------------------------------------------------


def _medpy() -> Peer:
    from medpy.metric import binary

    def theirs(masks: Masks, spacing_mm: Sequence[float]) -> Scores:
        return {
            "dice": binary.dc(*masks),
            "hd95_pooled_mm": binary.hd95(*masks, voxelspacing=spacing_mm),
            "hausdorff_mm": binary.hd(*masks, voxelspacing=spacing_mm),
        }

    def ours(masks: Masks, spacing_mm: Sequence[float]) -> Scores:
        voxels = surfaces.voxel_distances(*masks, spacing_mm)
        return {
            "dice": region_scores.dice(*masks),
            "hd95_pooled_mm": surfaces.pooled_percentile_mm(voxels, 95),
            "hausdorff_mm": surfaces.pooled_percentile_mm(voxels, 100),
        }

    return Peer("medpy", theirs, ours)


# --- surface-distance: distances once, then its scores ---------------------------------------------------


def _surface_distance() -> Peer:
    import surface_distance

    def theirs(masks: Masks, spacing_mm: Sequence[float]) -> Scores:
        prediction, reference = masks
        distances = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
        return {
            "dice": surface_distance.compute_dice_coefficient(reference, prediction),
            "hd95_mm": surface_distance.compute_robust_hausdorff(distances, 95),
            "hd100_mm": surface_distance.compute_robust_hausdorff(distances, 100),
            "nsd_1mm": surface_distance.compute_surface_dice_at_tolerance(distances, 1),
        }

    def ours(masks: Masks, spacing_mm: Sequence[float]) -> Scores:
        elements = surfaces.element_distances(*masks, spacing_mm)
        return {
            "dice": region_scores.dice(*masks),
            "hd95_mm": surfaces.robust_hausdorff_mm(elements, 95),
            "hd100_mm": surfaces.robust_hausdorff_mm(elements, 100),
            "nsd_1mm": surfaces.area_within(elements, 1),
        }

    return Peer("surface-distance", theirs, ours)


# --- MONAI: HD95 per direction, every surface voxel alike: a third definition ----------------------------


def _monai() -> Peer:
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")  # about its own functions

    def theirs(masks: Masks, spacing_mm: Sequence[float]) -> Scores:
        pair = [torch.from_numpy(mask)[None, None] for mask in masks]  # [N, C, I, J, K]
        spacing_mm = list(map(float, spacing_mm))
        hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing_mm)
        nsd = compute_surface_dice(
            *pair, class_thresholds=[1.0], include_background=True, spacing=spacing_mm, use_subvoxels=True
        )
        return {
            "dice": float(compute_dice(*pair)),
            "hd95_per_direction_mm": float(hd95),
            "nsd_1mm": float(nsd),
        }

    def ours(masks: Masks, spacing_mm: Sequence[float]) -> Scores:
        elements, voxels = surfaces.both_distances(*masks, spacing_mm)
        directions = (voxels.prediction_to_reference_mm, voxels.reference_to_prediction_mm)
        return {
            "dice": region_scores.dice(*masks),
            "hd95_per_direction_mm": max(float(np.percentile(each, 95)) for each in directions),
            "nsd_1mm": surfaces.area_within(elements, 1),
        }

    return Peer("monai", theirs, ours)


# --- the run ---------------------------------------------------------------------------------------------


def peers() -> list[Peer]:
    """Those that are installed; the others are named, with what installs them."""
    found = []
    for package, make in (("medpy", _medpy), ("surface-distance", _surface_distance), ("monai", _monai)):
        try:
            found.append(make())
        except ImportError as error:
            print(f"{package} is left out: {error}. To have it: pip install {package}", file=sys.stderr)
    return found


def measure(jobs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float, object]]:
    """Runs all jobs in turn, `repeats` times -> job: median wall seconds, median CPU seconds, last result."""
    wall, cpu, result = {job: [] for job in jobs}, {job: [] for job in jobs}, {}
    for round_number in range(repeats):
        for job, run in list(jobs.items())[:: 1 if round_number % 2 == 0 else -1]:
            started, cpu_started = time.perf_counter(), time.process_time()
            result[job] = run()
            wall[job].append(time.perf_counter() - started)
            cpu[job].append(time.process_time() - cpu_started)
    return {job: (statistics.median(wall[job]), statistics.median(cpu[job]), result[job]) for job in jobs}


def compare(reference_path: pathlib.Path, prediction_path: pathlib.Path, edition: str, repeats: int) -> None:
    """Prints the times of all, and how far the peers' numbers are from ours, for one pair of files."""
    reference, grid = case.load_label(reference_path, EDITIONS[edition])
    prediction, _ = case.load_label(prediction_path, EDITIONS[edition])
    spacing_mm = tuple(map(float, grid.spacing_mm))
    # The peers' masks are plain C-ordered arrays; to build them is not in their time, nor in ours of the same.
    masks = {
        region: tuple(np.ascontiguousarray(region_mask(tissues, region)) for tissues in (prediction, reference))
        for region in REGIONS
    }
    masks = {region: pair for region, pair in masks.items() if all(mask.any() for mask in pair)}

    jobs = {"tfbrats": lambda: region_scores.score_case(prediction, reference, spacing_mm)}
    compared = peers()
    for peer in compared:
        for whose, compute in (("theirs", peer.theirs), ("ours", peer.ours)):
            jobs[f"{peer.package} {whose}"] = lambda compute=compute: {
                region: compute(pair, spacing_mm) for region, pair in masks.items()
            }
    for run in jobs.values():
        run()  # tables, thread pools and imports are made by the first call
    load_before = os.getloadavg()[0]
    taken = measure(jobs, repeats)

    shape, spacing = (" x ".join(f"{value:g}" for value in values) for values in (reference.shape, spacing_mm))
    print(f"{prediction_path.name} against {reference_path.name}")
    print(
        f"{shape} voxels of {spacing} mm, regions {', '.join(masks)}, medians of {repeats} alternating rounds"
    )
    print(f"load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores\n")
    wall_s, cpu_s, _ = taken["tfbrats"]
    print(f"{'':26}{'wall s':>9}{'CPU s':>9}{'ours, same':>12}{'CPU s':>9}{'ratio':>8}{'CPU':>8}{'/ full':>8}")
    print(f"{_versioned('tfbrats'):26}{wall_s:9.3f}{cpu_s:9.3f}   our full score")
    for peer in compared:
        theirs, ours = taken[f"{peer.package} theirs"], taken[f"{peer.package} ours"]
        print(
            f"{_versioned(peer.package):26}{theirs[0]:9.3f}{theirs[1]:9.3f}{ours[0]:12.3f}{ours[1]:9.3f}"
            f"{theirs[0] / ours[0]:7.1f}x{theirs[1] / ours[1]:7.1f}x{theirs[0] / wall_s:7.1f}x"
        )
    print("\nlargest difference over the regions, theirs and ours:")
    for peer in compared:
        theirs, ours = taken[f"{peer.package} theirs"][2], taken[f"{peer.package} ours"][2]
        apart = {
            score: max(abs(float(theirs[region][score]) - ours[region][score]) for region in masks)
            for score in next(iter(ours.values()))
        }
        print(f"{peer.package:26}" + ", ".join(f"{score} {value:.1e}" for score, value in apart.items()))
    print()


def _versioned(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return package


def _pairs(folder: pathlib.Path, number: int) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """The first `number` (reference, prediction) pairs of a folder: one prediction of each case first."""
    pairs = []
    for reference in sorted(folder.glob("*_seg.nii.gz")):
        stem = reference.name.removesuffix("_seg.nii.gz")
        pairs += [(place, reference, path) for place, path in enumerate(sorted(folder.glob(f"{stem}_pred_*")))]
    return [(reference, prediction) for _, reference, prediction in sorted(pairs)[:number]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--reference", type=pathlib.Path, help="label map by an expert (NIfTI)")
    parser.add_argument("--prediction", type=pathlib.Path, help="label map to be scored, on the same grid")
    parser.add_argument("--real", type=pathlib.Path, metavar="FOLDER", help="take the first pairs of a folder")
    parser.add_argument("--pairs", type=int, default=1, help="how many pairs of --real")
    parser.add_argument("--edition", choices=tuple(EDITIONS), default="2020", help="of the label values")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    args = parser.parse_args(argv)
    if args.real:
        pairs = _pairs(args.real, args.pairs)
        if not pairs:
            parser.error(f"{args.real} holds no <case>_seg.nii.gz with a <case>_pred_<model>.nii.gz")
    elif args.reference and args.prediction:
        pairs = [(args.reference, args.prediction)]
    else:
        parser.error("give --reference and --prediction, or --real FOLDER")
    for reference, prediction in pairs:
        compare(reference, prediction, args.edition, args.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
