"""From objects to JSON and back: nan and null by a field's type, and what older versions did not write."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tfbrats.errors import InputError
from tfbrats.scoring import score_files
from tfbrats.scoring.origin import BySplit, NotTold
from tfbrats.scoring.summaries import Row, Statistics


@dataclass(frozen=True)
class Whole:
    number: float
    perhaps: float | None
    counted: dict[str, Statistics | int]
    rows: list[Row]
    anything: Any
    seen: BySplit | NotTold | None = None
    named: str = field(default="", metadata={"key": "with"})
    shared: list[str] = field(default_factory=list, metadata={"left_out": []})


NAN = math.nan
WHOLE = Whole(
    number=NAN,
    perhaps=None,
    counted={"dice": Statistics(NAN, NAN, NAN, NAN, NAN, n=0), "lesions": 3},
    rows=[{"case_id": "a", "dice": NAN, "voxels": 7}],
    anything={"key": None},
    seen=NotTold(),
    named="cun",
)


def through_json(kind, value):
    return score_files.from_json(kind, json.loads(json.dumps(score_files.as_json(value), allow_nan=False)))


def test_null_is_nan_where_a_number_is_expected_and_none_is_not():
    back = through_json(Whole, WHOLE)
    assert repr(back) == repr(WHOLE)
    assert math.isnan(back.number) and back.perhaps is None and back.anything == {"key": None}
    assert math.isnan(back.counted["dice"].mean) and back.counted["lesions"] == 3
    assert math.isnan(back.rows[0]["dice"]) and back.rows[0]["voxels"] == 7


def test_a_key_may_stand_for_a_name_and_an_entry_be_left_out():
    content = score_files.as_json(WHOLE)
    assert content["with"] == "cun" and "named" not in content and "shared" not in content
    assert list(content["counted"]["dice"]) == ["mean", "std", "median", "25quantile", "75quantile", "n"]
    shared = dataclasses.replace(WHOLE, shared=["BraTS 2020"])
    assert score_files.as_json(shared)["shared"] == ["BraTS 2020"]
    assert through_json(Whole, shared).shared == ["BraTS 2020"]


def test_of_two_classes_the_one_is_read_that_the_content_is_marked_as():
    seen = BySplit(True, {"train": ["a"]}, {"train": {}}, {"WT": NAN}, run=None, has_test=False)
    for of_cases in (seen, NotTold(), None):
        back = through_json(Whole, dataclasses.replace(WHOLE, seen=of_cases)).seen
        assert type(back) is type(of_cases) and repr(back) == repr(of_cases)
    assert score_files.as_json(NotTold()) == {"known": False}
    broken = score_files.as_json(dataclasses.replace(WHOLE, seen=seen))
    del broken["seen"]["summary"]  # not taken for the one that tells nothing
    with pytest.raises(KeyError, match="summary"):
        score_files.from_json(Whole, broken)


def test_an_entry_with_a_default_may_be_missing_and_another_may_not():
    content = score_files.as_json(WHOLE) | {"of a later version": 1}
    del content["seen"], content["with"]
    back = score_files.from_json(Whole, content)
    assert (back.seen, back.named) == (None, "")
    del content["rows"]
    with pytest.raises(KeyError, match="rows"):
        score_files.from_json(Whole, content)


@dataclass(frozen=True)
class Marked:
    kind: Literal["a", "b"]


def test_a_marked_class_is_known_by_any_of_its_marks():
    for kind in ("a", "b"):
        assert score_files.from_json(Marked | NotTold, {"kind": kind}) == Marked(kind)


@pytest.mark.parametrize("text", ['{"rows": 3}', "{}", '{"rows": [], "summary": {}}', '{"rows": null}'])
def test_another_programs_metrics_json_is_refused(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.json: not written by tfbrats evaluate"):
        score_files.read(tmp_path)
