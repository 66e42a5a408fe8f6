"""The YAML of a run as typed, frozen objects. Every key but later ones is required; an unknown one is an error.

The sections that both papers have are in `config_sections`. What follows from a config alone stands here too
(`regions`, `unit`, `scales`), so that nobody has to ask which paper a config is of. No TensorFlow.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import yaml

from tfbrats.config_sections import (
    Data,
    Fraction,
    Model,
    Preprocess,
    Records,
    Run,
    Section,
    Train,
)
from tfbrats.labels import REGIONS

# --- any row ---------------------------------------------------------------------------------------------


class RowConfig(Section):
    """One row of a paper's table, ready to run."""

    @pydantic.model_validator(mode="after")
    def _n4_is_of_the_data(self):
        stray = set(self.preprocess.n4_modalities) - set(self.data.modalities)
        if stray:
            raise ValueError(f"preprocess.n4_modalities names {sorted(stray)}, not in data.modalities")
        return self

    def to_yaml(self) -> str:
        """The config as a file of its own."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


# --- paper A: networks that see axial slices ------------------------------------------------------------


class SliceModel(Model):
    """A network of paper A's table."""

    name: Literal["cun", "unet2d", "bfcn", "drn"]  # which network


class SliceData(Data):
    rotation_degrees: Annotated[float, pydantic.Field(ge=0, le=180)]  # the most that a slice is turned
    flip: Fraction  # probability that a slice is mirrored, drawn for each of its axes


class SliceRecords(Records):
    kind: Literal["slices"]  # what a record is
    slice_shape: tuple[pydantic.PositiveInt, pydantic.PositiveInt]  # voxels it sees, multiples of 16
    dropped_fraction: Fraction  # of a training case's slices: those without brain first, then tumour-free ones

    @pydantic.field_validator("slice_shape")
    @classmethod
    def _sixteenths(cls, value):
        if any(side % 16 for side in value):
            raise ValueError("each side must be a multiple of 16 (four poolings)")
        return value


class SliceTrain(Train):
    """Stochastic gradient descent, with what paper A lets fall over the epochs."""

    learning_rate_floor: pydantic.PositiveFloat  # it falls no further
    momentum: Fraction  # of the gradient descent
    weight_decay: pydantic.NonNegativeFloat  # of the convolution kernels, in the loss
    omega: pydantic.NonNegativeFloat  # weight of cun's eight auxiliary losses
    omega_floor: pydantic.NonNegativeFloat  # it falls no further
    ladder_epochs: pydantic.PositiveInt  # learning rate and omega fall by ladder_factor every so many epochs
    ladder_factor: Annotated[float, pydantic.Field(gt=0, le=1)]  # what they are multiplied by then


class LossWeightedSampling(Section):
    """Weights of the pixels in the loss, by their region (paper A)."""

    enabled: bool  # false: all pixels count alike
    beta: pydantic.PositiveFloat  # normal pixels that count, for each tumour pixel (paper A, eq. 3)
    contour_weight: Annotated[float, pydantic.Field(ge=1)]  # of the contour in U-Net1's loss (alpha1)
    contour_width_mm: pydantic.PositiveFloat  # of the contour, a band round the tumour's outline
    floor: Fraction | Literal["auto"]  # the least share of normal pixels that count; auto: 1/(beta epochs)
    scope: Literal["batch", "slice"]  # over what the pixels are counted
    validation_scope: Literal["as_trained", "split"] = "as_trained"  # for validation; or over all its slices

    @pydantic.field_validator("floor", mode="plain")
    @classmethod
    def _a_share_or_auto(cls, value):
        # By hand: of a union, pydantic would name a fault of each member.
        if value == "auto":
            return value
        try:
            share = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            share = math.nan
        if not 0 <= share <= 1:
            raise ValueError("Input should be from 0 to 1, or auto")
        return share


class SliceConfig(RowConfig):
    """A row of paper A's table."""

    regions: ClassVar[tuple[str, ...]] = ("",)  # the networks of a run: one, which has no region of its own
    unit: ClassVar[str] = "slices"  # what the examples are, as a word for texts
    scales: ClassVar[int] = 1  # at which a network sees an example
    examples_per_case: ClassVar[int | None] = None  # in an epoch: a case has as many slices as it has

    model: SliceModel
    data: SliceData
    preprocess: Preprocess
    records: SliceRecords
    train: SliceTrain
    lws: LossWeightedSampling
    run: Run

    @pydantic.model_validator(mode="after")
    def _what_cun_alone_has_is_off(self):
        if self.model.name == "cun":
            return self
        keys = {
            "train.omega": (self.train.omega, "0"),
            "train.omega_floor": (self.train.omega_floor, "0"),
            "lws.enabled": (self.lws.enabled, "false"),
        }
        wrong = [f"{key}={off}" for key, (value, off) in keys.items() if value]
        if wrong:
            raise ValueError(
                f"{self.model.name} has neither auxiliary losses nor loss weighted sampling, which are cun's: "
                f"set {' '.join(wrong)}"
            )
        return self

    @property
    def whole(self) -> "SliceConfig":
        """The config that a run's folder holds."""
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Voxels along each axis of what a network sees."""
        return self.records.slice_shape

    @property
    def weighted_sampling(self) -> bool:
        """Whether loss weighted sampling is on."""
        return self.lws.enabled

    @property
    def p2_floor(self) -> float:
        """The least p2. By itself (auto) it is such that beta * p2 * epochs >= 1, as paper A asks."""
        if self.lws.floor != "auto":
            return self.lws.floor
        return min(1.0, 1 / (self.lws.beta * self.train.epochs))

    def records_identity(self) -> dict[str, Any]:
        """All that the bytes of the records depend on: the writer stores it, the reader compares it.

        The rest of the config may differ between runs on one record set: all rows of paper A's table share.
        """
        content = self.model_dump(mode="json")
        return {
            "modalities": content["data"]["modalities"],
            "preprocess": self.preprocess.identity(),
            "records": content["records"],
            "contour_width_mm": content["lws"]["contour_width_mm"],
        }


class Boundary(Section):
    """What the boundary branch of `bfcn` learns, and how much the two branches count."""

    width_px: pydantic.PositiveInt  # of the outlines of WT, TC and ET
    balanced: bool  # pixels on an outline weigh as much more as they are rarer; false: each pixel weighs 1
    region_weight: pydantic.NonNegativeFloat  # of the region branch's loss; the combination's weighs 1
    boundary_weight: pydantic.NonNegativeFloat  # of the boundary branch's loss

    @pydantic.field_validator("width_px")
    @classmethod
    def _odd(cls, value):
        if value % 2 == 0:
            raise ValueError(
                f"a line centred on pixels is 1, 3, 5 ... px wide: take {value - 1} or {value + 1}"
            )
        return value


class BoundaryConfig(SliceConfig):
    """Paper A's row `bfcn`: the only one with outlines."""

    boundary: Boundary


# --- paper B: networks that see patches, one for each region --------------------------------------------


class PatchModel(Model):
    """A network of paper B's tables."""

    name: Literal["msm", "msm_noaspp", "unet3d"]  # which network


class PatchData(Data):
    patches_per_read: pydantic.PositiveInt  # patches of a volume each time it is read; for kind "volumes" alone


class PatchRecords(Records):
    kind: Literal["patches", "volumes"]  # what a record is: cut once and stored, or cut afresh every epoch


class Sampling(Section):
    """Which patches a case gives."""

    patch_size: Annotated[int, pydantic.Field(ge=8, multiple_of=8)]  # voxels along each side
    patches_per_case: pydantic.PositiveInt  # for each region
    region_fraction: Fraction  # of the centres, on the region's voxels; the rest anywhere in the parent box
    boxes: Literal["reference", "predicted"]  # whose parent boxes training uses
    box_jitter: pydantic.NonNegativeInt  # each face of a parent box is moved by up to this many voxels


class Cascade(Section):
    """How the regions follow from each other, WT -> TC -> ET, in training and on a whole case."""

    mask: Literal["box", "multiply"]  # what bounds a network; multiply: the image is 0 outside the parent
    margin: pydantic.NonNegativeInt  # voxels round the parent region's box
    stride: pydantic.PositiveInt  # voxels from tile to tile
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)]  # a voxel over it is of the region
    tile_batch: pydantic.PositiveInt  # tiles in one forward pass: bounds its memory


class PatchTrain(Train):
    """Adam."""

    beta1: Annotated[float, pydantic.Field(ge=0, lt=1)]  # how fast Adam forgets gradients
    beta2: Annotated[float, pydantic.Field(ge=0, lt=1)]  # how fast it forgets their squares


class PatchConfig(RowConfig):
    """A row of paper B's tables: three networks, WT, TC and ET."""

    unit: ClassVar[str] = "patches"  # what the examples are, as a word for texts
    weighted_sampling: ClassVar[bool] = False  # it is paper A's

    region: Literal["all", "wt", "tc", "et"]  # which network to train: three machines can share the work
    model: PatchModel
    data: PatchData
    preprocess: Preprocess
    records: PatchRecords
    sampling: Sampling
    cascade: Cascade
    train: PatchTrain
    run: Run

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.cascade.stride > self.sampling.patch_size:
            raise ValueError(
                f"cascade.stride {self.cascade.stride} is more than sampling.patch_size "
                f"{self.sampling.patch_size}: voxels between two tiles would be in none"
            )
        if self.model.name != "unet3d" and self.model.width % 2:
            raise ValueError(
                f"model.width {self.model.width} is odd: the four branches of ET's pyramid have half of it each"
            )
        if self.sampling.boxes == "predicted" and self.records.kind == "patches":
            raise ValueError(
                "sampling.boxes=predicted needs records.kind=volumes: stored patches were cut before there was "
                "a prediction"
            )
        if self.sampling.boxes == "predicted" and self.cascade.mask == "multiply":
            raise ValueError("sampling.boxes=predicted goes with cascade.mask=box: boxes are kept, not masks")
        return self

    @property
    def regions(self) -> tuple[str, ...]:
        """The networks of a run, by their region and in the cascade's order, e.g. ("WT", "TC", "ET")."""
        return tuple(REGIONS) if self.region == "all" else (self.region.upper(),)

    @property
    def whole(self) -> "PatchConfig":
        """The config that a run's folder holds: of all three networks, whichever is trained now."""
        return self.model_copy(update={"region": "all"})

    @property
    def scales(self) -> int:
        """The number of scales at which a network sees a patch: x1, x0.5 and x2, or x1 alone."""
        return 1 if self.model.name == "unet3d" else 3

    @property
    def examples_per_case(self) -> int | None:
        """The examples that one network gets of a case in an epoch."""
        return self.sampling.patches_per_case

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Voxels along each axis of what a network sees."""
        return (self.sampling.patch_size,) * 3

    def records_identity(self) -> dict[str, Any]:
        """All that the bytes of the records depend on: volumes are the same whatever is cut from them."""
        content = self.model_dump(mode="json")
        identity = {
            "modalities": content["data"]["modalities"],
            "preprocess": self.preprocess.identity(),
            "records": content["records"],
        }
        if self.records.kind == "patches":
            identity["sampling"] = content["sampling"]
            identity["cascade"] = {key: content["cascade"][key] for key in ("mask", "margin")}
        return identity


# --- any config -----------------------------------------------------------------------------------------

Config = SliceConfig | PatchConfig


def differences(here: Mapping, there: Mapping, prefix: str = "") -> list[str]:
    """What differs between two nested mappings, by key: ["records.seed: 0, there 1", ...]."""
    lines = []
    for key in {**here, **there}:
        a, b = here.get(key), there.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a}, there {b}")
    return lines
