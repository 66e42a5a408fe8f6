"""What people hand to `api`, checked and made into what the wings take: paths, configs, regions, arrays."""

import contextlib
import operator
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, MODALITIES, REGIONS, LabelSchema, modality_named
from tfbrats.machine import paths, quiet, surroundings

if TYPE_CHECKING:
    from tfbrats.cases.case import Case
    from tfbrats.cases.nifti import Grid
    from tfbrats.config import Config
    from tfbrats.datasets.layouts import CaseFiles, Dataset
    from tfbrats.predictions.results import Segmentation
    from tfbrats.records.manifest import Manifest

Path = str | os.PathLike[str]
_NAMED = 4  # cases that an error names
_Scan = TypeVar("_Scan")


def given(path: Path) -> str:
    """A path as the wings take it. Raises InputError: nothing can have this name."""
    return paths.given(os.fspath(path))


def cases_below(folder: Path, edition: str | None = None) -> "Dataset":
    """The data set that lies below a folder; where names tell of none, one's own scans.

    Raises:
        InputError: no case is found, or no edition is told.
    """
    from tfbrats.datasets import layouts
    from tfbrats.predictions import own_scans

    path = given(folder)
    try:
        dataset = layouts.find(path, reads_labels=False)
    except layouts.NoCaseError:
        return own_scans.find(path, edition)
    except InputError:  # it may be read by the help of an edition
        return layouts.find(path, edition)
    if not dataset.untold:
        return dataset if edition is None else layouts.find(path, edition)
    own = own_scans.find(path, edition)
    if any(entry.label and entry.case_id in own.untold for entry in own):
        return layouts.find(path)  # refuses it: no label is read by a guess
    return own


def entry_of(
    source: "Path | CaseFiles | Mapping[str, Path]", edition: str | None = None
) -> "tuple[CaseFiles, bool]":
    """The one case that is meant, and whether nothing tells its edition.

    Args:
        source: what `api.load_case` takes.

    Raises:
        InputError: no case, or several.

    Warns:
        UserWarning: whose labels, or which scan a file is, was guessed.
    """
    from tfbrats.datasets.layouts import CaseFiles
    from tfbrats.predictions import own_scans

    if isinstance(source, CaseFiles):
        return source, False  # what was found is as it was found
    if isinstance(source, Mapping):
        scans = {m: given(path) for m, path in _by_modality(source).items()}
        dataset = own_scans.named(scans, edition, option="")
    else:
        dataset = cases_below(source, edition)
        for note in dataset.guesses:
            warnings.warn(note, stacklevel=3)
    if len(dataset) > 1:
        ids = [entry.case_id for entry in dataset]
        names = ", ".join(ids[:_NAMED]) + (", ..." if ids[_NAMED:] else "")
        raise InputError(
            f"{dataset.root}: {len(ids)} cases lie here ({names}). Give one case's folder, or one of "
            f'find_cases: load_case(find_cases(folder)["{ids[0]}"]).'
        )
    (entry,) = dataset.cases
    return entry, entry.case_id in dataset.untold


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """In the block TensorFlow may be loaded: it says no more than in a command, unless TFBRATS_LOG=1.

    Filters of warnings and the environment are afterwards what they were; but `share_gpus` has set a variable,
    which stays. A process that has loaded TensorFlow already has chosen for itself what it says.
    """
    surroundings.share_gpus()
    if "tensorflow" in sys.modules or os.environ.get(quiet.LOG) == "1":
        yield
        return
    new = set(quiet.LEVELS) - set(os.environ)
    with warnings.catch_warnings():
        quiet.settle()
        import tensorflow  # noqa: F401  here, where it is quiet
    for name in new:  # processes that it starts are not ours
        os.environ.pop(name, None)
    yield


def config_of(config: "Path | Config", overrides: Sequence[str] = ()) -> "Config":
    """A config by a shipped name, a file, or itself; with `section.key=value`s put over it."""
    from tfbrats import config_file
    from tfbrats.config import RowConfig

    if isinstance(config, RowConfig):
        return config_file.overridden(config, overrides) if overrides else config
    return config_file.load(config, overrides)


def region_of(config: "Config", region: str) -> str:
    """Whose network is meant, "WT", "TC" or "ET"; "" of a config that has a single network.

    Raises:
        InputError: it is missing, unknown or too many.
    """
    network, region = config.model.name, region.upper()
    if config.whole.regions == ("",):
        if region:
            raise InputError(f"region {region!r}: {network} is one network for all regions. Leave it out.")
    elif region not in REGIONS:
        raise InputError(
            f"region {region!r}: {network} has a network for each region; give one of {', '.join(REGIONS)}."
        )
    return region


def config_of_records(manifest: "Manifest", config: "Path | Config | None") -> "Config":
    """The config that records are read by: what is given, else one made of what they say of themselves."""
    from tfbrats import config_file

    if config is not None:
        return config_of(config)
    identity = manifest.identity
    sections: Mapping[str, Any] = {
        "data.modalities": identity["modalities"],
        **{
            f"{section}.{key}": value
            for section in ("preprocess", "records", "sampling", "cascade")
            for key, value in identity.get(section, {}).items()
        },
    }
    if "contour_width_mm" in identity:
        sections = {**sections, "lws.contour_width_mm": identity["contour_width_mm"]}
    if "sampling" in identity:  # of whole cases, which are not read here; but it must fit
        sections = {**sections, "cascade.stride": identity["sampling"]["patch_size"]}
    base = config_file.load("cun" if manifest.kind == "slices" else "msm")
    return config_file.overridden(base, values=sections)


def _by_modality(scans: Mapping[str, _Scan]) -> dict[str, _Scan]:
    """Scans by the canonical names of modalities; any known spelling is taken.

    Raises:
        InputError: no modality has this name, or two have one.
    """
    named: dict[str, _Scan] = {}
    for name, scan in scans.items():
        modality = modality_named(name)
        if modality is None:
            raise InputError(f"no modality is called {name!r}: {', '.join(MODALITIES)}.")
        if modality in named:
            raise InputError(f"{modality} is given twice, once as {name!r}. Give each scan once.")
        named[modality] = scan
    return named


def modalities_of(names: str | Sequence[str]) -> tuple[str, ...]:
    """The canonical names of some modalities, one or several, each in any known spelling, in the order given.

    Raises:
        InputError: no modality has this name, two have one, or none is named.
    """
    if not names:
        raise InputError(f"modalities={names!r}: names none; give some of {', '.join(MODALITIES)}.")
    return tuple(_by_modality({name: None for name in ([names] if isinstance(names, str) else names)}))


def sides_mm(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """The size of a voxel along i, j, k. Raises InputError: it is none."""
    with contextlib.suppress(TypeError, ValueError):
        i, j, k = (float(side) for side in spacing_mm)
        if all(0 < side < np.inf for side in (i, j, k)):
            return i, j, k
    raise InputError(f"spacing_mm={spacing_mm!r}: expected three lengths over 0, along i, j, k.")


def whole(name: str, number: Any, least: int) -> int:
    """A whole number. Raises InputError: it is none, or below the least."""
    with contextlib.suppress(TypeError):
        if (found := operator.index(number)) >= least:
            return found
    raise InputError(f"{name}={number!r}: expected a whole number from {least}.")


def case_of_arrays(
    images: Mapping[str, ArrayLike],
    spacing_mm: Sequence[float],
    schema: LabelSchema,
    case_id: str = "arrays",
    label: "NDArray[np.uint8] | None" = None,
) -> "Case":
    """A case of arrays in memory, checked as one of files is.

    Args:
        images: modality -> [I, J, K], axes to the patient's left, back and head; skull-stripped, 0 outside.
        spacing_mm: voxel size along i, j, k.
        schema: in whose values a segmentation of it will be written.
        label: tissues, uint8 [I, J, K].

    Raises:
        InputError: no modality has this name, or two have one.
        CaseError: what else is wrong, every fault.
    """
    from tfbrats.cases import nifti, voxels
    from tfbrats.cases.case import Case, CaseError

    arrays = {modality: np.asarray(array) for modality, array in _by_modality(images).items()}
    faults = []
    shapes = {name: array.shape for name, array in arrays.items()}
    if not arrays or len(set(shapes.values())) > 1 or any(len(s) != 3 or min(s) < 2 for s in shapes.values()):
        faults.append(f"expected volumes [I, J, K] of one shape; found {shapes or 'none'}.")
    try:
        spacing_mm = sides_mm(spacing_mm)
    except InputError as error:
        faults.append(str(error))
    notes: list[str] = []
    for modality, array in arrays.items() if not faults else ():
        of_array, odd = voxels.intensity_faults("an array", modality, array)
        faults += of_array
        notes += odd
    if not faults:
        faults = voxels.background_faults(arrays)
    if faults:
        raise CaseError(case_id, faults, notes)
    channels = [voxels.compact(array) for array in arrays.values()]
    dtype = np.int16 if all(channel.dtype == np.int16 for channel in channels) else np.float32
    image = np.stack(channels, axis=-1, dtype=dtype)
    grid = nifti.new_grid(image.shape[:3], spacing_mm)
    return Case(case_id, case_id, image, tuple(arrays), label, grid.spacing_mm, schema, grid, tuple(notes))


def tissues_of(
    side: "Segmentation | Case | ArrayLike", edition: str, name: str
) -> "tuple[NDArray[np.uint8], Grid | None]":
    """Tissues [I, J, K] of what is to be scored, and its grid if it has one.

    Args:
        edition: whose label values an array has.
        name: "prediction" or "reference", for messages.
    """
    from tfbrats.cases import voxels
    from tfbrats.cases.case import Case
    from tfbrats.predictions.results import Segmentation

    if isinstance(side, Segmentation):
        return side.tissues, side.case.grid if side.case else None
    if isinstance(side, Case):
        if side.label is None:
            raise InputError(f"{name}: the case {side.case_id} has no segmentation to score.")
        return side.label, side.grid
    if edition not in EDITIONS:
        raise InputError(f"edition {edition!r} is unknown; choose from {', '.join(EDITIONS)}.")
    values = np.asarray(side)
    if values.ndim != 3:
        raise InputError(
            f"{name}: {type(side).__name__} of shape {values.shape}; expected label values [I, J, K]."
        )
    return voxels.tissues(values, None, EDITIONS[edition], name)[0], None


def spacing_of(grids: "Sequence[Grid | None]", spacing_mm: Sequence[float] | None) -> tuple[float, ...]:
    """The size of voxels along i, j, k: that of the grids, if there is one, else the one that is given.

    Raises:
        InputError: nothing tells it, the grids differ, or what is given is another or no size.
    """
    from tfbrats.cases import case

    known = [grid for grid in grids if grid is not None]
    if len(known) > 1 and (differences := case.grid_differences(known[0], known[1])):
        raise InputError(f"prediction and reference do not lie on one grid: {'; '.join(differences)}.")
    if spacing_mm is None:
        if not known:
            raise InputError(
                "two arrays do not tell the size of their voxels: give spacing_mm, e.g. (1, 1, 1)."
            )
        return known[0].spacing_mm
    sides = sides_mm(spacing_mm)
    if known and not np.allclose(known[0].spacing_mm, sides, rtol=1e-3):
        raise InputError(f"spacing_mm {sides}: the case's voxels are {known[0].spacing_mm} mm. Leave it out.")
    return sides
