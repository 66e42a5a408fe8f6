"""Messages from a table are protobuf's on the wire: field numbers and types, nothing else."""

import pytest

from tfbrats.machine import protobuf

TABLE = {
    "Point": {"label": (2, "string"), "sizes": (3, "[int64]")},
    "Drawing": {"points": (1, "{Point}"), "first": (4, "Point"), "all": (5, "[Point]")},
    "Answer": {"number": (1, "int64", "kind"), "text": (2, "string", "kind"), "beside": (3, "int64")},
}
CLASSES = protobuf.message_classes("tfbrats.test", TABLE)


def test_the_bytes_are_those_that_protobuf_prescribes():
    point = CLASSES["Point"](label="a", sizes=[1, 300])
    # Field 2 of length 1; field 3, packed, of 3 bytes: 1, and 300 as a varint.
    assert point.SerializeToString() == b"\x12\x01a" + b"\x1a\x03\x01\xac\x02"
    drawing = CLASSES["Drawing"](points={"k": point})
    # A map is a repeated message {key = 1, value = 2}.
    content = point.SerializeToString()
    entry = b"\x0a\x01k" + b"\x12" + bytes([len(content)]) + content
    assert drawing.SerializeToString() == b"\x0a" + bytes([len(entry)]) + entry


def test_what_is_written_is_read_again():
    point = CLASSES["Point"](label="a", sizes=[-1, 2])
    drawing = CLASSES["Drawing"](points={"x": point, "y": point}, first=point, all=[point, point])
    assert CLASSES["Drawing"].FromString(drawing.SerializeToString()) == drawing


def test_of_a_choice_the_last_that_is_set_stays():
    answer = CLASSES["Answer"](number=1, beside=3)
    answer.text = "two"
    assert (answer.WhichOneof("kind"), answer.number, answer.beside) == ("text", 0, 3)


def test_a_table_of_the_same_names_elsewhere_does_not_collide():
    other = protobuf.message_classes("tfbrats.test", {"Point": {"label": (1, "int64")}})["Point"]
    assert other(label=3).SerializeToString() == b"\x08\x03"
    assert CLASSES["Point"](label="3").SerializeToString() == b"\x12\x013"


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="TYPE_POINTS"):
        protobuf.message_classes("tfbrats.test", {"Drawing": {"points": (1, "[Points]")}})
