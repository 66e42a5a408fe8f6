"""How good one segmentation is: masks in, numbers out. Knows no file."""
