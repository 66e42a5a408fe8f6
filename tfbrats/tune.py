"""Choose on validation cases what makes a run's answer better, and keep it with the run.

    tfbrats tune --run runs/cun_lws --input data/MICCAI_BraTS2020_TrainingData
    tfbrats tune --run runs/cun_lws --input my_cases --cases ids.txt --flips

The networks stay as they are. Tried are: an offset on the log odds of tumour (paper A) or a threshold for each
region (paper B), branch 2's veto (cun), the removal of pieces of each region or of all alike (by size, by
highest probability, all but the largest or but that with the most core), ET below a number of voxels as NCR,
holes filled, and with --flips the mean over mirrored inputs. A choice stays only where it helps beyond noise on
patients that did not choose it; each is told with its gain and interval.

Each case goes through the network once. What it says is kept in RUN/evidence until the choice is made (--keep
keeps it), so that the same command goes on where it was stopped. The cases are those of the run's validation
split, found below --input by their ids, or those that --cases names; none that trained the run is taken.

Writes RUN/tuned.json, which tfbrats export puts into the model (--plain leaves it away). --run A B C chooses
for several runs together, folds say, each case by the runs that were not trained on it; that goes for each of
them and for all as one model: docs/how-to/tune.md.
"""

import argparse
import contextlib
import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence

from tfbrats.datasets import id_tables
from tfbrats.errors import InputError
from tfbrats.labels import EDITIONS, REGIONS
from tfbrats.machine import files, locks, memory, paths
from tfbrats.terminal import bars, command, style, verbs, wording
from tfbrats.tuning import candidates, criterion, gains, tuned_file
from tfbrats.tuning.tuned_file import TunedFile, Worth

if typing.TYPE_CHECKING:  # the options and folders are looked at first
    from tfbrats.datasets.layouts import CaseFiles
    from tfbrats.exports.chosen import Chosen
    from tfbrats.runs.folder import RunFolder
    from tfbrats.tuning.search import Judged

EVIDENCE, _LOCK = "evidence", ".tuning"
_BRAIN = 0.35  # of a volume's voxels, at most


def parser() -> command.Parser:
    """The options."""
    options = command.parser("tfbrats.tune", __doc__)
    options.add_argument(
        "--run",
        type=paths.argument,
        required=True,
        nargs="+",
        help="run folder of tfbrats train; several choose together",
    )
    options.add_argument(
        "--input", type=paths.argument, required=True, metavar="DIR", help="data set with the cases, as NIfTI"
    )
    id_tables.add_choice(options)
    options.add_argument("--edition", choices=tuple(EDITIONS), help="of the cases; overrides what names say")
    options.add_argument(
        "--criterion",
        choices=tuple(criterion.MEANINGS),
        default=criterion.DEFAULT,
        help="what is to become better: "
        + "; ".join(f"{name}: {meaning}" for name, meaning in criterion.MEANINGS.items())
        + " (default: %(default)s)",
    )
    options.add_argument(
        "--flips", action="store_true", help="try the mean over mirrored inputs too: 3 to 5 times the passes"
    )
    options.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)")
    options.add_argument("--workers", type=int, metavar="N", help="processes that score (default: what fits)")
    options.add_argument("--keep", action="store_true", help="keep the evidence for another choice")
    options.add_argument("--price", action="store_true", help="say what it would cost, and stop")
    return options


def main(arguments: Sequence[str]) -> None:
    our_parser = parser()
    asked = our_parser.parse_args(arguments)
    if asked.workers is not None and asked.workers < 1:
        our_parser.error(f"argument --workers: expected 1 or more processes, not {asked.workers}")
    if not files.is_folder(asked.input):
        files.walk(asked.input)  # says what is there
    case_ids = id_tables.chosen(asked)

    from tfbrats.datasets import layouts
    from tfbrats.exports import chosen
    from tfbrats.tuning import choosing_cases
    from tfbrats.workflows.chain import without

    run = chosen.chosen_from(asked.run, any_labels=True)
    for one in _folders(run):
        if not files.is_local(one.path):
            raise InputError(f"{one.path}: tune a run in a local folder.")
    dataset = layouts.find(asked.input, asked.edition)
    entries = choosing_cases.found(dataset, _folders(run), case_ids)
    patients = choosing_cases.patients(dataset, entries)
    _tell_plan(run, entries, patients, asked)
    if asked.price:
        print(style.following(without("--price", "tfbrats.tune", arguments)))
        return
    with _alone(run):
        kept, weights = _evidence(run, entries, asked)
        found = _searched(run, kept, patients, asked, weights)
        for member in run.members:
            tuned_file.write(member.run.path, found)
        if not asked.keep:
            files.remove(files.join(run.run.path, EVIDENCE))
    _tell(run, found)


def _folders(run: "Chosen") -> list["RunFolder"]:
    return [member.run for member in run.members]


@contextlib.contextmanager
def _alone(run: "Chosen") -> Iterator[None]:
    """Keeps every run to the one command that tunes it; tries at once whether each can be written to."""
    with contextlib.ExitStack() as locked:
        for path in (one.path for one in _folders(run)):
            busy = (
                f"{path}: another command is tuning this run. Wait for its end; the same command then goes on."
            )
            locked.enter_context(locks.alone(files.join(path, _LOCK), busy))
        yield


# --- what will happen -----------------------------------------------------------------------------------


def _tell_plan(
    run: "Chosen", entries: Sequence["CaseFiles"], patients: Sequence[str], asked: argparse.Namespace
) -> None:
    from tfbrats.cases import nifti
    from tfbrats.tuning import choosing_cases
    from tfbrats.tuning.kept_evidence import VOXEL_BYTES

    number = len(set(patients))
    names = ", ".join(member.run.path for member in run.members)
    print(
        f"{names}: {run.config.model.name}, tuned on {wording.counted(len(entries), 'case')} of "
        f"{wording.counted(number, 'patient')}\ncriterion: {criterion.MEANINGS[asked.criterion]}"
    )
    for note in choosing_cases.notes(_folders(run), entries):
        print(style.note(note))
    if number < gains.FEW_PATIENTS:
        text = f"{number} patients are few: only what helps nearly all of them can be told from noise"
        print(style.note(text))
    if member := next((member for member in run.members if member.run.unfinished()), None):
        print(style.note(f"{member.run.path}: not trained to its end; trained on, it has to be tuned anew"))
    shape = nifti.read_grid(entries[0].images[0][1]).file_shape
    voxels = shape[0] * shape[1] * shape[2] * _BRAIN
    most = int(len(entries) * voxels * VOXEL_BYTES * (1.6 if asked.flips else 1))
    place = files.join(run.run.path, EVIDENCE)
    free = files.free_bytes(place)
    unseen = choosing_cases.unseen_by(_folders(run), [entry.case_id for entry in entries])
    each = 1 + (len(_with_flips(run).mirrors) if asked.flips else 0)
    passes = sum(map(len, unseen.values())) * each
    print(
        f"evidence: {passes} passes through a network, kept in {place}: {wording.in_units(most)} at most "
        f"(free: {wording.in_units(free)}), usually a tenth of that"
        + ("" if asked.keep else "; gone at the end"),
        flush=True,
    )
    if most > free:
        print(style.note("it may not fit; make room, or name fewer cases with --cases"))


def _with_flips(run: "Chosen") -> "Chosen":
    return dataclasses.replace(run, flips=True)


# --- once through the network ---------------------------------------------------------------------------


def _evidence(
    run: "Chosen", entries: Sequence["CaseFiles"], asked: argparse.Namespace
) -> tuple[list[str], tuple[str, ...]]:
    """What the networks say of each case, on disk: where, in the order of the cases; and the weights' hashes.

    Raises:
        InputError: cases that cannot be read, or are not on the grid of their segmentation.
    """
    from tfbrats.tuning import choosing_cases, kept_evidence

    run.check_weights()
    sha256 = {member.run.path: list(member.weights) for member in run.members}
    weights = tuple(sorted(text for own in sha256.values() for text in own))
    unseen = choosing_cases.unseen_by(_folders(run), [entry.case_id for entry in entries])
    paths, todo = [], {}
    for entry in entries:
        names = unseen[entry.case_id]
        stamp = {
            "format": 1,
            "weights": [sha256[name] for name in names],
            "flips": asked.flips,
            "files": {path: files.stamp(path) for path in entry.paths()},
            "labels": entry.schema.to_json(),
        }
        paths.append(files.join(run.run.path, EVIDENCE, f"{entry.case_id}.npz"))
        if not kept_evidence.is_current(paths[-1], stamp):
            todo.setdefault(names, []).append((entry, stamp, paths[-1]))
    left = sum(map(len, todo.values()))
    if left < len(entries):
        print(f"{len(entries) - left} of {len(entries)} cases are through the network already")
    faults = []
    with bars.bar(total=left, desc="network", unit="case", hidden=not left) as bar:
        for names, group in todo.items():
            members = tuple(member for member in run.members if member.run.path in names)
            for fault in _through_network(dataclasses.replace(run, members=members), group, asked.flips):
                faults += [fault] if fault else []
                bar.update()
    if faults:
        raise InputError("these cases cannot be used; name others with --cases:\n" + "\n".join(faults))
    return paths, weights


def _through_network(run: "Chosen", cases: Sequence[tuple], flips: bool) -> Iterator[str]:
    """Keeps the evidence of each case, its stamp and its path; yields what is wrong with it, or ""."""
    import tensorflow as tf

    from tfbrats.cases import case
    from tfbrats.exports import saving
    from tfbrats.tuning import kept_evidence

    modalities = run.config.data.modalities
    inputs = {name: tf.TensorSpec([None] * 3, tf.float32) for name in modalities}
    ways = {"plain": run, **({"flips": _with_flips(run)} if flips else {})}
    networks = {
        name: tf.function(saving.segmenter_of(way).evidence, input_signature=[inputs], autograph=False)
        for name, way in ways.items()
    }
    for entry, stamp, path in cases:
        try:
            loaded = case.load(entry, modalities, need_label=True)
        except case.CaseError as error:
            yield str(error)
            continue
        volumes = {name: tf.cast(loaded.image[..., n], tf.float32) for n, name in enumerate(modalities)}
        answers = {name: _numpy(network(volumes)) for name, network in networks.items()}
        low = answers["plain"]["box"][:, 0]
        kept = kept_evidence.kept(answers, low, loaded.label, loaded.spacing_mm, _threshold(run))
        kept_evidence.write(path, kept, stamp)
        yield ""


def _threshold(run: "Chosen") -> float | None:
    """`cascade.threshold` of a cascade; None of any other model."""
    cascade = getattr(run.config, "cascade", None)
    return cascade.threshold if cascade else None


def _numpy(answer: Mapping) -> dict:
    return {name: tensor.numpy() for name, tensor in answer.items()}


# --- the choice -----------------------------------------------------------------------------------------


def _searched(
    run: "Chosen",
    kept: Sequence[str],
    patients: Sequence[str],
    asked: argparse.Namespace,
    weights: Sequence[str],
) -> TunedFile:
    """What is chosen; everything in it follows from the evidence, the criterion and the seed."""
    from tfbrats.tuning import kept_evidence, rules, search
    from tfbrats.tuning.choices import PLAIN
    from tfbrats.tuning.scored_cases import WORKER_BYTES, ScoredCases, means

    evidence = kept_evidence.read(kept[0]).evidence["plain"]
    rounds = [candidates.choices(rules.kind_of(evidence), asked.flips), candidates.holes()]
    workers = asked.workers or max(1, min(memory.cores(), memory.fitting_workers(WORKER_BYTES)))
    with ScoredCases(kept, patients, asked.criterion, _threshold(run), workers) as scores:
        number = len(scores.patients)
        found = search.found(scores, rounds, range(number), asked.seed)
        each = [PLAIN] * number
        if not found.tuned.is_plain:
            with bars.bar(total=number, desc="what it is worth", unit="patient") as bar:
                each = search.without_each(scores, rounds, number, asked.seed, lambda _: bar.update())
        plain = scores([PLAIN])[0]
        tuned = [scores([own])[0, n] for n, own in enumerate(each)]
        mean, low, high = gains.interval(tuned - plain, asked.seed)
        if not gains.helps_together(tuned - plain, asked.seed):  # each choice alone did
            found, each, mean, low, high = search.nothing(found), [PLAIN] * number, 0.0, 0.0, 0.0
        told = {"plain": [PLAIN] * number, "tuned": each}
        by_score = {name: means(scores.regions(own), tuple(REGIONS)) for name, own in told.items()}
    return TunedFile(
        tuned=found.tuned.to_json(),
        chosen={one.name: _worth(one) for one in found.chosen},
        others={one.name: _worth(one) for one in found.others},
        whole=Worth(gain=mean, low=low, high=high),
        scores=by_score,
        criterion=asked.criterion,
        meaning=criterion.MEANINGS[asked.criterion],
        cases=tuple(sorted(files.name(path).removesuffix(".npz") for path in kept)),
        patients=number,
        seed=asked.seed,
        weights=weights,
    )


def _worth(judged: "Judged") -> Worth:
    gain = judged.gain
    return Worth(
        **{name: round(value, 6) for name, value in dataclasses.asdict(gain).items() if name != "mean"},
        gain=round(gain.mean, 6),
    )


# --- what was chosen ------------------------------------------------------------------------------------


def _tell(run: "Chosen", found: TunedFile) -> None:
    from tfbrats.runs import listing

    print("\n" + "\n".join(_lines(found)))
    names = [member.run.path for member in run.members]
    print(f"\nwritten: {', '.join(map(tuned_file.path_in, names))}")
    runs, model = ("--run", *names), files.name(run.run.path)
    if names[1:]:
        runs, model = ("--runs", *names), f"{listing.method(run.config)}_{len(names)}_runs"
    print(style.following(verbs.command_line("tfbrats.export", *runs, "--output", f"models/{model}")))


def _lines(found: TunedFile) -> list[str]:
    """The choices, what each is worth, and the scores side by side."""
    tuned = found.choices
    if tuned.is_plain:
        lines = ["Nothing is chosen: nothing that was tried helps beyond noise."]
    else:
        lines = [style.heading("Chosen:"), *(f"  {line}" for line in tuned.lines)]
        if any(rule.keeps_one for rule in tuned.pieces.values()):
            lines.append(style.note("one piece of a region stays: of several tumours the others are lost"))
        lines.append("")
        rows = [("gain on patients that did not choose it", "", "95 % interval")]
        rows += [(name, f"{worth.gain:+.4f}", _interval(worth)) for name, worth in found.chosen.items()]
        rows.append(("all together", f"{found.whole.gain:+.4f}", _interval(found.whole)))
        lines += wording.columns(rows, ("<", "  >8", "  <"))
    if found.others:
        idle = [f"{name} {worth.gain:+.4f}" for name, worth in found.others.items()]
        lines.append(wording.wrapped(f"not more than noise: {', '.join(idle)}", 2))
    rows = [("", *(f"{title}" for title in ("Dice", "", "F1", "", "HD95, mm", "")))]
    rows.append(("", *("as the paper", "tuned") * 3))
    for region in REGIONS:
        sides = found.scores["plain"][region], found.scores["tuned"][region]
        digits = {"dice": 3, "f1": 3, "hd95_mm": 1}
        cells = [f"{side[name]:.{places}f}" for name, places in digits.items() for side in sides]
        rows.append((region, *cells))
    return [*lines, "", *wording.columns(rows, ("<", *("  >12", "  >8") * 3))]


def _interval(worth: Worth) -> str:
    return f"{worth.low:+.4f} to {worth.high:+.4f}"


if __name__ == "__main__":
    command.run(main)
