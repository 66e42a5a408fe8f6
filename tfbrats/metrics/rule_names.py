"""The names of the rules between which a person chooses. Loads nothing.

What they mean stands with the rules, which need SciPy; a command tells their names before it is loaded.
"""

EMPTY = ("brats", "nan")  # keys of `region_scores.EMPTY_RULES`
LESIONS = ("2023", "2023_26_neighbours", "2024", "2024_26_neighbours", "2026")  # of `lesion_rules.MEANINGS`
