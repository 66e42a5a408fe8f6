"""Options by old names, with underscores, with slips of the hand: understood, or told what was meant."""

import pytest

from tfbrats.terminal import command


def a_parser() -> command.Parser:
    parser = command.parser("tfbrats.phantom", "Makes\nphantoms.\n\n    tfbrats phantom --output OUT\n")
    parser.add_argument("--output", required=True)
    parser.add_argument("--max-size", type=int)
    parser.add_argument("--poll_wait_s", type=int)
    parser.add_argument("overrides", nargs="*")
    parser.renamed({"--cases": "--max-size"})
    parser.keys = lambda: ["region", "train.epochs", "train.batch_size", "records.seed", "train.seed"]
    return parser


def refused(*arguments: str, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        a_parser().parse_intermixed_args(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("option", ["--max-size", "--max_size"])
@pytest.mark.parametrize("separate", [True, False])
def test_dashes_and_underscores_are_one(option, separate, capsys):
    given = [option, "3"] if separate else [f"{option}=3"]
    assert a_parser().parse_args(["--output", "x", *given]).max_size == 3
    assert a_parser().parse_args(["--output", "x", "--poll-wait-s", "4"]).poll_wait_s == 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", [["--cases", "3"], ["--cases=3"]])
def test_an_old_name_works_and_says_the_new_one_once(given, capsys):
    asked = a_parser().parse_intermixed_args([*given, "--output", "x", "train.epochs=2"])
    assert (asked.max_size, asked.overrides) == (3, ["train.epochs=2"])
    assert capsys.readouterr().err == "note: --cases is now --max-size\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [("--max", ""), ("--max_s", ""), ("--max-si", ""), ("--cas", "note: --cas is now --max-size\n")],
)
def test_an_option_may_be_cut_short_in_either_spelling_and_by_its_old_name(given, said, capsys):
    assert a_parser().parse_args(["--output", "x", given, "3"]).max_size == 3
    assert capsys.readouterr().err == said


def test_behind_two_dashes_nothing_is_an_option(capsys):
    asked = a_parser().parse_args(["--output", "x", "--", "--cases", "--max_size"])
    assert asked.overrides == ["--cases", "--max_size"] and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "x", "--max-sise", "3"], "unrecognized arguments: --max-sise; did you mean --max-size?"),
        (["--output", "x", "--casess", "3"], "unrecognized arguments: --casess; did you mean --max-size?"),
        (["--output", "x", "--epochs", "3"], "unrecognized arguments: --epochs; write train.epochs=3"),
        (
            ["--output", "x", "--batch-size=4"],
            "unrecognized arguments: --batch-size=4; write train.batch_size=4",
        ),
        (["--output", "x", "--region"], "unrecognized arguments: --region; write region=VALUE"),
        (["--output", "x", "--epoch=3"], "unrecognized arguments: --epoch=3; write train.epochs=3"),
        (["--output", "x", "--seed", "3"], "arguments: --seed; write records.seed=3 or train.seed=3"),
        (["--output", "x", "--zzz"], "unrecognized arguments: --zzz"),
        (["--outptu", "x"], "are required: --output; there is no --outptu; did you mean --output?"),
        (["--max-size", "3"], "are required: --output"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(arguments, said, capsys):
    first, last = refused(*arguments, capsys=capsys).splitlines()
    assert first.startswith("error: ") and first.endswith(said)
    assert last == "tfbrats phantom --help lists what there is"


def test_help_fills_paragraphs_and_leaves_examples(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        a_parser().parse_args(["--help"])
    assert "Makes phantoms.\n\n    tfbrats phantom --output OUT\n" in capsys.readouterr().out
