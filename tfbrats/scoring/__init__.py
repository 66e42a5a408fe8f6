"""How good a folder of segmentations is: which file answers which, and all scores. Numbers alone."""
