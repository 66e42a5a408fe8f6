"""A session's case through the model: read, asked of the server, written, drawn. One case at a time.

The same client and the same `results.attempt` as `tfbrats call`, so the same bytes as `tfbrats predict`.
"""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import numpy as np

from serving.case_request import Segmentation
from serving.connection import Client
from serving.page import case_sheet, intake
from serving.page.limits import RefusedError
from serving.page.sessions import Session
from tfbrats.cases import case as cases
from tfbrats.cases.case import Case
from tfbrats.datasets.layouts import CaseFiles, Dataset
from tfbrats.dicom import parsing
from tfbrats.errors import InputError
from tfbrats.labels import REGIONS, region_mask
from tfbrats.metrics import region_scores
from tfbrats.phantoms import data_sets
from tfbrats.predictions import model_card, provenance, results, seen, wanted
from tfbrats.predictions.model_card import ModelCard
from tfbrats.viewer import lesion_table
from tfbrats.viewer import page as viewer_page

log = logging.getLogger(__name__)

DOWNLOADS = ("segmentation", "dicom-seg", "pdf", "png", "provenance")
STAGES = ("wait", "read", "segment", "write", "draw")
TRY_SHAPE = (160, 160, 104)  # a phantom that is made and segmented in seconds
_TRY_EDITION, _TRY_SEED = "2021", 21


class Work:
    """One case on its way. The page asks again and again what has become of it."""

    def __init__(self) -> None:
        self.stage: str | None = STAGES[0]
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.fault: str | None = None
        self.result: dict[str, Any] | None = None
        self.files: dict[str, str] = {}  # what may be downloaded -> its path
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.stage is None

    def enter(self, stage: str | None) -> None:
        """The next stage begins; None: it is over."""
        now = time.monotonic()
        if self.stage is not None:
            self.seconds[self.stage] = round(now - self._began, 2)
        self.stage, self._began = stage, now

    def to_json(self) -> dict[str, Any]:
        now = {self.stage: round(time.monotonic() - self._began, 2)} if self.stage else {}
        return {
            "stage": self.stage,
            "seconds": {**self.seconds, **now},
            "notes": list(self.notes),
            "fault": self.fault,
            "result": self.result,
        }


class Segmenting:
    """Does the sessions' cases one after another, by one model."""

    def __init__(self, client: Client):
        self._client = client
        self._pool = futures.ThreadPoolExecutor(1, thread_name_prefix="page case")

    def model(self) -> dict[str, Any]:
        """What the page says of the model. Raises ServerError: no server, or no such model."""
        card = self._client.card()
        return {
            "name": card.name,
            "version": card.version,
            "description": card.description,
            "modalities": list(card.modalities),
            "intended_use": card.intended_use,
            "license": card.license,
            "trained_on": card.training_data.get("description"),
        }

    def begin(self, session: Session, case_id: str | None, scans: Mapping[str, str] | None) -> None:
        """Takes up a session's case. Raises RefusedError or InputError: there is none, or one is under way."""
        with session.lock:
            session.check_open()
            if session.is_busy:
                raise RefusedError(409, "A case is being segmented already.")
            if session.arriving:
                raise RefusedError(409, "Files are still on their way.")
            before, session.work = session.work, (work := Work())
        try:  # which takes long for DICOM, and the session says meanwhile that it is busy
            dataset, chosen = intake.chosen(session, case_id, scans)
        except BaseException:
            session.work = None if session.ended else before
            raise
        self._pool.submit(self._done, session, work, dataset, chosen)

    def try_phantom(self, session: Session) -> None:
        """Puts a simulated case into a session, in place of what it holds."""
        with session.lock:
            session.check_open()
            if session.is_busy or session.arriving:
                raise RefusedError(409, "A case is on its way already.")
            session.clear()
            data_sets.write_dataset(session.scans, 1, _TRY_EDITION, _TRY_SEED, TRY_SHAPE)
            session.simulated = True
            for folder, _, found in os.walk(session.scans):
                for name in found:
                    path = os.path.join(folder, name)
                    session.files[os.path.relpath(path, session.scans)] = os.path.getsize(path)

    def close(self) -> None:
        """Ends what is under way: the server's answer is not waited for."""
        self._client.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    # --- one case ---------------------------------------------------------------------------------------

    def _done(self, session: Session, work: Work, dataset: Dataset, case_id: str) -> None:
        """Does a case, whatever comes of it; leaves nothing of a session that has ended meanwhile."""
        try:
            if not session.ended:
                self._segmented(session, work, dataset, case_id)
        except InputError as error:
            work.fault = intake.words(session, str(error))
        except Exception as error:  # the page must say something, and live
            work.fault = f"{case_id}: {type(error).__name__}. The server's log has more."
            if not session.ended:
                log.exception("a case failed")  # its id may be a patient's name
        finally:
            work.enter(None)
            if session.ended:
                shutil.rmtree(session.folder, ignore_errors=True)

    def _segmented(self, session: Session, work: Work, dataset: Dataset, case_id: str) -> None:
        work.enter("read")
        card = self._client.card()
        folder = os.path.join(session.folder, "result")
        shutil.rmtree(folder, ignore_errors=True)
        on_series = _can_be_dicom_seg(dataset, case_id)
        asked = wanted.wanted(
            dataset, [case_id], folder, with_provenance=True, overwrite=True, dicom_seg=on_series
        )
        asked, notes = asked.by(card)
        work.notes += [intake.words(session, note) for note in notes]
        entry, target = asked.pairs[0]

        def segment(loaded: Case) -> Segmentation:
            work.enter("segment")
            answer = self._client.segment(loaded)
            work.enter("write")
            return answer

        def tell(note: str) -> None:
            work.notes.append(intake.words(session, note))

        attempt = results.attempt(segment, entry, card, target, tell=tell)
        if attempt.fault:
            if attempt.fault.traceback:
                log.error(attempt.fault.traceback)
            raise InputError(attempt.fault.reason)
        work.enter("draw")
        found = dataclasses.replace(attempt.found, case=attempt.case)
        work.files = {
            "segmentation": target.segmentation,
            "provenance": provenance.path_of(target.segmentation),
        }
        if target.study is not None:
            work.files["dicom-seg"] = target.dicom_seg
        work.result = self._told(session, work, entry, found, folder)

    def _told(
        self, session: Session, work: Work, entry: CaseFiles, found: Segmentation, folder: str
    ) -> dict[str, Any]:
        """What the page shows of an answer; draws its pictures."""
        loaded = found.case
        reference, dice = self._against_reference(entry, found)
        lesions = lesion_table.lesions(found.tissues, reference, loaded.spacing_mm)
        with open(work.files["provenance"], encoding="utf-8") as file:
            origin = json.load(file)
        result = {
            "case": entry.case_id,
            "simulated": session.simulated or cases.is_simulated(loaded.grid),
            "volumes_ml": found.volumes_ml,
            "dice": dice,
            "lesions": [
                {"ml": lesion.ml, "voxel": lesion.voxel, "outcome": lesion.outcome} for lesion in lesions.rows
            ],
            "other_lesions": {"count": lesions.others, "ml": lesions.others_ml},
            "values": entry.schema.describe(),
            "known": _known_to_model(found.card, entry.case_id),
            "tiles": None if found.tiles is None else model_card.tiles_line(found.tiles),
            "provenance": origin,
            "downloads": [],
        }
        work.files["view"] = os.path.join(folder, "view.html")
        with open(work.files["view"], "w", encoding="utf-8") as file:
            file.write(viewer_page.html(loaded, found.tissues, reference, found.card, work.notes))
        for ending in case_sheet.ENDINGS:
            work.files[ending] = os.path.join(folder, f"{entry.case_id}.{ending}")
        result["downloads"] = [kind for kind in DOWNLOADS if kind in work.files]
        case_sheet.write(found, result, {ending: work.files[ending] for ending in case_sheet.ENDINGS})
        return result

    @staticmethod
    def _against_reference(
        entry: CaseFiles, found: Segmentation
    ) -> tuple[np.ndarray | None, dict[str, float] | None]:
        """The reference that came with the scans, and the Dice of each region; (None, None) without one."""
        if entry.label is None:
            return None, None
        try:
            reference, _ = cases.load_label(entry.label, entry.schema)
        except InputError:  # whose values nothing tells: predict does not read it either
            return None, None
        if reference.shape != found.tissues.shape:
            return None, None
        pairs = {r: (region_mask(found.tissues, r), region_mask(reference, r)) for r in REGIONS}
        return reference, {r: round(float(region_scores.dice(*masks)), 3) for r, masks in pairs.items()}


def _can_be_dicom_seg(dataset: Dataset, case_id: str) -> bool:
    """Whether the scans came as DICOM, and what writes a DICOM-SEG is installed."""
    if case_id not in dataset.studies:
        return False
    try:
        parsing.package("highdicom.seg")
    except parsing.MissingPackageError:
        return False
    return True


def _known_to_model(card: ModelCard, case_id: str) -> str | None:
    """A sentence where the model has seen this case in training."""
    kinds = seen.kinds_of(card.training_data, [case_id])
    kind = (kinds or {}).get(case_id)
    return None if kind not in ("train", "validation") else f"The model has learned from this case ({kind})."


@contextlib.contextmanager
def by(client: Client) -> Iterator[Segmenting]:
    """Segmenting by a client, which ends with the block."""
    work = Segmenting(client)
    try:
        yield work
    finally:
        work.close()
