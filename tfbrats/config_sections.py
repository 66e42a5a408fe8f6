"""The sections of a config that the rows of both papers have, and the values in them; `config` has the rest.

Scientific values live in the YAML alone. Only keys that came later have a default: what versions without the
key did, so that runs, records and cards from before stay what they are. No TensorFlow.
"""

from typing import Annotated, Any, Literal

import pydantic

from tfbrats.labels import MODALITIES
from tfbrats.machine import paths

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


class Section(pydantic.BaseModel):
    """A section of the YAML: unknown keys are refused, and nothing changes later."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Preprocess(Section):
    """What is done to a case before it is cut."""

    n4_modalities: tuple[Modality, ...]  # which are corrected for shading (bias field)
    n4_shrink: pydantic.PositiveInt  # N4 fits its field on an image shrunk by this factor
    n4: N4 = "itk"  # whose N4: ours, or SimpleITK's (itk), which is also meant where the key is missing

    def identity(self) -> dict[str, Any]:
        """What the bytes of records depend on; of SimpleITK's N4 as it was written when there was no other."""
        return self.model_dump(mode="json", exclude=None if self.n4_modalities and self.n4 != "itk" else {"n4"})


class Model(Section):
    """The network."""

    width: pydantic.PositiveInt  # channels at full resolution; doubles at each level
    batch_norm: Literal["synchronised", "per_replica"]  # over the global batch, or each replica's
    reestimate_moments: pydantic.NonNegativeInt = 0  # batches that re-estimate batch-norm's moments; 0: none


class Data(Section):
    """Which records train, and how they are read."""

    records: Place  # the record set, where --records names no other
    modalities: tuple[Modality, ...]  # which are used; the channel order inside the network
    shuffle_buffer: pydantic.PositiveInt  # examples among which the next one is drawn
    open_shards: pydantic.PositiveInt | None = None  # shards read in turn; null: 4, patches 16, volumes 2
    intensity_change: Fraction = 0.0  # the most that gain, offset and gamma of a modality vary in training

    @pydantic.field_validator("modalities")
    @classmethod
    def _each_once(cls, value):
        if len(set(value)) != len(value) or not value:
            raise ValueError(f"name each modality once; choose from {', '.join(MODALITIES)}")
        return value


class Records(Section):
    """How a record set is written."""

    split: Ratio  # parts of training, validation and test
    seed: pydantic.NonNegativeInt  # of the split, and of what is drawn when cases are cut
    shard_mib: pydantic.PositiveInt  # a shard holds whole cases up to about this size
    min_shards: pydantic.PositiveInt  # shards of a split at least, as far as there are cases


class Train(Section):
    """How long and how fast a network learns, and on what."""

    epochs: pydantic.PositiveInt  # times that the training cases are seen
    steps_per_epoch: pydantic.PositiveInt | None  # null: as many as the records fill
    batch_size: int | Literal["auto"]  # per replica; auto: the largest that fits
    learning_rate: pydantic.PositiveFloat  # at the start
    stop_rise: pydantic.NonNegativeFloat  # a validation loss over (1 + this) x best is an obvious rise
    stop_patience: pydantic.PositiveInt  # training stops after so many epochs with an obvious rise in a row
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"]  # in which the network computes
    tf32: bool = True  # on NVIDIA GPUs round what float32 multiplies to 10 bits; true where it is missing
    select: Literal["loss", "dice"] = "loss"  # the best epoch: lowest validation loss, or highest Dice of cases
    ema: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0  # how slowly averaged weights follow; 0: no average
    jit_compile: bool  # compile the step with XLA, on one device
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"]  # auto: by the devices there are
    checkpoint_minutes: pydantic.PositiveFloat  # between checkpoints inside a long epoch
    seed: pydantic.NonNegativeInt  # of weights, order, augmentation and sampling
    # A default, for runs from before there was a choice.
    frozen: Literal["nothing", "encoder"] = "nothing"  # which layers of the model in --from stay as they are

    @pydantic.field_validator("batch_size", mode="plain")
    @classmethod
    def _a_number_or_auto(cls, value):
        # By hand: of a union, pydantic would name a fault of each member.
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError("Input should be greater than 0, a whole number, or auto")
        return value


class Run(Section):
    """Where the run's folder is."""

    dir: Place  # the folder, where --run names no other
