"""How far images lie from all that are done: the greedy core-set, one choice at a time.

Sener & Savarese, ICLR 2018, algorithm 1, by cosine distance. Between two choices a few images are
labelled or handed out, and a few are let go, so that only what these change is computed.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024  # columns of a distance matrix at a time: bounds memory

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class CoreSet:
    """The nearest done row of each free row, kept from one choice to the next.

    Rows are those of one feature matrix, which may grow. Safe between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = np.zeros(0, np.int64)
        self._nearest = np.zeros(0, np.int64)  # by row, the done row most like it; -1: not known
        self._similarity = np.zeros(0, np.float32)  # to that one

    def distances(
        self, features: NDArray[np.float32], free: IntArray, done: IntArray
    ) -> FloatArray | None:
        """[F] cosine distance of each free row to the nearest done one; None where none is done.

        `features` is [N, 1024], each row of length 1.
        """
        if not len(done):
            return None
        with self._lock:
            more = len(features) - len(self._nearest)
            self._nearest = np.concatenate([self._nearest, np.full(more, -1)])
            self._similarity = np.concatenate([self._similarity, np.zeros(more, np.float32)])
            came, gone = np.setdiff1d(done, self._done), np.setdiff1d(self._done, done)
            self._nearest[np.isin(self._nearest, gone)] = -1
            known = self._nearest[free] >= 0
            self._similarity[free[~known]] = -np.inf
            self._meet(features, free[known], came)
            self._meet(features, free[~known], done)
            self._nearest[np.setdiff1d(np.arange(len(features)), free)] = -1  # they met nobody
            self._done = done.copy()
            return np.clip(1 - self._similarity[free].astype(np.float64), 0, 2)

    def forget(self, row: int) -> None:
        """The features of a row have changed."""
        with self._lock:
            if row < len(self._nearest):
                self._nearest[row] = -1
                self._nearest[self._nearest == row] = -1
                self._done = self._done[self._done != row]

    def _meet(self, features: NDArray[np.float32], free: IntArray, done: IntArray) -> None:
        if not len(free):
            return
        own = features[free]
        for start in range(0, len(done), BLOCK):
            block = done[start : start + BLOCK]
            similar = own @ features[block].T
            best = similar.argmax(axis=1)
            value = similar[np.arange(len(free)), best]
            closer = value > self._similarity[free]
            self._similarity[free[closer]] = value[closer]
            self._nearest[free[closer]] = block[best[closer]]
