"""Things timed in turns, their ratio within one turn, and how a time grows with a size."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tqdm.auto import tqdm

Timings = dict[str, list[float]]
"""What was timed to its seconds, one number a repetition."""


def interleave(subjects: Mapping[str, Callable[[], object]], repetitions: int, label: str) -> Timings:
    """Time things in turns (A, B, A, B ...), after one round of warm-up, so that a busy machine slows all of them."""
    timings: Timings = {name: [] for name in subjects}
    for repetition in tqdm(range(repetitions + 1), desc=label, unit="round"):
        for name, run in subjects.items():
            start = time.perf_counter()
            run()
            if repetition > 0:
                timings[name].append(time.perf_counter() - start)
    return timings


def ratio(timings: Mapping[str, Sequence[float]], ours: str, reference: str) -> dict[str, float]:
    """Return the median, least and largest ratio of two subjects within one repetition, and how many there were."""
    ratios = [a / b for a, b in zip(timings[ours], timings[reference], strict=True)]
    return {
        "median": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
        "repetitions": len(ratios),
    }


def medians(timings: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each subject."""
    return {name: statistics.median(seconds) for name, seconds in timings.items()}


def per_text(timings: Mapping[str, Sequence[float]], counts: Mapping[str, int]) -> Timings:
    """Return seconds a text from seconds a round."""
    return {name: [value / counts[name] for value in seconds] for name, seconds in timings.items()}


def fit_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return b of ``seconds = a * size ** b``, by least squares on logarithms.

    Raises:
        ValueError: with fewer than two different sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"an exponent needs at least two different sizes, received {list(sizes)}")
    slope, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return float(slope)
