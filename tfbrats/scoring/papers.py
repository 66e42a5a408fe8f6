"""The two papers' tables as printed, and our rows set beside them. No I/O.

A row of ours stands under the paper's row that it wants to reproduce and says which cases it is from: the
papers' cases and splits are not public, so that a difference of a few thousandths is no news.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfbrats.errors import InputError
from tfbrats.machine.wording import counted

# (region, score) -> its mean; scores as `region_scores.SCORES` names them
Values = Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class PaperRow:
    """One method of a table.

    Attributes:
        row: the config's name, e.g. "cun_lws".
        title: the method's name in the paper.
    """

    row: str
    title: str
    scores: Values


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        cases: which it is the mean of.
        columns: (score, heading, digits after the point).
        note: what has to be known to compare it with ours.
    """

    name: str
    title: str
    cases: str
    citation: str
    columns: tuple[tuple[str, str, int], ...]
    rows: tuple[PaperRow, ...]
    note: str

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(score for score, _, _ in self.columns)

    @property
    def row_titles(self) -> dict[str, str]:
        """Row -> the method's name in the paper."""
        return {row.row: row.title for row in self.rows}


@dataclass(frozen=True)
class PaperStatistics:
    """A table that says more of one method than its means.

    Attributes:
        row: the method, e.g. "msm".
        columns: as `PaperTable.columns`.
        values: (region, score, statistic) -> number; statistics as `summaries.STATISTICS` names them.
    """

    row: str
    title: str
    cases: str
    citation: str
    columns: tuple[tuple[str, str, int], ...]
    values: Mapping[tuple[str, str, str], float]

    @property
    def statistics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(statistic for _, _, statistic in self.values))


@dataclass(frozen=True)
class Line:
    """A row to show.

    Attributes:
        row: as `PaperRow.row`; None of a run that is no row of the table.
        name: the row, or what a run without one is called; "" if that is not known.
        whose: "paper" or "ours".
        cases: which the values are means of.
        reference: name of the folder that ours were scored against: an edition goes by the names of its files,
            and simulated cases bear the same.
    """

    row: str | None
    name: str
    title: str
    whose: str
    cases: str
    values: Values
    reference: str = ""


def _of_regions(scores: Mapping[str, str], regions: Sequence[str]) -> Values:
    """{"dice": ".8 .7 .6"} in the order of `regions` -> {("WT", "dice"): 0.8, ...}."""
    return types.MappingProxyType(
        {
            (region, score): float(number)
            for score, numbers in scores.items()
            for region, number in zip(regions, numbers.split(), strict=True)
        }
    )


def _row_a(row: str, title: str, dice: str, sensitivity: str, specificity: str) -> PaperRow:
    """Numbers of WT, TC and ET."""
    scores = {"dice": dice, "sensitivity": sensitivity}
    # Paper A does not say over which voxels its specificity is.
    scores |= {"specificity_tumour_slices": specificity, "specificity": specificity}
    return PaperRow(row, title, _of_regions(scores, ("WT", "TC", "ET")))


def _row_b(row: str, title: str, dice: str, hausdorff_mm: str) -> PaperRow:
    """Numbers of ET, WT and TC, as the paper has them."""
    # Its eq. 4 is the plain Hausdorff distance; the challenge's server, which made the numbers, gave HD95.
    scores = {"dice": dice, "hausdorff_mm": hausdorff_mm, "hd95_mm": hausdorff_mm}
    return PaperRow(row, title, _of_regions(scores, ("ET", "WT", "TC")))


_COLUMNS_B = (("dice", "Dice", 3), ("hausdorff_mm", "Hausdorff mm", 3), ("hd95_mm", "HD95 mm", 3))
_CITATION_A = "Liu, Shen, Shang, Wang: Cascaded U-Net with loss weighted sampling, arXiv 1907.07677"
_CITATION_B = (
    "Xu, Gong, Fu, Tao, Zhang, Batmanghelich: Multi-scale masked 3-D U-Net, doi 10.1007/978-3-030-11726-9_20"
)

TABLES: Mapping[str, PaperTable] = types.MappingProxyType(
    {
        "paper_a": PaperTable(
            name="paper_a",
            title="Paper A, Table 1",
            cases="42 HGG cases of BraTS 2017",
            citation=_CITATION_A,
            columns=(
                ("dice", "Dice", 3),
                ("sensitivity", "Sensitivity", 3),
                ("specificity_tumour_slices", "Spec. tumour slices", 3),
                ("specificity", "Spec. volume", 3),
            ),
            rows=(
                _row_a("unet2d", "U-Net", ".872 .779 .751", ".885 .811 .829", ".996 .999 .999"),
                _row_a("bfcn", "BFCN", ".874 .788 .757", ".857 .850 .851", ".997 .998 .998"),
                _row_a("drn", "DRN", ".881 .810 .768", ".871 .854 .878", ".996 .998 .998"),
                _row_a("cun", "CUN", ".886 .830 .784", ".892 .849 .869", ".997 .999 .998"),
                _row_a("cun_lws", "CUN+LWS", ".888 .831 .768", ".903 .877 .881", ".996 .998 .998"),
            ),
            note=(
                "The paper's one specificity fits tumour-bearing slices, not whole volumes; it stands in both "
                "columns."
            ),
        ),
        "paper_b": PaperTable(
            name="paper_b",
            title="Paper B, Table 1",
            cases="66 validation cases of BraTS 2018",
            citation=_CITATION_B,
            columns=_COLUMNS_B,
            rows=(
                _row_b("unet3d", "original U-Net", ".739 .882 .788", "5.329 7.356 10.243"),
                _row_b("msm_noaspp", "without ASPP", ".773 .899 .820", "4.259 6.374 6.404"),
                _row_b("msm", "with ASPP", ".809 .903 .832", "3.780 6.022 7.091"),
            ),
            note=(
                "The paper's one Hausdorff number stands in both columns: its eq. 4 is the plain distance, the "
                "challenge reported HD95."
            ),
        ),
    }
)


def _test_statistics() -> dict[tuple[str, str, str], float]:
    numbers = {
        # Dice and Hausdorff of ET, WT and TC, as the paper has them.
        "mean": (".769 .871 .779", "4.799 9.523 7.186"),
        "std": (".240 .129 .274", "9.293 16.822 10.900"),
        "median": (".842 .915 .900", "2.000 3.464 3.162"),
        "25quantile": (".747 .860 .758", "1.414 2.236 2.000"),
        "75quantile": (".892 .939 .936", "3.000 6.364 7.280"),
    }
    return {
        (region, score, statistic): number
        for statistic, (dice, hausdorff_mm) in numbers.items()
        for (region, score), number in _row_b("msm", "", dice, hausdorff_mm).scores.items()
    }


PAPER_B_TEST = PaperStatistics(
    row="msm",
    title="Paper B, Table 2",
    # Its caption says "BraTS 2017 testing set"; the text is on the challenge of 2018, which had 66 cases to
    # validate on and 191 to test on.
    cases="191 test cases of BraTS 2018",
    citation=_CITATION_B,
    columns=_COLUMNS_B,
    values=types.MappingProxyType(_test_statistics()),
)

ROWS = tuple(row.row for table in TABLES.values() for row in table.rows)


def cases_text(number: int) -> str:
    """1 -> "1 case", 12 -> "12 cases"."""
    return counted(number, "case")


def title_of(edition: str) -> str:
    """What people call the data of an edition: "BraTS 2020", "BraTS-PED", "UPenn-GBM"."""
    titles = {"msd": "MSD Task01", "nnunet": "nnU-Net data set", "upenn": "UPenn-GBM", "ucsf": "UCSF-PDGM"}
    return titles.get(edition, f"BraTS {edition}" if edition.isdigit() else f"BraTS-{edition.upper()}")


def table_named(name: str) -> PaperTable:
    """Raises InputError: there is no such table."""
    if name not in TABLES:
        raise InputError(f"table {name!r} is unknown; choose from {', '.join(TABLES)}.")
    return TABLES[name]


def lines(table_name: str, ours: Sequence[Line]) -> list[Line]:
    """The paper's rows in its order, each followed by ours of that row; last, ours that are no row of it.

    Args:
        table_name: a key of `TABLES`.

    Raises:
        InputError: there is no such table.
    """
    table = table_named(table_name)
    shown: list[Line] = []
    for paper in table.rows:
        shown.append(Line(paper.row, paper.row, paper.title, "paper", table.cases, paper.scores))
        shown += [line for line in ours if line.row == paper.row]
    return shown + [line for line in ours if line.row is None]
