"""What N4 costs and finds: ours (cases/bias.py) beside SimpleITK's, volume by volume, in one run.

    python benchmarks/n4.py --real BraTS2021                                  # at shrink 4, both
    python benchmarks/n4.py --real BraTS2021 --shrink 4 2 1 --itk             # ours, and what shrinking changes
    python benchmarks/n4.py --real BraTS2021 --shrink 4 2 1 --itk 4 2 1 --kept n4_of_itk --volumes 4

SimpleITK takes 10 s a volume at shrink 4, 50 s at 2 and 480 s at 1: --itk says at which it runs, and --kept
names a folder that keeps its fields and seconds, so that a later run reads them. Seconds that were kept are of
that earlier run (marked *): a ratio counts only where both sides are of one run on a quiet machine.

Ours is timed as records are prepared: `bias.corrected`, with the field's evaluation at full resolution and the
division; SimpleITK's as `preprocess.corrected_by_itk`, the same. Both on one thread. Differences are in the
fitted voxels, in per cent of the corrected value; a constant factor, which the z-score loses, stands apart in
the column `whole`: each iteration moves the whole by up to 0.6 %, and SimpleITK's stopping measure, which it
keeps in float32, ends some levels an iteration sooner or later. Iterations are of the four levels; SimpleITK
tells those of the last alone, and one more than it did.

Where ours is run at shrink 1, a second table says what shrinking costs: how far the field is from that of the
full resolution, and how far the z-scored image, which is what a network sees, in standard deviations; under
`none` what leaving N4 out would change.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from tfbrats.cases import bias, case, preprocess
from tfbrats.datasets import layouts


@dataclasses.dataclass(frozen=True)
class Found:
    """One N4 of one volume.

    Attributes:
        log_field: float32 [N], at the fitted voxels.
        is_kept: its seconds are of an earlier run.
    """

    log_field: np.ndarray
    iterations: Sequence[int]
    wall_s: float
    cpu_s: float
    is_kept: bool = False


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """What it gives, its wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def field_of(volume: np.ndarray, corrected: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """The logarithm of what was divided out, float32 [N], at the fitted voxels."""
    fitted = brain & (volume > 0)
    return np.log(volume[fitted] / corrected[fitted].astype(np.float64)).astype(np.float32)


def ours(volume: np.ndarray, brain: np.ndarray, shrink: int) -> Found:
    """By `cases.bias`."""
    corrected, wall_s, cpu_s = timed(lambda: bias.corrected(volume, brain, shrink))
    taken = bias.shrunk(volume.shape, shrink)
    iterations = bias.fit(volume[taken], brain[taken]).iterations
    return Found(field_of(volume, corrected, brain), iterations, wall_s, cpu_s)


def itk(volume: np.ndarray, brain: np.ndarray, shrink: int) -> Found:
    """By SimpleITK, as `preprocess.corrected_by_itk`, which tells no field and no iterations."""
    correctors, real = [], sitk.N4BiasFieldCorrectionImageFilter

    def watched() -> sitk.N4BiasFieldCorrectionImageFilter:
        correctors.append(real())
        return correctors[-1]

    sitk.N4BiasFieldCorrectionImageFilter = watched
    try:
        corrected, wall_s, cpu_s = timed(lambda: preprocess.corrected_by_itk(volume, brain, shrink))
    finally:
        sitk.N4BiasFieldCorrectionImageFilter = real
    return Found(field_of(volume, corrected, brain), (correctors[0].GetElapsedIterations(),), wall_s, cpu_s)


def kept_or_new(
    kept: pathlib.Path | None, name: str, volume: np.ndarray, brain: np.ndarray, shrink: int
) -> Found:
    """SimpleITK's of an earlier run if it is of this very volume; else a new one, which is kept."""
    if kept is None:
        return itk(volume, brain, shrink)
    path, of_volume = kept / f"{name}-{shrink}.npz", zlib.crc32(np.ascontiguousarray(volume))
    if path.exists():
        content = np.load(path)
        if content["of_volume"] == of_volume:
            wall_s, cpu_s = content["seconds"].tolist()
            return Found(content["log_field"], content["iterations"].tolist(), wall_s, cpu_s, is_kept=True)
    found = itk(volume, brain, shrink)
    kept.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        log_field=found.log_field,
        iterations=found.iterations,
        seconds=(found.wall_s, found.cpu_s),
        of_volume=of_volume,
    )
    return found


def percent(log_apart: np.ndarray) -> tuple[float, float]:
    """Mean and 95th percentile of what a difference of logarithms is in per cent, but for a constant factor."""
    apart = 100 * np.abs(np.expm1(log_apart.astype(np.float64) - log_apart.mean()))
    return float(apart.mean()), float(np.percentile(apart, 95))


def row_of(name: str, shrink: int, mine: Found, theirs: Found | None) -> str:
    """A line of the first table."""
    levels = "/".join(map(str, mine.iterations))
    line = f"{name:<22} {shrink:>6} {mine.wall_s:>7.3f} {mine.cpu_s:>7.3f} {levels:>12}"
    if theirs is None:
        return line
    log_apart = mine.log_field - theirs.log_field
    mean, high = percent(log_apart)
    line += f" {theirs.wall_s:>8.2f}{'*' if theirs.is_kept else ' '} {theirs.cpu_s:>8.2f}"
    line += f" {theirs.iterations[-1]:>5} {mean:>9.5f} {high:>9.5f} {100 * log_apart.mean():>8.4f}"
    return f"{line} {theirs.cpu_s / mine.cpu_s:>6.0f}x"


HEADING = (
    f"{'volume':<22} {'shrink':>6} {'ours s':>7} {'CPU s':>7} {'iterations':>12} {'ITK s':>8}  {'CPU s':>8} "
    f"{'last':>5} {'apart %':>9} {'95th':>9} {'whole':>8} {'times':>7}"
)


def z_scored(volume: np.ndarray, brain: np.ndarray, log_field: np.ndarray | None) -> np.ndarray:
    """The volume in the fitted voxels as a network sees it: float32 [N], of a field at these or without one."""
    corrected = volume.astype(np.float32)
    fitted = brain & (volume > 0)
    if log_field is not None:
        corrected[fitted] = corrected[fitted] / np.exp(log_field)
    return preprocess.z_score(corrected[..., None], brain)[fitted, 0]


def shrinking(
    volume: np.ndarray, brain: np.ndarray, by_shrink: dict[int, Found]
) -> dict[str, tuple[float, ...]]:
    """How far each field and z-scored image lies from that of full resolution: mean and 95th of both."""
    full = by_shrink[1].log_field
    seen = z_scored(volume, brain, full)
    rows = {}
    for shrink, found in [*((n, one.log_field) for n, one in by_shrink.items() if n != 1), ("none", None)]:
        apart = np.abs(z_scored(volume, brain, found) - seen)
        field = percent((0 if found is None else found) - full)
        rows[str(shrink)] = (*field, float(apart.mean()), float(np.percentile(apart, 95)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--real", type=pathlib.Path, required=True, metavar="FOLDER", help="of cases, in any layout"
    )
    parser.add_argument("--cases", type=int, default=1000, help="at most")
    parser.add_argument("--volumes", type=int, default=1000, help="at most, each a modality of a case")
    parser.add_argument("--shrink", type=int, nargs="+", default=[4], help="ours at these")
    parser.add_argument("--itk", type=int, nargs="*", default=[4], help="SimpleITK at those of them")
    parser.add_argument(
        "--kept", type=pathlib.Path, metavar="FOLDER", help="keeps SimpleITK's fields between runs"
    )
    args = parser.parse_args(argv)
    print(
        f"load {os.getloadavg()[0]:.1f} before, {os.cpu_count()} cores; numpy {np.__version__}, "
        f"SimpleITK {sitk.Version_VersionString()}"
    )
    print(HEADING)
    by_shrink: dict[int, list[tuple[Found, Found | None]]] = {n: [] for n in args.shrink}
    changes: dict[str, list[tuple[float, ...]]] = {}
    left = args.volumes
    for source in layouts.find(args.real).cases[: args.cases]:
        if not left:
            break
        loaded = case.load(source, read_label=False)
        brain = preprocess.brain_mask(loaded.image)
        for m, modality in enumerate(loaded.modalities[:left]):
            left -= 1
            volume, name = np.ascontiguousarray(loaded.image[..., m]), f"{source.case_id} {modality}"
            mine = {}
            for n in args.shrink:
                mine[n] = ours(volume, brain, n)
                theirs = (
                    kept_or_new(args.kept, name.replace(" ", "-"), volume, brain, n) if n in args.itk else None
                )
                by_shrink[n].append((mine[n], theirs))
                print(row_of(name, n, mine[n], theirs), flush=True)
            for key, row in shrinking(volume, brain, mine).items() if 1 in mine else ():
                changes.setdefault(key, []).append(row)
    summary(by_shrink, changes)
    print(f"load {os.getloadavg()[0]:.1f} after")
    return 0


def summary(
    by_shrink: dict[int, list[tuple[Found, Found | None]]], changes: dict[str, list[tuple[float, ...]]]
) -> None:
    """Prints the ends: means, ratios, and what shrinking changes."""
    for n, pairs in by_shrink.items():
        both = [(mine, theirs) for mine, theirs in pairs if theirs is not None]
        mean_s = np.mean([mine.cpu_s for mine, _ in pairs])
        print(f"\nshrink {n}: ours {mean_s:.3f} CPU s a volume, {len(pairs)} volumes", end="")
        if both:
            ratios = [theirs.cpu_s / mine.cpu_s for mine, theirs in both]
            apart = np.array([percent(mine.log_field - theirs.log_field) for mine, theirs in both])
            itk_s = np.mean([theirs.cpu_s for _, theirs in both])
            print(
                f"; SimpleITK {itk_s:.2f}: {np.median(ratios):.0f} times as much (median; {min(ratios):.0f} to "
                f"{max(ratios):.0f}); fields apart {apart[:, 0].min():.5f} to "
                f"{apart[:, 0].max():.5f} % on average, 95th at most {apart[:, 1].max():.5f} %",
                end="",
            )
    print()
    if changes:
        print(f"\n{'from shrink 1':<14} {'field %':>9} {'95th':>9} {'z-score SD':>11} {'95th':>9}")
        for key, rows in changes.items():
            field, field_95, seen, seen_95 = np.mean(rows, axis=0)
            print(f"{key:<14} {field:>9.3f} {field_95:>9.3f} {seen:>11.4f} {seen_95:>9.4f}")


if __name__ == "__main__":
    sys.exit(main())
