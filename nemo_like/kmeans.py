"""K-means of weighted points: Lloyd's algorithm from the best of several k-means++ starts.

N points, D features, K clusters
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]

SEED = 42
STARTS = 30
CANDIDATES = 3
"""Points that are drawn for each centre of a start; the best of them is taken."""
STEPS = 300
SAMPLE = 10_000
"""Of more points than this, so many find the centres from which all of them go on."""
TOLERANCE = 1e-6
"""Squared distance that the centres together move in the last step, at most."""


def standardized(points_ND: Floats, weights_N: Floats) -> Floats:
    """The points with mean 0 and standard deviation 1 (ddof 0) in each feature; a constant one stays 0."""
    centred_ND = points_ND - np.average(points_ND, axis=0, weights=weights_N)
    std_D = np.sqrt(np.average(centred_ND**2, axis=0, weights=weights_N))
    return centred_ND / np.where(std_D > 0, std_D, 1.0)


def cluster(points_ND: Floats, weights_N: Floats, k: int) -> Labels:
    """The cluster, from 0 to k - 1, of each of the points, which are distinct: that with the least sum of
    weighted squared distances to the centres, of several starts (Arthur and Vassilvitskii 2007).

    Raises:
        ValueError: there are fewer points than clusters.
    """
    if len(points_ND) < k:
        raise ValueError(f"{len(points_ND)} distinct points can't be {k} clusters")
    random = np.random.default_rng(SEED)
    sample_SD, weights_S = points_ND, weights_N
    if len(points_ND) > SAMPLE:
        some = np.sort(random.choice(len(points_ND), SAMPLE, replace=False))
        sample_SD, weights_S = points_ND[some], weights_N[some]
    starts = [_start(sample_SD, weights_S, k, random) for _ in range(STARTS)]
    runs = [_lloyd(sample_SD, weights_S, start_KD) for start_KD in starts]
    centres_KD, labels_N, _ = min(runs, key=lambda run: run[2])
    return labels_N if sample_SD is points_ND else _lloyd(points_ND, weights_N, centres_KD)[1]


def _start(points_ND: Floats, weights_N: Floats, k: int, random: np.random.Generator) -> Floats:
    """K of the points, each drawn by its squared distance to those before it: the best of `CANDIDATES`."""
    first = random.choice(len(points_ND), p=weights_N / weights_N.sum())
    chosen, nearest_N = [first], ((points_ND - points_ND[first]) ** 2).sum(axis=1)
    while len(chosen) < k:
        mass_N = nearest_N * weights_N
        drawn = random.choice(len(points_ND), CANDIDATES, p=mass_N / mass_N.sum())
        left = [np.minimum(nearest_N, ((points_ND - points_ND[i]) ** 2).sum(axis=1)) for i in drawn]
        best = min(range(CANDIDATES), key=lambda i: float((left[i] * weights_N).sum()))
        chosen.append(drawn[best])
        nearest_N = left[best]
    return points_ND[chosen]


def _lloyd(points_ND: Floats, weights_N: Floats, centres_KD: Floats) -> tuple[Floats, Labels, float]:
    """(The centres in the end, whose points are whose, the sum of weighted squared distances)."""
    labels_N, distances_N = _nearest(points_ND, centres_KD)
    for _ in range(STEPS):
        moved_KD = _means(points_ND, weights_N, labels_N, distances_N, len(centres_KD))
        shift = float(((moved_KD - centres_KD) ** 2).sum())
        centres_KD = moved_KD
        before_N = labels_N
        labels_N, distances_N = _nearest(points_ND, centres_KD)
        if shift <= TOLERANCE or np.array_equal(before_N, labels_N):
            break
    return centres_KD, labels_N, float((distances_N * weights_N).sum())


def _nearest(points_ND: Floats, centres_KD: Floats) -> tuple[Labels, Floats]:
    distances_KN = np.stack([((points_ND - centre_D) ** 2).sum(axis=1) for centre_D in centres_KD])
    labels_N = distances_KN.argmin(axis=0)
    return labels_N, distances_KN.min(axis=0)


def _means(points_ND: Floats, weights_N: Floats, labels_N: Labels, distances_N: Floats, k: int) -> Floats:
    """The mean of each cluster; one that lost all its points starts anew at the point that costs most."""
    mass_K = np.bincount(labels_N, weights_N, k)
    sums_DK = np.stack([np.bincount(labels_N, weights_N * feature_N, k) for feature_N in points_ND.T])
    means_KD = (sums_DK / np.where(mass_K > 0, mass_K, 1.0)).T
    costs_N = distances_N * weights_N
    for empty in np.flatnonzero(mass_K == 0):
        farthest = costs_N.argmax()
        means_KD[empty], costs_N[farthest] = points_ND[farthest], 0.0
    return means_KD
