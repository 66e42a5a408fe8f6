"""The tumour of a phantom: nested level sets of noisy distances, and how scans show it. Pure numpy."""

from dataclasses import dataclass

import numpy as np

from tfbrats.labels import Tissue
from tfbrats.phantoms.brain import SIGNAL, Brain
from tfbrats.phantoms.draws import Draws, ramp

_NO_ENHANCEMENT_EVERY = 8  # cases; BraTS: few among high-grade, many among low-grade
_NO_OEDEMA_EVERY = 24


def is_enhancing(seed: int, number: int) -> bool:
    """Whether `simulate` gives this case an enhancing tumour."""
    return not Draws(seed, number).is_one_in(_NO_ENHANCEMENT_EVERY, "no enhancement")


@dataclass(frozen=True)
class Tumour:
    """A tumour in the V voxels of a brain.

    Attributes:
        tissues: `labels.Tissue`, uint8 [V].
        whole: soft share of WT in each voxel [V].
        core: share of TC in that [V].
        necrosis: share of NCR in the core [V].
        cavity: share of the resection cavity in the core [V]; None where nothing was cut out.
        texture: noise [V].
    """

    tissues: np.ndarray
    whole: np.ndarray
    core: np.ndarray
    necrosis: np.ndarray
    cavity: np.ndarray | None
    texture: np.ndarray


def grow(draws: Draws, brain: Brain, semi_axes_mm: np.ndarray, resected: bool) -> Tumour:
    """The tumour of one case: distances from its centre, cut where they hold the volumes drawn.

    Args:
        semi_axes_mm: of the brain [3].
        resected: part of the core is a cavity.
    """
    random = draws.stream("tumour")
    site = _Site(_centre(random), brain.position, semi_axes_mm)
    sizes = _sizes(random, draws, brain.grey.size)
    spread, bulk = _distances(random, draws, brain, site, sizes)
    edge = _level_below(spread, sizes.whole)
    in_whole = spread < edge
    has_oedema = sizes.core < sizes.whole
    core_edge = _level_below(bulk[in_whole], sizes.core) if has_oedema else edge
    in_core = in_whole & (bulk < core_edge)
    core = int(in_core.sum())
    cells = site.cells(site.radius_mm(core))

    necrosis = bulk + 0.2 * brain.noise(draws, "necrosis", 2 * cells)
    dead_edge, dead_share = np.inf, np.ones_like(bulk)
    if sizes.rim_share:
        dead_edge = _level_below(necrosis[in_core], int((1 - sizes.rim_share) * core))
        dead_share = ramp(dead_edge - necrosis, 0, 0.15)
    tissues = np.zeros(bulk.size, np.uint8)
    tissues[in_whole] = Tissue.ED
    tissues[in_core] = Tissue.ET
    tissues[in_core & (necrosis < dead_edge)] = Tissue.NCR
    cavity = None
    if resected:
        hollow = bulk + 0.5 * brain.noise(draws, "cavity", cells)
        hollow_edge = _level_below(hollow[in_core], int(random.uniform(0.35, 0.6) * core))
        tissues[in_core & (hollow < hollow_edge)] = Tissue.RC
        cavity = ramp(hollow_edge - hollow, 0, 0.1) * in_core
    return Tumour(
        tissues,
        whole=ramp(edge - spread, 0, 0.25),
        core=ramp(core_edge - bulk, 0, 0.15) * in_whole,
        necrosis=dead_share,
        cavity=cavity,
        texture=brain.noise(draws, "texture", 2 * cells),
    )


def _centre(random: np.random.Generator) -> np.ndarray:
    """A tumour's centre [3] in the cerebrum's white matter, off the ventricles."""
    while True:
        centre = random.uniform((0.28, -0.62, -0.2), (0.62, 0.6, 0.62))
        depth = 1 - np.sqrt((centre**2).sum())
        if depth > 0.27:
            return centre * (random.choice((-1, 1)), 1, 1)


@dataclass(frozen=True)
class _Sizes:
    """How large a tumour is: voxels of WT and of TC, and the share of TC that enhances (0: none does)."""

    whole: int
    core: int
    rim_share: float


def _sizes(random: np.random.Generator, draws: Draws, brain_voxels: int) -> _Sizes:
    whole = int(brain_voxels * np.exp(random.uniform(np.log(0.015), np.log(0.12))))
    core_share, rim_share = random.uniform(0.18, 0.65), random.uniform(0.3, 0.75)
    if draws.is_one_in(_NO_OEDEMA_EVERY, "no oedema"):
        core_share = 1.0
        whole = int(0.6 * whole)
    if not is_enhancing(draws.seed, draws.number):
        rim_share = 0.0
    whole = max(whole, 24)
    return _Sizes(whole, max(int(core_share * whole), 12), rim_share)


@dataclass(frozen=True)
class _Site:
    """Where a tumour grows.

    Attributes:
        centre: of the tumour [3].
        position: of the brain's voxels [3, V].
        semi_axes_mm: of the brain [3].
    """

    centre: np.ndarray
    position: np.ndarray
    semi_axes_mm: np.ndarray

    def radius_mm(self, voxels: int) -> float:
        """Of a ball of so many voxels."""
        volume_mm3 = np.prod(self.semi_axes_mm) * 4 / 3 * np.pi * voxels / self.position.shape[1] * 0.6
        return float((volume_mm3 * 3 / (4 * np.pi)) ** (1 / 3))

    def distance(self, random: np.random.Generator, offset: float, radius_mm: float) -> np.ndarray:
        """Of each voxel from about the centre, in radii, float32 [V]; stretched along the axes by chance."""
        shift = random.normal(0, offset * radius_mm, 3)
        stretch = np.exp(random.normal(0, 0.15, 3))
        mm = (self.position - self.centre[:, None]) * self.semi_axes_mm[:, None] - shift[:, None]
        return np.sqrt(((mm * stretch[:, None]).astype(np.float32) ** 2).sum(0)) / np.float32(radius_mm)

    def cells(self, radius_mm: float) -> int:
        """Of smooth noise, one to a radius."""
        return int(np.clip(2 * self.semi_axes_mm.mean() / radius_mm, 3, 24))


def _distances(
    random: np.random.Generator, draws: Draws, brain: Brain, site: _Site, sizes: _Sizes
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy distances [V] by which the whole tumour and its core are cut out of the brain."""
    whole_mm, core_mm = site.radius_mm(sizes.whole), site.radius_mm(sizes.core)
    # Oedema spreads along white matter and spares cortex and fluid.
    spread = site.distance(random, 0.15, whole_mm) ** 1.5
    spread = spread + 0.4 * brain.noise(draws, "oedema", site.cells(whole_mm))
    spread += 0.2 * brain.noise(draws, "fine oedema", 2 * site.cells(whole_mm))
    spread += 0.5 * brain.fluid + 0.35 * brain.grey
    bulk = site.distance(random, 0, core_mm) + 0.3 * brain.noise(draws, "core", site.cells(core_mm))
    bulk = bulk + 0.3 * brain.fluid
    # ... and goes all round the core, or is absent.
    return np.minimum(spread, bulk * (core_mm / whole_mm) - 0.1) if sizes.core < sizes.whole else bulk, bulk


def _level_below(field: np.ndarray, count: int) -> float:
    """The value below which about `count` of the field's values lie."""
    count = int(np.clip(count, 1, field.size - 1))
    return float(np.partition(field, count)[count])


def with_tumour(draws: Draws, modality: str, signal: np.ndarray, tumour: Tumour) -> np.ndarray:
    """Signal [V] with the tumour mixed in at its soft shares, float32."""
    _, wm, csf, oedema, necrosis, rim = SIGNAL[modality]
    look = draws.stream("look")  # the same draw for every modality
    swelling, uptake, fluidity = look.uniform(0.75, 1.1), look.uniform(0.6, 1.15), look.uniform(0, 1)
    oedema = wm + swelling * (oedema - wm)
    if modality == "t1ce":
        rim = wm + uptake * (rim - wm)
    if modality == "flair":  # from dark, liquid necrosis to bright, solid non-enhancing tumour
        necrosis += 0.35 * (0.5 - fluidity) + (0.0 if is_enhancing(draws.seed, draws.number) else 0.15)
    texture = 1 + 0.06 * tumour.texture
    core = rim * texture + (necrosis - rim * texture) * tumour.necrosis
    swollen = 0.7 * oedema * texture + 0.3 * signal  # the tissue underneath shows through
    inner = swollen + (core - swollen) * tumour.core
    if tumour.cavity is not None:
        inner = inner + (csf - inner) * tumour.cavity
    return (signal + (inner - signal) * tumour.whole).astype(np.float32)
