"""What `import tfbrats` gives to programs: cases, models, scores, networks, records and training, by name.

    import tfbrats
    case = tfbrats.load_case("BraTS2020/BraTS20_Training_001")
    segmentation = tfbrats.load_model("models/cun").segment(case)
    print(tfbrats.score(segmentation, case))

Each function loads what it needs when it is called. What is wrong with what it is given is an `InputError` that
says what was expected, what was found, and what to do.

Arrays of a case are [I, J, K]: i, j and k point to the patient's left, back and head, as BraTS stores them.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from tfbrats import api_inputs as inputs
from tfbrats.api_inputs import Path
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from tfbrats.cases.case import Case
    from tfbrats.config import Config
    from tfbrats.datasets.layouts import CaseFiles, Dataset
    from tfbrats.metrics.scores import Scores
    from tfbrats.predictions.model_card import ModelCard
    from tfbrats.predictions.results import Segmentation

_BATCH = 8  # where a config leaves the batch size to the machine


# --- cases ----------------------------------------------------------------------------------------------


def find_cases(folder: Path, edition: str | None = None) -> "Dataset":
    """Every case below a folder, by the names of its files; no image is opened.

        cases = tfbrats.find_cases("BraTS2020")
        len(cases), cases["BraTS20_Training_001"]
        for files in cases: case = tfbrats.load_case(files)

    Args:
        folder: a data set of any BraTS edition, UPENN-GBM, UCSF-PDGM, BIDS, the Decathlon or nnU-Net, one
            case's folder, or any folder above; a gs:// path too.
        edition: whose label values the segmentations have, where the names do not tell it, e.g. "2023".

    Raises:
        InputError: no case is found (lists what was looked for), or no edition is told.
    """
    return inputs.cases_below(folder, edition)


def load_case(
    source: "Path | CaseFiles | Mapping[str, Path]",
    modalities: str | Sequence[str] = MODALITIES,
    edition: str | None = None,
) -> "Case":
    """One case: its scans, its segmentation if it has one, its voxel size. All is checked that can be.

        case = tfbrats.load_case("BraTS2020/BraTS20_Training_001")
        case.image.shape, case.spacing_mm     # (240, 240, 155, 4), (1.0, 1.0, 1.0)
        case                                  # in a notebook: three planes
        case = tfbrats.load_case({"flair": "a.nii.gz", "t1": "b.nii.gz", "t1ce": "c.nii.gz", "t2": "d.nii.gz"})

    Args:
        source: a folder that holds one case, one of what `find_cases` found, or modality -> file.
        modalities: which scans, in the order of the image's last axis, in any spelling; one may be a text.
        edition: as for `find_cases`.

    Returns:
        `.image` int16 or float32 [I, J, K, M]; `.label` tissues uint8 [I, J, K] (0 background, 1 NCR, 2 ED,
        3 ET, 4 RC, 5 CC, whatever the files have), or None; `.spacing_mm`, `.volumes_ml`, `.notes`.

    Raises:
        InputError: no case or several, or the case cannot be used: with every fault, the file and the cure.

    Warns:
        UserWarning: something was guessed by names: the edition of the labels, or which file is which scan.
    """
    from tfbrats.cases import case

    wanted = inputs.modalities_of(modalities)
    entry, untold = inputs.entry_of(source, edition)
    return dataclasses.replace(case.load(entry, wanted), edition_untold=untold)


def simulate_case(
    seed: int = 0, shape: Sequence[int] = (96, 96, 64), spacing_mm: Sequence[float] = (1, 1, 1)
) -> "Case":
    """A simulated glioma with its segmentation, to try things on: no patient, and no proof of anything.

        case = tfbrats.simulate_case(seed=1)

    Args:
        seed: decides all; the same as case 0 of `tfbrats phantom --seed`.
        shape: voxels along i, j, k, at least (24, 24, 16); (240, 240, 155) is BraTS' own.
        spacing_mm: of them; the tumour stays round.

    Raises:
        InputError: the shape is too small to hold a brain, the spacing is none, or the seed is below 0.
    """
    from tfbrats.phantoms import simulation

    seed, sides_mm = inputs.whole("seed", seed, 0), inputs.sides_mm(spacing_mm)
    if isinstance(shape, int) or len(shape) != 3:
        raise InputError(f"shape={shape!r}: expected three numbers of voxels, along i, j, k.")
    voxels = [inputs.whole("a side of shape", side, 1) for side in shape]
    image, tissues = simulation.simulate(voxels, seed, 0, sides_mm)
    scans = {modality: image[..., channel] for channel, modality in enumerate(MODALITIES)}
    return inputs.case_of_arrays(scans, sides_mm, EDITIONS["2020"], f"simulated_{seed}", tissues)


# --- models ---------------------------------------------------------------------------------------------


def load_model(folder: Path) -> "Model":
    """An exported model, ready to segment. TensorFlow is loaded now, and keeps quiet unless TFBRATS_LOG=1.

        model = tfbrats.load_model("models/cun")

    Args:
        folder: a model, of which the newest version is taken, or one version: "models/cun/1"; gs:// too.

    Raises:
        InputError: no model here, or a damaged one.
    """
    from tfbrats.predictions import model_card

    version = model_card.version_folder(inputs.given(folder))
    with inputs.quiet_tensorflow():
        return Model(version)


class Model:
    """An exported model, loaded: `load_model` makes it.

    Attributes:
        folder: of the version.
        card: what the model says of itself: modalities, label values, training data, scores.
    """

    def __init__(self, folder: str):
        from tfbrats.inference.saved_segmenter import SavedSegmenter

        self.folder = folder
        self._segmenter = SavedSegmenter(folder)

    @property
    def card(self) -> "ModelCard":
        return self._segmenter.card

    def segment(
        self, case: "Case | CaseFiles | Path | Mapping[str, Path]", probabilities: bool = False
    ) -> "Segmentation":
        """The segmentation of a case, on its grid. The bias field is corrected where the model wants that (N4).

            segmentation = model.segment(case)
            segmentation.volumes_ml               # {"WT": 61.3, "TC": 20.8, "ET": 12.9}
            segmentation.save("seg.nii.gz")

        Args:
            case: from `load_case` or `simulate_case`; or what `load_case` takes. Of a folder or files whose
                names tell no edition, `save` then writes the model's label values.
            probabilities: also of WT, TC and ET, float32 [I, J, K, 3].

        Returns:
            `.labels` uint8 [I, J, K] in the values that the card names, `.tissues` as in `Case.label`,
            `.probabilities` or None, `.volumes_ml` by region, `.save(path)`.

        Raises:
            InputError: the case cannot be used, or lacks a modality.

        Warns:
            UserWarning: the case's voxels are not of the size that the model was trained on, or the scans look
                odd: a skull, scans that cover different places, one scan twice; or the model is an old one, and
                SimpleITK corrects the bias field here.
        """
        from tfbrats.cases.case import Case, load

        if isinstance(case, Case):
            loaded = _with_modalities(case, self.card.modalities)
        else:
            entry, untold = inputs.entry_of(case)
            loaded = dataclasses.replace(load(entry, self.card.modalities), edition_untold=untold)
        for note in self._doubts(loaded):
            warnings.warn(note, stacklevel=2)
        return self._segmenter.segment(loaded, probabilities)

    def segment_arrays(
        self,
        arrays: Mapping[str, ArrayLike],
        spacing_mm: Sequence[float] = (1, 1, 1),
        probabilities: bool = False,
        case_id: str = "arrays",
    ) -> "Segmentation":
        """The segmentation of scans that lie in memory.

        Arrays do not tell where they lie: the grid that `save` writes is made up of their spacing, and a viewer
        does not show the file over the scans. For that, segment files (`segment`).

            segmentation = model.segment_arrays({"flair": a, "t1": b, "t1ce": c, "t2": d}, spacing_mm=(1, 1, 1))

        Args:
            arrays: modality -> [I, J, K], all on one grid, brain alone (0 outside), i, j and k to the patient's
                left, back and head. Arrays of another order (nibabel gives that of the file, often RAS) are
                turned first: `a[::-1, ::-1]` for RAS.
            spacing_mm: voxel size along i, j, k.
            probabilities: as for `segment`.
            case_id: a name for messages.

        Raises:
            InputError: an array is missing, of another shape, or holds what no scan does; with the cure.

        Warns:
            UserWarning: as `segment`.
        """
        loaded = inputs.case_of_arrays(arrays, spacing_mm, self.card.schema_of_labels, case_id)
        loaded = _with_modalities(loaded, self.card.modalities)
        for note in self._doubts(loaded):
            warnings.warn(note, stacklevel=2)
        return self._segmenter.segment(loaded, probabilities)

    def _doubts(self, loaded: "Case") -> list[str]:
        """What a person should know of a case before it is segmented."""
        from tfbrats.predictions import doubts

        of_model = (doubts.n4_note(self.card), doubts.spacing_note(self.card, loaded.spacing_mm))
        return [f"{loaded.case_id}: {note}" for note in (*of_model, *doubts.of(loaded)) if note]

    def __repr__(self) -> str:
        schema = self.card.schema_of_labels
        return (
            f"<Model {self.card.name} version {self.card.version} at {self.folder}: "
            f"{' '.join(self.card.modalities)} in, {schema.describe()} out>"
        )


def _with_modalities(case: "Case", modalities: Sequence[str]) -> "Case":
    """The case with these scans alone, in this order; as it is if one is missing, which the model tells."""
    if case.modalities == tuple(modalities) or not set(modalities) <= set(case.modalities):
        return case
    channels = [case.modalities.index(modality) for modality in modalities]
    return dataclasses.replace(case, image=case.image[..., channels], modalities=tuple(modalities))


# --- scores ---------------------------------------------------------------------------------------------


def score(
    prediction: "Segmentation | Case | ArrayLike",
    reference: "Segmentation | Case | ArrayLike",
    spacing_mm: Sequence[float] | None = None,
    edition: str = "2023",
    empty: str = "brats",
) -> "Scores":
    """Dice, HD95, sensitivity and more of WT, TC and ET, as `tfbrats evaluate` has them.

        scores = tfbrats.score(model.segment(case), case)
        scores["WT"].dice, scores["ET"].hd95_mm
        tfbrats.score(array, other_array, spacing_mm=(1, 1, 1))

    Args:
        prediction, reference: a segmentation, a case that has one, or label values, whole numbers [I, J, K].
            Axes of an array are those of `Case.label`: i, j and k point to the patient's left, back and head.
            An array of another order is turned first, `a[::-1, ::-1]` for RAS: no array tells its order.
        spacing_mm: voxel size along i, j, k; of two arrays it must be given.
        edition: whose label values arrays have: "2023" reads 1 NCR, 2 ED, 3 ET, as `Segmentation.tissues` are;
            "2020" 1 NCR, 2 ED, 4 ET.
        empty: the rule for a region that one side lacks: "brats" or "nan" (undefined).

    Raises:
        InputError: another shape or grid, values that the edition has not, no segmentation, or no spacing.
    """
    from tfbrats.metrics.region_scores import score_case
    from tfbrats.metrics.scores import Scores

    ours, our_grid = inputs.tissues_of(prediction, edition, "prediction")
    theirs, their_grid = inputs.tissues_of(reference, edition, "reference")
    return Scores(*score_case(ours, theirs, inputs.spacing_of((our_grid, their_grid), spacing_mm), empty))


# --- networks, records, training ------------------------------------------------------------------------


def build_network(config: "Path | Config" = "cun", width: int | None = None, region: str = "") -> "keras.Model":
    """A network of the papers with fresh weights, as training begins with it.

        network = tfbrats.build_network("cun", width=8)
        network(numpy.zeros((1, 96, 96, 4)))["branch2_logits"].shape      # (1, 96, 96, 4)

    Args:
        config: unet2d, bfcn, drn, cun, cun_lws, unet3d, msm, msm_noaspp; a YAML file, or a config.
        width: channels at full resolution; by default the config's.
        region: "WT", "TC" or "ET", of the networks that have one for each: unet3d, msm, msm_noaspp.

    Returns:
        of slices [N, H, W, M] or patches [N, S, S, S, C] -> logits by name, float32. `network.save` writes it;
        `keras.models.load_model` reads it, once `tfbrats.networks` is imported.

    Raises:
        InputError: no such config, or a region is missing or too many.
    """
    settings = inputs.config_of(config, () if width is None else (f"model.width={width}",))
    with inputs.quiet_tensorflow():
        from tfbrats import networks

        return networks.build(settings, region=inputs.region_of(settings, region))


def read_records(
    folder: Path,
    split: str = "train",
    config: "Path | Config | None" = None,
    region: str = "",
    batch_size: int | None = None,
    epoch: int = 0,
) -> "tf.data.Dataset":
    """One pass over a record set as (input, target) batches, for `model.fit` or a loop of your own.

        for image, classes in tfbrats.read_records("records/cun", batch_size=8): ...

    Args:
        folder: what `tfbrats prepare` wrote.
        split: "train" (shuffled, augmented), "validation" or "test" (in order, as they are).
        config: that the records were written with; by default as they say themselves. Of volumes it also
            decides the patches that are cut, and "unet3d" sees one scale where "msm" sees three.
        region: "WT", "TC" or "ET", of patches and volumes.
        batch_size: N; by default the config's.
        epoch: from 0; each has an order and an augmentation of its own, the same whenever it is asked for.

    Returns:
        of slices: float32 [N, H, W, M], int32 [N, H, W] (0 non-tumour, 1 NCR, 2 ED, 3 ET).
        Of patches: float32 [N, S, S, S, C], float32 [N, S, S, S, 1] (1 in the region).
        The last batch of validation and test may be smaller.

    Raises:
        InputError: no records, damaged ones, or of another config; no such split; a region missing or too many.
    """
    from tfbrats.records import manifest as manifests

    folder = inputs.given(folder)
    manifest = manifests.read_manifest(folder)
    if split not in manifest.cases:
        raise InputError(f"{folder}: no split {split!r}; it has {', '.join(manifest.cases)}.")
    settings = inputs.config_of_records(manifest, config)
    manifests.check_identity(manifest, settings, folder)
    region = inputs.region_of(settings, region)
    stored = [shard for shard in manifest.shards if shard.region in ("", region)]
    faults = [fault for shard in stored if (fault := manifests.check_shard(folder, shard, content=False))]
    if faults:
        raise InputError("\n".join(faults))
    batch = settings.train.batch_size if batch_size is None else inputs.whole("batch_size", batch_size, 1)
    epoch = inputs.whole("epoch", epoch, 0)
    settings = inputs.config_of(settings, (f"data.records={folder}",))
    with inputs.quiet_tensorflow():
        from tfbrats.batches import fit_pairs

        return fit_pairs.pairs(manifest, settings, split, region, _BATCH if batch == "auto" else batch, epoch)


def train_model(
    config: "Path | Config",
    *overrides: str,
    records: Path | None = None,
    run: Path | None = None,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Trains as `tfbrats train` does, in this process; called again, it goes on where it stopped.

        tfbrats.train_model("cun_lws", "train.epochs=50", records="records/cun", run="runs/cun_lws")

    Args:
        config: a shipped name, a YAML file, or a config.
        overrides: "section.key=value".
        records: what `tfbrats prepare` wrote; by default data.records of the config.
        run: folder to train into; by default run.dir of the config.
        overwrite: delete what the run folder holds first.

    Returns:
        the rows of history.csv, one an epoch; of three networks in turn, each with its region.

    Raises:
        InputError: as the command's errors.
    """
    places = {"data.records": records, "run.dir": run}
    given = [f"{key}={inputs.given(place)}" for key, place in places.items() if place is not None]
    settings = inputs.config_of(config, (*overrides, *given))
    with inputs.quiet_tensorflow():
        from tfbrats.workflows import whole_run

        history: list[dict[str, Any]] = whole_run.train(settings, overwrite)
        return history
