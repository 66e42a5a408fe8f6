"""Simulate glioma cases and write them as any BraTS edition would, for the demo, tests and benchmarks.

    python -m tfbrats.phantom --output data/phantoms --cases 20 --edition 2020 --seed 1

A case depends on (seed, case number, shape) alone: neither on how many are written nor on the edition,
which changes only names and label values (from 2024 every other case has a resection cavity; in ped half of the
necrosis is a cyst).

Geometry is relative to the brain, which fills about two thirds of the volume whatever its shape: -1..1
along each axis, so that 0.04 stands for a cortex of 3 mm in a full-size brain. The tumour alone is round
in mm. This is a caricature: a score on phantoms says that the machinery works, nothing about patients.
"""

import os
import sys
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from tfbrats import command, files, nifti, paths, phantom_files
from tfbrats.command import InputError
from tfbrats.labels import MODALITIES, Tissue
from tfbrats.phantom_files import case_id

FULL_SHAPE = (240, 240, 155)  # voxels, as in every BraTS edition
LEAST_SHAPE = (24, 24, 16)
_TREATED = ("2024", "2025", "2026")  # editions of gliomas after surgery

_SEMI_AXES = (0.31, 0.38, 0.44)  # of the brain, as a fraction of the volume's sides
_NO_ENHANCEMENT_EVERY = 8  # cases; BraTS: few among high-grade, many among low-grade
_NO_OEDEMA_EVERY = 24
_RESECTED_EVERY = 2  # in the editions after treatment

# Relative signal of grey matter, white matter and fluid, and of what a tumour adds, in the order of MRI
# textbooks (T1: white > grey > fluid; T2 the reverse; FLAIR: fluid suppressed). Arbitrary units.
#                 GM    WM    CSF   ED    NCR   ET
_SIGNAL = {
    "flair": (0.79, 0.67, 0.22, 1.26, 0.72, 1.06),
    "t1": (0.74, 1.00, 0.30, 0.70, 0.52, 0.72),
    "t1ce": (0.74, 0.98, 0.30, 0.70, 0.50, 1.36),
    "t2": (0.78, 0.58, 1.36, 1.06, 1.18, 0.90),
}


# --- one case -------------------------------------------------------------------------------------------


def _random(seed: int, number: int, what: str) -> np.random.Generator:
    """A stream of its own for each thing drawn: changing one leaves the others as they were."""
    return np.random.default_rng([seed, number, zlib.crc32(what.encode())])


def _smooth_noise(random: np.random.Generator, cells: int, shape: Sequence[int]) -> np.ndarray:
    """A cubic B-spline through random knots: float32 of `shape`, mean about 0, deviation about 1.

    Args:
        cells: between knots, along each axis; features are about this many across.
    """
    field = random.standard_normal((cells + 3,) * 3, dtype=np.float32)
    for side in shape:
        # Each pass contracts the first axis with its splines and appends the sampled one.
        position = np.linspace(0, cells, side)
        distance = np.abs(position[:, None] + 1 - np.arange(cells + 3))
        near = 2 / 3 - distance**2 + distance**3 / 2
        spline = np.where(distance < 1, near, np.clip(2 - distance, 0, None) ** 3 / 6)
        field = np.tensordot(field, spline.astype(np.float32), axes=(0, 1))
    # The knots' weights sum to 1 and their squares, on average, to 0.479 an axis.
    return field / np.float32(0.479**1.5)


def _ramp(value: np.ndarray, centre: float, width: float) -> np.ndarray:
    """0 below, 1 above, linear over `width` around `centre`: a share of a voxel."""
    return np.clip((value - centre) / width + 0.5, 0, 1)


def _ellipsoid(x, y, z, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """About the distance inside the surface: positive within, 0 on it."""
    squares = [((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii, strict=True)]
    return (1 - np.sqrt(squares[0] + squares[1] + squares[2])) * min(radii)


def _brain_depth(x, y, z) -> tuple[np.ndarray, np.ndarray]:
    """About the distance below the surface of the brain, and whether that is the cerebellum's."""
    side = np.abs(x)
    width = 1 + 0.1 * y  # narrower at the forehead
    cerebrum = 1 - np.sqrt((x / width) ** 2 + y**2 + (z / np.where(z > 0, 1, 0.62)) ** 2)
    temporal = _ellipsoid(side, y, z, (0.5, -0.18, -0.42), (0.36, 0.5, 0.34))
    cerebellum = _ellipsoid(side, y, z, (0.22, 0.48, -0.62), (0.4, 0.4, 0.34))
    stem = 0.17 - np.sqrt(x**2 + (y - 0.1) ** 2)
    stem = np.where((z < -0.2) & (z > -0.97), stem, -1)
    cerebrum = np.maximum(np.maximum(cerebrum, temporal), stem)
    # The tentorium: a gap of fluid where cerebrum and cerebellum meet.
    return np.maximum(cerebrum, cerebellum), cerebellum > cerebrum


def _tissue_shares(
    x, y, z, depth, sulci, in_cerebellum
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shares of grey matter and fluid in a voxel, nearness to the ventricles, and to the midline."""
    side = np.abs(x)
    # A sulcus is where a noise field crosses 0; it reaches about 20 mm down.
    folded = np.minimum(depth, 0.06 * sulci + 0.7 * np.clip(depth - 0.26, 0, None))
    callosum = 1 - np.sqrt((y / 0.62) ** 2 + ((z + 0.1) / 0.42) ** 2)
    midline = side + 0.5 * np.clip(callosum, 0, None) + np.where(in_cerebellum, 1, 0)
    folded = np.minimum(folded, midline)
    fluid = 1 - _ramp(folded, 0.012, 0.02)
    grey = 1 - _ramp(folded, 0.06, 0.03)

    body = _ellipsoid(
        side - 0.1 - 0.35 * np.clip(y, 0, None) ** 2, y, z + 0.35 * y**2, (0, 0.03, 0.13), (0.07, 0.5, 0.1)
    )
    third = _ellipsoid(side, y, z, (0, 0.03, -0.08), (0.025, 0.18, 0.16))
    fourth = _ellipsoid(side, y, z, (0, 0.27, -0.52), (0.07, 0.06, 0.1))
    ventricles = np.maximum(np.maximum(body, third), fourth)
    fluid = np.maximum(fluid, _ramp(ventricles, 0, 0.02))

    thalamus = _ellipsoid(side, y, z, (0.13, 0.13, -0.04), (0.09, 0.15, 0.1))
    putamen = _ellipsoid(side, y, z, (0.32, -0.08, -0.03), (0.08, 0.22, 0.14))
    caudate = _ellipsoid(side, y, z, (0.19, -0.28, 0.1), (0.05, 0.13, 0.1))
    deep = np.maximum(np.maximum(thalamus, putamen), caudate)
    grey = np.maximum(grey, 0.75 * _ramp(deep, 0, 0.02))
    return grey, fluid, ventricles, midline


def _lowest(field: np.ndarray, count: int) -> float:
    """The value below which about `count` of the field's values lie."""
    count = int(np.clip(count, 1, field.size - 1))
    return float(np.partition(field, count)[count])


def _place(random: np.random.Generator) -> np.ndarray:
    """A tumour's centre [3] in the cerebrum's white matter, off the ventricles."""
    while True:
        centre = random.uniform((0.28, -0.62, -0.2), (0.62, 0.6, 0.62))
        depth = 1 - np.sqrt((centre**2).sum())
        if depth > 0.27:
            return centre * (random.choice((-1, 1)), 1, 1)


def _every(random_seed: int, number: int, period: int, what: str) -> bool:
    """True for one case number in `period`, which one depending on the seed."""
    return (number + zlib.crc32(f"{what} {random_seed}".encode())) % period == 0


def is_enhancing(seed: int, number: int) -> bool:
    """Whether `simulate` gives this case an enhancing tumour."""
    return not _every(seed, number, _NO_ENHANCEMENT_EVERY, "no enhancement")


def is_resected(seed: int, number: int) -> bool:
    """Whether `write_dataset` gives this case a resection cavity, in the 2024 edition."""
    return _every(seed, number, _RESECTED_EVERY, "resected")


def simulate(
    shape: Sequence[int],
    seed: int,
    number: int,
    spacing_mm: Sequence[float] = (1, 1, 1),
    resected: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """One simulated case.

    Args:
        shape: (I, J, K) voxels, at least `LEAST_SHAPE`; axes point to the left, back and head.
        seed: of the data set.
        number: of the case; (seed, number) decide all.
        spacing_mm: along i, j, k; keeps the tumour round in mm.
        resected: part of the tumour's core is a cavity (Tissue.RC) filled with fluid.

    Returns:
        image: int16 [I, J, K, 4] in the order of `labels.MODALITIES`, 0 outside the brain.
        tissues: `labels.Tissue`, uint8 [I, J, K].

    Raises:
        InputError: the shape is too small to hold a brain.
    """
    if len(shape) != 3 or any(side < least for side, least in zip(shape, LEAST_SHAPE, strict=True)):
        raise InputError(f"shape {tuple(shape)}: a phantom needs three sides of at least {LEAST_SHAPE}.")

    def noise(what: str, cells: int) -> np.ndarray:
        return _smooth_noise(_random(seed, number, what), cells, box_shape)

    # box: the voxels that the brain can reach, ~157 x 192 x 144 of 240 x 240 x 155
    semi_axes = np.array(_SEMI_AXES) * shape
    middle = (np.array(shape) - 1) / 2
    low = np.maximum(0, np.floor(middle - 1.06 * semi_axes)).astype(int)
    high = np.minimum(shape, np.ceil(middle + 1.06 * semi_axes).astype(int) + 1)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    box_shape = tuple(high - low)
    axes = [
        ((np.arange(a, b) - m) / s).astype(np.float32)
        for a, b, m, s in zip(low, high, middle, semi_axes, strict=True)
    ]
    straight = np.meshgrid(*axes, indexing="ij")
    # No head is symmetric or straight.
    turn = _random(seed, number, "turn").normal(0, 0.05)
    x = straight[0] + turn * straight[1] + 0.035 * noise("warp i", 4)
    y = straight[1] - turn * straight[0] + 0.035 * noise("warp j", 4)
    z = straight[2] + 0.03 * noise("warp k", 4)

    depth, in_cerebellum = _brain_depth(x, y, z)
    finest = min(box_shape) // 4  # a fold narrower than some voxels is only noise
    sulci = np.abs(noise("sulci", min(21, finest)))
    folia = np.abs(np.sin(34 * z + 12 * y + 2 * noise("folia", 4))) * 0.8 if finest > 15 else sulci
    sulci = np.where(in_cerebellum, folia, sulci)
    # The outline dips into the sulci, as skull stripping leaves it.
    brain = depth > 0.03 * np.clip(1 - sulci / 0.4, 0, 1)

    # From here on arrays are flat, over the brain's voxels: [V]
    def inside(field: np.ndarray) -> np.ndarray:
        return field[brain]

    grey, fluid, ventricles, midline = _tissue_shares(*map(inside, (x, y, z, depth, sulci, in_cerebellum)))
    position = np.stack([inside(axis) for axis in straight])
    shares, flat = _tumour(seed, number, resected, position, semi_axes * spacing_mm, grey, fluid, inside, noise)
    image = np.zeros((*shape, len(MODALITIES)), np.int16)
    tissues = np.zeros(shape, np.uint8)
    for channel, modality in enumerate(MODALITIES):
        random = _random(seed, number, f"signal {modality}")
        signal = _healthy(random, modality, grey, fluid, ventricles, midline)
        signal = _with_tumour(seed, number, random, modality, signal, shares)
        bias = 0.10 * noise("bias", 2) + 0.06 * noise(f"bias {modality}", 3)
        grain = 0.02 * noise("grain", min(40, finest))  # fibres, vessels: no tissue is of one grey
        signal *= np.exp(inside(bias + grain))
        # Rice: the magnitude of a complex signal with noise in both parts.
        sigma = random.uniform(0.03, 0.06)
        real = signal + sigma * random.standard_normal(signal.size, dtype=np.float32)
        imaginary = sigma * random.standard_normal(signal.size, dtype=np.float32)
        units = np.exp(random.uniform(np.log(150), np.log(2500)))  # scanners have no common unit
        intensity = np.hypot(real, imaginary) * units
        image[box][..., channel][brain] = np.clip(np.round(intensity), 1, 32767)
    tissues[box][brain] = flat
    return image, tissues


def _tumour(seed, number, resected, position, semi_axes_mm, grey, fluid, inside, noise):
    """Nested level sets of noisy distances, cut where they hold the volumes drawn.

    Returns:
        shares: soft shares [V] of the voxel by name: "WT", "TC" in it, "NCR" and "RC" in that, and
            "texture".
        tissues: uint8 [V].
    """
    random = _random(seed, number, "tumour")
    centre = _place(random)
    voxels = grey.size
    whole = int(voxels * np.exp(random.uniform(np.log(0.015), np.log(0.12))))
    core_share, rim_share = random.uniform(0.18, 0.65), random.uniform(0.3, 0.75)
    if _every(seed, number, _NO_OEDEMA_EVERY, "no oedema"):
        core_share = 1.0
        whole = int(0.6 * whole)
    if not is_enhancing(seed, number):
        rim_share = 0.0
    whole = max(whole, 24)
    core = max(int(core_share * whole), 12)

    def radius(count: int) -> float:  # mm, of a ball of so many voxels
        volume = np.prod(semi_axes_mm) * 4 / 3 * np.pi * count / voxels * 0.6
        return float((volume * 3 / (4 * np.pi)) ** (1 / 3))

    def distance(offset: float, of_radius: float) -> np.ndarray:
        shift = random.normal(0, offset * of_radius, 3)
        stretch = np.exp(random.normal(0, 0.15, 3))
        mm = (position - centre[:, None]) * semi_axes_mm[:, None] - shift[:, None]
        return np.sqrt(((mm * stretch[:, None]).astype(np.float32) ** 2).sum(0)) / np.float32(of_radius)

    def cells(of_radius: float) -> int:  # of noise, one to a radius
        return int(np.clip(2 * semi_axes_mm.mean() / of_radius, 3, 24))

    # Oedema spreads along white matter and spares cortex and fluid.
    spread = distance(0.15, radius(whole)) ** 1.5 + 0.4 * inside(noise("oedema", cells(radius(whole))))
    spread += 0.2 * inside(noise("fine oedema", 2 * cells(radius(whole))))
    spread += 0.5 * fluid + 0.35 * grey
    bulk = distance(0, radius(core)) + 0.3 * inside(noise("core", cells(radius(core)))) + 0.3 * fluid
    # ... and goes all round the core, or is absent.
    spread = np.minimum(spread, bulk * (radius(core) / radius(whole)) - 0.1) if core < whole else bulk
    edge = _lowest(spread, whole)
    in_whole = spread < edge
    core_edge = _lowest(bulk[in_whole], core) if core < whole else edge
    in_core = in_whole & (bulk < core_edge)
    core = int(in_core.sum())
    necrosis = bulk + 0.2 * inside(noise("necrosis", 2 * cells(radius(core))))
    dead_edge = _lowest(necrosis[in_core], int((1 - rim_share) * core)) if rim_share else np.inf
    dead = in_core & (necrosis < dead_edge)
    tissues = np.zeros(voxels, np.uint8)
    tissues[in_whole] = Tissue.ED
    tissues[in_core] = Tissue.ET
    tissues[dead] = Tissue.NCR
    shares = {
        "WT": _ramp(edge - spread, 0, 0.25),
        "TC": _ramp(core_edge - bulk, 0, 0.15) * in_whole,
        "NCR": _ramp(dead_edge - necrosis, 0, 0.15) if rim_share else np.ones_like(bulk),
        "texture": inside(noise("texture", 2 * cells(radius(core)))),
    }
    if resected:
        hollow = bulk + 0.5 * inside(noise("cavity", cells(radius(core))))
        hollow_edge = _lowest(hollow[in_core], int(random.uniform(0.35, 0.6) * core))
        tissues[in_core & (hollow < hollow_edge)] = Tissue.RC
        shares["RC"] = _ramp(hollow_edge - hollow, 0, 0.1) * in_core
    return shares, tissues


def _healthy(random, modality, grey, fluid, ventricles, midline) -> np.ndarray:
    """Signal [V] of the brain without a tumour."""
    gm, wm, csf = np.array(_SIGNAL[modality][:3]) * random.normal(1, 0.03, 3)
    signal = wm + (gm - wm) * grey
    signal += (csf - signal) * fluid
    if modality == "flair":  # bright caps on the ventricles, as with age: not oedema
        signal += random.uniform(0, 0.25) * (1 - fluid) * np.clip(1 + ventricles / 0.07, 0, 1)
    if modality == "t1ce":  # falx and its sinus take up contrast agent: not tumour
        signal += random.uniform(0.3, 0.7) * fluid * np.clip(1 - midline / 0.02, 0, 1)
    return signal.astype(np.float32)


def _with_tumour(seed, number, random, modality, signal, shares) -> np.ndarray:
    """Signal [V] with the tumour mixed in at its soft shares."""
    _, wm, csf, oedema, necrosis, rim = _SIGNAL[modality]
    look = _random(seed, number, "look")  # the same draw for every modality
    swelling, uptake, fluidity = look.uniform(0.75, 1.1), look.uniform(0.6, 1.15), look.uniform(0, 1)
    oedema = wm + swelling * (oedema - wm)
    if modality == "t1ce":
        rim = wm + uptake * (rim - wm)
    if modality == "flair":  # from dark, liquid necrosis to bright, solid non-enhancing tumour
        necrosis += 0.35 * (0.5 - fluidity) + (0.0 if is_enhancing(seed, number) else 0.15)
    texture = 1 + 0.06 * shares["texture"]
    core = rim * texture + (necrosis - rim * texture) * shares["NCR"]
    swollen = 0.7 * oedema * texture + 0.3 * signal  # the tissue underneath shows through
    inner = swollen + (core - swollen) * shares["TC"]
    if "RC" in shares:
        inner = inner + (csf - inner) * shares["RC"]
    return (signal + (inner - signal) * shares["WT"]).astype(np.float32)


# --- a data set -----------------------------------------------------------------------------------------


def _grade(seed: int, number: int) -> str:
    low = not is_enhancing(seed, number) or _every(seed, number, 7, "low grade")
    return "LGG" if low else "HGG"


def _write(path: str, array: np.ndarray, grid: nifti.Grid) -> None:
    files.write_bytes(path, nifti.to_bytes(grid.to_file(array), grid, files.name(path), level=1))


def write_dataset(
    output: str | os.PathLike,
    cases: int,
    edition: str,
    seed: int,
    shape: Sequence[int] = FULL_SHAPE,
    first: int = 0,
    spacing_mm: Sequence[float] = (1, 1, 1),
    axes: Sequence[str] = nifti.AXES,
) -> list[str]:
    """Writes cases number `first` to `first + cases - 1` in an edition's layout.

    Args:
        output: folder, made if need be; cases of other numbers in it are left alone.
        edition: one of `phantom_files.EDITIONS`.
        shape: (I, J, K) towards left, back and head, whatever `axes` says.
        spacing_mm: along i, j, k.
        axes: of the files, e.g. ("R", "A", "S").

    Returns:
        The case ids, in order.

    Raises:
        InputError: an unknown edition, or a shape too small.
    """
    return list(_write_cases(os.fspath(output), cases, edition, seed, shape, first, spacing_mm, axes))


def _write_cases(output, cases, edition, seed, shape, first, spacing_mm, axes) -> Iterator[str]:
    if edition not in phantom_files.EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(phantom_files.EDITIONS)}.")
    schema = phantom_files.schema(edition)
    file_shape = [shape[["LR", "PA", "SI"].index(next(p for p in ("LR", "PA", "SI") if a in p))] for a in axes]
    grid = nifti.new_grid(file_shape, spacing_mm, axes)
    has_cavities, has_cysts = edition in _TREATED, Tissue.CC in schema.value_of_tissue
    rows = {}
    for number in range(first, first + cases):
        resected = has_cavities and is_resected(seed, number)
        image, tissues = simulate(shape, seed, number, spacing_mm, resected)
        if has_cysts:
            tissues = with_cyst(tissues)
        name, grade = case_id(edition, number), _grade(seed, number)
        paths = phantom_files.paths(output, edition, number, grade)
        by_modality = {m: image[..., channel] for channel, m in enumerate(MODALITIES)}
        if edition == "msd":
            stacked = np.stack([by_modality[m] for m in phantom_files.MSD_CHANNELS.values()], axis=-1)
            _write(paths["flair"], stacked, grid)
        else:
            for modality, array in by_modality.items():
                _write(paths[modality], array, grid)
        rows[name] = grade
        _write(paths["seg"], schema.to_values(tissues, name), grid)
        yield name
    phantom_files.write_tables(output, edition, rows)


def with_cyst(tissues: np.ndarray) -> np.ndarray:
    """The same tumour with a cyst: of its necrosis, what lies above the middle of it is Tissue.CC.

    Args:
        tissues: `labels.Tissue`, uint8 [I, J, K].
    """
    dead = tissues == Tissue.NCR
    heights = np.nonzero(dead)[2]
    if not heights.size:
        return tissues
    above = np.arange(tissues.shape[2]) > np.median(heights)
    return np.where(dead & above, np.uint8(Tissue.CC), tissues)


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.phantom", __doc__)
    parser.add_argument(
        "--output", type=paths.argument, required=True, help="folder to write to; made if need be"
    )
    parser.add_argument("--cases", type=int, default=8, help="how many (8)")
    parser.add_argument("--edition", choices=phantom_files.EDITIONS, default="2020", help="layout (2020)")
    parser.add_argument("--seed", type=int, default=0, help="of the data set (0)")
    parser.add_argument("--shape", type=int, nargs=3, default=FULL_SHAPE, metavar=("I", "J", "K"))
    parser.add_argument("--first", type=int, default=0, help="number of the first case (0)")
    given = parser.parse_args(arguments)
    if given.cases < 1 or given.first < 0 or given.seed < 0:
        raise InputError("--cases must be at least 1, --first and --seed at least 0.")
    written = _write_cases(
        given.output, given.cases, given.edition, given.seed, given.shape, given.first, (1, 1, 1), nifti.AXES
    )
    names = list(tqdm(written, total=given.cases, unit="case", disable=not sys.stderr.isatty()))
    print(f"{len(names)} simulated cases, {names[0]} to {names[-1]}, are in {given.output}")


if __name__ == "__main__":
    command.run(main)
