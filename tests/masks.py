"""Simple masks for the tests of scores."""

import numpy as np


def box(*bounds, shape=(12, 12, 12)):
    array = np.zeros(shape, bool)
    array[tuple(slice(*bound) for bound in bounds)] = True
    return array


def ball(centre, radius_mm, spacing_mm, shape):
    grid = np.indices(shape).T * np.asarray(spacing_mm)
    return (np.linalg.norm(grid - np.asarray(centre) * spacing_mm, axis=-1) <= radius_mm).T
