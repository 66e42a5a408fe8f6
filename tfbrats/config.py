"""The YAML of a run as typed, frozen objects. Every key but two is required; an unknown one is an error.

Scientific values live in the YAML alone: nothing here has a default but `preprocess.n4` and `train.tf32`, and
theirs is what versions without the key did. What follows from a config alone stands here too (`regions`,
`unit`, `scales`), so that nobody has to ask which paper a config is of. No TensorFlow.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic
import yaml

from tfbrats.labels import MODALITIES, REGIONS
from tfbrats.machine import paths

# --- values and sections that both papers have ----------------------------------------------------------

Modality = Literal["flair", "t1", "t1ce", "t2"]
N4 = Literal["ours", "itk"]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Ratio = tuple[pydantic.PositiveInt, pydantic.NonNegativeInt, pydantic.NonNegativeInt]


def _place(value: Any) -> str:
    """The name of a folder as it was written: YAML makes other things of some names."""
    if not isinstance(value, str):
        raise ValueError("not the name of a folder as YAML reads it. Put the name between quotes: 'NAME'")
    return paths.given(value)


Place = Annotated[str, pydantic.BeforeValidator(_place)]  # a folder


class _Section(pydantic.BaseModel):
    """A section of the YAML: unknown keys are refused, and nothing changes later."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Preprocess(_Section):
    """What is done to a case before it is cut."""

    n4_modalities: tuple[Modality, ...]  # which are corrected for shading (bias field)
    n4_shrink: pydantic.PositiveInt  # N4 fits its field on an image shrunk by this factor
    # A default, for runs, records and cards from before there was a choice.
    n4: N4 = "itk"  # whose N4: ours, or SimpleITK's (itk), which is also meant where the key is missing

    def identity(self) -> dict[str, Any]:
        """What the bytes of records depend on; of SimpleITK's N4 as it was written when there was no other."""
        return self.model_dump(mode="json", exclude=None if self.n4_modalities and self.n4 != "itk" else {"n4"})


class _Model(_Section):
    """The network."""

    width: pydantic.PositiveInt  # channels at full resolution; doubles at each level
    batch_norm: Literal["synchronised", "per_replica"]  # over the global batch, or each replica's


class _Data(_Section):
    """Which records train, and how they are read."""

    records: Place  # the record set, where --records names no other
    modalities: tuple[Modality, ...]  # which are used; the channel order inside the network
    shuffle_buffer: pydantic.PositiveInt  # examples among which the next one is drawn

    @pydantic.field_validator("modalities")
    @classmethod
    def _each_once(cls, value):
        if len(set(value)) != len(value) or not value:
            raise ValueError(f"name each modality once; choose from {', '.join(MODALITIES)}")
        return value


class _Records(_Section):
    """How a record set is written."""

    split: Ratio  # parts of training, validation and test
    seed: pydantic.NonNegativeInt  # of the split, and of what is drawn when cases are cut
    shard_mib: pydantic.PositiveInt  # a shard holds whole cases up to about this size
    min_shards: pydantic.PositiveInt  # shards of a split at least, as far as there are cases


class _Train(_Section):
    """How long and how fast a network learns, and on what."""

    epochs: pydantic.PositiveInt  # times that the training cases are seen
    steps_per_epoch: pydantic.PositiveInt | None  # null: as many as the records fill
    batch_size: int | Literal["auto"]  # per replica; auto: the largest that fits
    learning_rate: pydantic.PositiveFloat  # at the start
    stop_rise: pydantic.NonNegativeFloat  # a validation loss over (1 + this) x best is an obvious rise
    stop_patience: pydantic.PositiveInt  # training stops after so many epochs with an obvious rise in a row
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]  # in which the network computes
    tf32: bool = True  # on NVIDIA GPUs round what float32 multiplies to 10 bits; true where it is missing
    jit_compile: bool  # compile the step with XLA, on one device
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]  # auto: by the devices there are
    checkpoint_minutes: pydantic.PositiveFloat  # between checkpoints inside a long epoch
    seed: pydantic.NonNegativeInt  # of weights, order, augmentation and sampling

    @pydantic.field_validator("batch_size", mode="plain")
    @classmethod
    def _a_number_or_auto(cls, value):
        # By hand: of a union, pydantic would name a fault of each member.
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError("Input should be greater than 0, a whole number, or auto")
        return value


class Run(_Section):
    """Where the run's folder is."""

    dir: Place  # the folder, where --run names no other


class RowConfig(_Section):
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


class SliceModel(_Model):
    """A network of paper A's table."""

    name: Literal["cun", "unet2d", "bfcn", "drn"]  # which network


class SliceData(_Data):
    rotation_degrees: Annotated[float, pydantic.Field(ge=0, le=180)]  # the most that a slice is turned
    flip: Fraction  # probability that a slice is mirrored, drawn for each of its axes


class SliceRecords(_Records):
    kind: Literal["slices"]  # what a record is
    slice_shape: tuple[pydantic.PositiveInt, pydantic.PositiveInt]  # voxels it sees, multiples of 16
    dropped_fraction: Fraction  # of a training case's slices: those without brain first, then tumour-free ones

    @pydantic.field_validator("slice_shape")
    @classmethod
    def _sixteenths(cls, value):
        if any(side % 16 for side in value):
            raise ValueError("each side must be a multiple of 16 (four poolings)")
        return value


class SliceTrain(_Train):
    """Stochastic gradient descent, with what paper A lets fall over the epochs."""

    learning_rate_floor: pydantic.PositiveFloat  # it falls no further
    momentum: Fraction  # of the gradient descent
    weight_decay: pydantic.NonNegativeFloat  # of the convolution kernels, in the loss
    omega: pydantic.NonNegativeFloat  # weight of cun's eight auxiliary losses
    omega_floor: pydantic.NonNegativeFloat  # it falls no further
    ladder_epochs: pydantic.PositiveInt  # learning rate and omega fall by ladder_factor every so many epochs
    ladder_factor: Annotated[float, pydantic.Field(gt=0, le=1)]  # what they are multiplied by then


class LossWeightedSampling(_Section):
    """Weights of the pixels in the loss, by their region (paper A)."""

    enabled: bool  # false: all pixels count alike
    beta: pydantic.PositiveFloat  # normal pixels that count, for each tumour pixel (paper A, eq. 3)
    contour_weight: Annotated[float, pydantic.Field(ge=1)]  # of the contour in U-Net1's loss (alpha1)
    contour_width_mm: pydantic.PositiveFloat  # of the contour, a band round the tumour's outline
    floor: Fraction  # the least share of normal pixels that count (p2)
    scope: Literal["batch", "slice"]  # over what the pixels are counted


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


class Boundary(_Section):
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


class PatchModel(_Model):
    """A network of paper B's tables."""

    name: Literal["msm", "msm_noaspp", "unet3d"]  # which network


class PatchData(_Data):
    patches_per_read: pydantic.PositiveInt  # patches of a volume each time it is read; for kind "volumes" alone


class PatchRecords(_Records):
    kind: Literal["patches", "volumes"]  # what a record is: cut once and stored, or cut afresh every epoch


class Sampling(_Section):
    """Which patches a case gives."""

    patch_size: Annotated[int, pydantic.Field(ge=8, multiple_of=8)]  # voxels along each side
    patches_per_case: pydantic.PositiveInt  # for each region
    region_fraction: Fraction  # of the centres, on the region's voxels; the rest anywhere in the parent box
    boxes: Literal["reference", "predicted"]  # whose parent boxes training uses
    box_jitter: pydantic.NonNegativeInt  # each face of a parent box is moved by up to this many voxels


class Cascade(_Section):
    """How the regions follow from each other, WT -> TC -> ET, in training and on a whole case."""

    mask: Literal["box", "multiply"]  # what bounds a network; multiply: the image is 0 outside the parent
    margin: pydantic.NonNegativeInt  # voxels round the parent region's box
    stride: pydantic.PositiveInt  # voxels from tile to tile
    threshold: Annotated[float, pydantic.Field(gt=0, lt=1)]  # a voxel over it is of the region
    tile_batch: pydantic.PositiveInt  # tiles in one forward pass: bounds its memory


class PatchTrain(_Train):
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
