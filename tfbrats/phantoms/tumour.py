"""The tumour of a phantom: nested level sets of noisy distances. Pure numpy."""

import zlib

import numpy as np

from tfbrats.labels import Tissue
from tfbrats.phantoms.brain import (
    SIGNAL,
    ramp,
    random_stream,
)

_NO_ENHANCEMENT_EVERY = 8  # cases; BraTS: few among high-grade, many among low-grade


_NO_OEDEMA_EVERY = 24


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


def every(random_seed: int, number: int, period: int, what: str) -> bool:
    """True for one case number in `period`, which one depending on the seed."""
    return (number + zlib.crc32(f"{what} {random_seed}".encode())) % period == 0


def is_enhancing(seed: int, number: int) -> bool:
    """Whether `simulate` gives this case an enhancing tumour."""
    return not every(seed, number, _NO_ENHANCEMENT_EVERY, "no enhancement")


def tumour(seed, number, resected, position, semi_axes_mm, grey, fluid, inside, noise):
    """Nested level sets of noisy distances, cut where they hold the volumes drawn.

    Returns:
        shares: soft shares [V] of the voxel by name: "WT", "TC" in it, "NCR" and "RC" in that, and
            "texture".
        tissues: uint8 [V].
    """
    random = random_stream(seed, number, "tumour")
    centre = _place(random)
    voxels = grey.size
    whole = int(voxels * np.exp(random.uniform(np.log(0.015), np.log(0.12))))
    core_share, rim_share = random.uniform(0.18, 0.65), random.uniform(0.3, 0.75)
    if every(seed, number, _NO_OEDEMA_EVERY, "no oedema"):
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
        "WT": ramp(edge - spread, 0, 0.25),
        "TC": ramp(core_edge - bulk, 0, 0.15) * in_whole,
        "NCR": ramp(dead_edge - necrosis, 0, 0.15) if rim_share else np.ones_like(bulk),
        "texture": inside(noise("texture", 2 * cells(radius(core)))),
    }
    if resected:
        hollow = bulk + 0.5 * inside(noise("cavity", cells(radius(core))))
        hollow_edge = _lowest(hollow[in_core], int(random.uniform(0.35, 0.6) * core))
        tissues[in_core & (hollow < hollow_edge)] = Tissue.RC
        shares["RC"] = ramp(hollow_edge - hollow, 0, 0.1) * in_core
    return shares, tissues


def with_tumour(seed, number, random, modality, signal, shares) -> np.ndarray:
    """Signal [V] with the tumour mixed in at its soft shares."""
    _, wm, csf, oedema, necrosis, rim = SIGNAL[modality]
    look = random_stream(seed, number, "look")  # the same draw for every modality
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
