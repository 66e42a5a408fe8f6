"""Segment cases with an exported model, no server needed.

    python -m tfbrats.predict --model models/cun/1 --input BraTS2020 --output predictions
    python -m tfbrats.predict ... --submission UPLOAD.zip

Writes <case_id>.nii.gz for each case, on the case's own grid and in its own label values. Run again, it goes
on with the cases that have none yet. With --submission all of them are then held against the challenge's
upload rules (tfbrats.check_submission); the archive is written only if it would take every one.
"""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfbrats import case, command, files, layouts, model_card, submission
from tfbrats.case import Case
from tfbrats.command import InputError
from tfbrats.model_card import ModelCard
from tfbrats.submission import SubmissionRules


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """A segmented case, on its grid.

    Attributes:
        tissues: `labels.Tissue`, uint8 [I, J, K].
        probabilities: of WT, TC, ET, float32 [I, J, K, 3].
        tiles: int32 [3], how many each stage of a cascade ran; None for models that are none.
    """

    tissues: np.ndarray
    probabilities: np.ndarray
    tiles: np.ndarray | None


class SavedSegmenter:
    """An exported model, loaded: a Case in, tissues out.

    Args:
        model_dir: one version's folder, e.g. models/cun/1.

    Raises:
        InputError: no model here, or a damaged one.
    """

    def __init__(self, model_dir: str | os.PathLike):
        self.card: ModelCard = model_card.read(model_dir)
        try:
            self._saved = tf.saved_model.load(os.fspath(model_dir))
        except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"{model_dir}: the SavedModel cannot be loaded ({first_line}). Copy or export it again."
            ) from error

    def segment(self, loaded: Case) -> Segmentation:
        """What the model makes of one case.

        Raises:
            InputError: the model refuses the case.
        """
        volumes = model_card.inputs(self.card, loaded)
        signature = model_card.signature_for(volumes)
        try:
            answer = self._saved.signatures[signature](**{m: tf.constant(v) for m, v in volumes.items()})
        except tf.errors.InvalidArgumentError as error:
            # What an Assert in the graph says stands between lines on its node.
            said = re.search(r"assertion failed: .*", error.message)
            raise InputError(
                f"{loaded.case_id}: the model refuses it: {said.group() if said else error.message}"
            ) from error
        tissues = model_card.tissues(self.card, answer["segmentation"].numpy(), loaded.case_id)
        tiles = answer[model_card.TILES].numpy() if model_card.TILES in answer else None
        return Segmentation(tissues, answer["probabilities"].numpy(), tiles)


def predict(
    model_dir: str,
    dataset: layouts.Dataset,
    output: str,
    case_ids: Sequence[str] | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    rules: SubmissionRules | None = None,
) -> list[str]:
    """Segments the cases of a data set into `output`.

    Args:
        case_ids: only these.
        probabilities: also write <case_id>_probabilities.nii.gz, float32 [I, J, K, 3].
        overwrite: segment again what has a result already.
        rules: of the upload it is for; the first case whose scans would make it refused is said at once.

    Returns:
        the faults of the cases that could not be segmented.

    Raises:
        InputError: no model, no such case, or an output that cannot be or must not be written.
    """
    targets = {
        one: [files.join(output, f"{one.case_id}{ending}.nii.gz") for ending in ("", "_probabilities")]
        for one in layouts.select(dataset, case_ids)
    }
    outputs = [path for paths in targets.values() for path in paths]
    layouts.check_outputs(dataset.cases, outputs)
    files.check_can_hold(output)
    segmenter = SavedSegmenter(model_dir)
    model_card.check_results(segmenter.card, output, overwrite, outputs)
    faults = []
    done = 0
    for one, (path, probabilities_path) in tqdm(targets.items(), desc="cases", disable=None):
        wanted = (path, probabilities_path) if probabilities else (path,)
        if not overwrite and all(map(files.exists, wanted)):
            done += 1
            continue
        try:
            loaded = case.load(one, segmenter.card.modalities, read_label=False)
            if rules and (doubts := submission.placement_faults(loaded.grid.placement, rules)):
                tqdm.write(f"{one.case_id}: the upload will be refused for it: {' '.join(doubts)}")
                rules = None
            found = segmenter.segment(loaded)
            # With the first result, so that a run without any leaves nothing.
            model_card.keep(segmenter.card, output)
            if probabilities:
                case.save_probabilities(probabilities_path, found.probabilities, loaded.grid)
            # Last: its presence says that the case is done.
            case.save_segmentation(path, found.tissues, loaded.grid, loaded.schema)
            if found.tiles is not None:
                tqdm.write(f"{one.case_id}: {model_card.tiles_line(found.tiles)}")
        except model_card.OtherModelError:
            raise
        except InputError as error:
            text = str(error)
            faults.append(text if one.case_id in text else f"{one.case_id}: {text}")
    if done:
        print(f"{done} of {len(targets)} cases are done already and are kept (--overwrite redoes them)")
    return faults


def _rules(dataset: layouts.Dataset, case_ids: Sequence[str] | None, archive: str) -> SubmissionRules:
    """The upload rules for these cases; refuses, before hours of work, what names alone forbid."""
    submission.check_target(archive)
    wanted = layouts.select(dataset, case_ids)
    rules = submission.rules_for([one.schema.edition for one in wanted], dataset.root)
    strangers = [one.case_id for one in wanted if rules.key(one.case_id) is None]
    if strangers:
        raise InputError(
            f"{dataset.root}: the challenge of {rules.edition} knows no cases named like "
            f"{', '.join(strangers[:3])} ({len(strangers)} such); expected e.g. {rules.example}. Rename them, "
            "or leave --submission out."
        )
    return rules


def submit(output: str, case_ids: Sequence[str], rules: SubmissionRules, archive: str) -> None:
    """Packs the segmentations of these cases as one archive to upload, if the challenge would take it.

    Raises:
        InputError: it would not; says why, and writes nothing.
    """
    found = [submission.member(files.join(output, f"{case_id}{submission.SUFFIX}")) for case_id in case_ids]
    verdict = submission.check(found, rules, case_ids)
    for text in verdict.warnings:
        print(f"warning: {text}")
    if not verdict.accepted:
        older = " (the one that lies there is older)" if files.exists(archive) else ""
        raise InputError(
            f"{archive}: not written{older}; the challenge would refuse it:\n" + "\n".join(verdict.faults)
        )
    submission.pack(found, verdict, archive)
    print(f"accepted: {len(found)} files, packed as {archive}")


def main(arguments: Sequence[str]) -> None:
    parser = command.parser("tfbrats.predict", __doc__)
    parser.add_argument("--model", required=True, help="a version's folder, e.g. models/cun/1")
    parser.add_argument("--input", required=True, help="a data set or one case's folder; gs:// too")
    parser.add_argument("--output", required=True, help="folder for <case_id>.nii.gz")
    parser.add_argument("--edition", help="overrides the edition that the names tell")
    parser.add_argument("--case", action="append", metavar="ID", help="only this case; may be repeated")
    parser.add_argument("--probabilities", action="store_true", help="write them too")
    parser.add_argument("--overwrite", action="store_true", help="segment again what has a result")
    parser.add_argument("--submission", metavar="FILE.zip", help="check and pack them for the challenge")
    options = parser.parse_args(arguments)
    dataset = layouts.find(options.input, options.edition)
    rules = _rules(dataset, options.case, options.submission) if options.submission else None
    faults = predict(
        options.model, dataset, options.output, options.case, options.probabilities, options.overwrite, rules
    )
    if faults:
        unpacked = f"\n{options.submission}: not written" if rules else ""
        raise InputError("these cases could not be segmented:\n" + "\n".join(faults) + unpacked)
    print(f"segmentations are in {options.output}")
    if rules:
        case_ids = [one.case_id for one in layouts.select(dataset, options.case)]
        submit(options.output, case_ids, rules, options.submission)


if __name__ == "__main__":
    command.run(main)
