"""What strangers hand in, as functions of bytes. One that returns has given the clean error that is documented.

`TARGETS` says for each what it reads and which of our code guides the search. `opened` sets a target up; what
it gives is called with one input after the other, and raises where the code under it has a fault: any
exception but the documented one, an answer that differs from a second reader's, or something left behind.
"""

from fuzz import models, page, scans, wire
from fuzz.parts import Target

TARGETS = {
    "gunzip": Target(
        scans.try_gunzip,
        lambda: [scans.packed_by(n, c) for n in range(4) for c in scans.niftis()[:3]],
        ("tfbrats.machine",),
    ),
    "scan": Target(
        scans.try_scan,
        lambda: [bytes([way]) + content for content in scans.niftis() for way in (0, 1)],
        ("tfbrats.machine", "tfbrats.cases", "nibabel"),
    ),
    "dicom": Target(scans.try_dicom, scans.dicoms, ("tfbrats.dicom", "pydicom")),
    "card": Target(models.try_card, models.cards, ("tfbrats.predictions", "tfbrats.labels", "json")),
    "model": Target(models.try_model, models.damages, ("tfbrats.inference", "tfbrats.predictions")),
    "unpacking": Target(wire.try_unpacking, wire.planes, ("tfbrats.graphs",)),
    "request": Target(wire.try_request, wire.calls, ("serving",)),
    "answer": Target(wire.try_answer, wire.answers, ("serving", "tfbrats.predictions")),
    "upload": Target(
        page.try_upload,
        page.uploads,
        ("serving.page", "tfbrats.dicom", "tfbrats.datasets", "tfbrats.cases", "pydicom"),
    ),
    "head": Target(page.try_head, page.heads, ("serving.page", "http.cookies", "starlette")),
}
