"""The README: two commands on its first screen, links that lead somewhere, every wing and every config named.

Its command blocks are run by test_docs.py, with those of the pages.
"""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = 160  # what a newcomer reads in one go; the rest has its page
PROSE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "serving/README.md", "beam_pipelines/README.md")


def test_the_first_screen_has_the_two_commands():
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert [block for block in blocks if "pip install" in block] == [
        "pip install . && tfbrats demo\n",
        'pip install -e ".[dev]" && pytest\n',
    ]
    # The second is what .ci/run runs; the first is run, install and all, by a slow test of test_end_to_end.
    assert "pip install -e .* && pytest" in (ROOT / ".ci" / "run").read_text()


def test_it_is_read_in_one_go():
    assert len(README.splitlines()) <= LINES


def test_it_says_plainly_what_there_is_not():
    first_screen = README.partition("## See it work")[0]
    for words in ("No trained weights", "Not run on a GPU", "5 days", "Not for diagnosis"):
        assert words in first_screen


def test_links_lead_somewhere():
    for page in PROSE:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_each_wing_has_its_place_in_the_table():
    table = README.partition("## Where is what")[2].partition("## ")[0]
    rooms = re.findall(r"`([a-z_]+)/`", table)
    wings = [path.parent.name for path in (ROOT / "tfbrats").glob("*/__init__.py")]
    assert len(wings) >= 12 and set(wings) <= set(rooms)
    for room in rooms:
        assert (ROOT / room).is_dir() or (ROOT / "tfbrats" / room).is_dir(), room


def test_every_shipped_config_of_a_paper_is_in_the_table():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.stem.startswith("smoke") or f"configs/{path.name}" in README, path.name


def test_the_page_of_the_house_names_every_file_of_every_wing():
    page = (ROOT / "docs" / "why" / "house.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    for wing in (path.parent for path in (ROOT / "tfbrats").glob("*/__init__.py")):
        stems = {path.stem for path in wing.glob("*.py")} - {"__init__"}
        assert set(re.findall(r"`(\w+)`", rows[wing.name])) == stems, wing.name


def test_the_page_of_the_house_names_every_flat_file():
    page = (ROOT / "docs" / "why" / "house.md").read_text(encoding="utf-8")
    flat = page.partition("## Flat at the top")[2].partition("## ")[0]
    for path in (ROOT / "tfbrats").glob("*.py"):
        assert path.stem.startswith("__") or f"`{path.stem}`" in flat or f"`{path.name}`" in flat, path.name
