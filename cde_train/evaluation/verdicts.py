"""Say in sentences what a comparison means: what to do, and how the model stands to each rival.

Better and worse are differences in nDCG@10 whose 95 % interval over queries leaves out 0.
"""

from collections.abc import Sequence

from cde_train.evaluation.results import LABELS, Comparison, Difference

RIVALS = ("start", "mixture", "bm25", "plain", "soft_whitening")
"""Textbook whitening is none: it falls apart where a corpus has hardly more documents than a vector has numbers."""
SIMPLER = ("mixture", "bm25", "plain")
"""What needs neither training nor a context, and is advised where it is better."""
IN_PARTS = " Measured is its hybrid search, vector and words together; what its one vector does is stated too."
NAMES = LABELS | {
    "mixture": f"the usual hybrid search ({LABELS['mixture']})",
    "plain": "plain vectors",
    "soft_whitening": "plain vectors after soft whitening",
    "null": "itself without a context",
    "foreign": "itself under a foreign context",
    "start": "the model it started from",
    "start_hybrid": "the model it started from",
    "against": "the other checkpoint under the null context",
    "against_own": "the other checkpoint",
    "against_hybrid": "the other checkpoint",
}


def advise(comparison: Comparison, start: str = NAMES["start"]) -> str:
    """Return what to do: take the model, stay with its start, or use a simpler search; and how it stands to another.

    Args:
        comparison: The figures; without those of a start the model is compared with simpler searches alone.
        start: What to call the start.
    """
    advice = _advise(comparison, start) + (IN_PARTS if comparison.judged == "hybrid" else "")
    return " ".join([advice, *(verdicts(comparison, [comparison.against]) if comparison.against else [])])


def _advise(comparison: Comparison, start: str) -> str:
    gain = next((d for d in comparison.differences() if d.rival == comparison.start), None)
    if gain is None:
        return _advise_alone(comparison)
    taken = comparison.judged if gain.verdict == "beats" else comparison.start
    better = [d for d in comparison.differences(taken) if d.rival in SIMPLER and d.verdict == "loses to"]
    brought = {
        "beats": f"is {100 * gain.mean:.1f} nDCG@10 better than the model it started from",
        "loses to": f"made it {-100 * gain.mean:.1f} nDCG@10 worse",
        "level with": f"brought no difference that {_queries(comparison)} queries can show",
    }[gain.verdict]
    if better:
        best = min(better, key=lambda d: d.mean)
        than = f"this model, which {brought}" if taken == comparison.judged else f"{start}; training {brought}"
        return f"Use {NAMES[best.rival]} instead: it is {-100 * best.mean:.1f} nDCG@10 better than {than}."
    rest = "no simpler search measured here is better beyond chance"
    if taken == comparison.judged:
        return f"Take this model: it {brought}, and {rest}."
    return f"Stay with {start}: training {brought}, and {rest}."


def _advise_alone(comparison: Comparison) -> str:
    """Return which of the model and the simpler searches to take: the best, or either where none is better."""
    found = [d for d in comparison.differences() if d.rival in SIMPLER]
    if not found:
        return "Measure BM25, plain vectors or the model it started from too: without them nothing can be advised."
    best = min(found, key=lambda d: d.mean)
    name, points = NAMES[best.rival], f"{abs(100 * best.mean):.1f} nDCG@10"
    if best.verdict == "loses to":
        return f"Use {name} instead: it is {points} better than this model."
    if best.verdict == "beats":
        return f"Take this model: it is {points} better than {name}, the best of the simpler searches."
    return f"Take this model or {name}: no difference that {_queries(comparison)} queries can show."


def verdicts(comparison: Comparison, rivals: Sequence[str] = RIVALS) -> list[str]:
    """Return a sentence a rival: better, worse, or no difference that this many queries can show."""
    found = {d.rival: d for d in comparison.differences()}
    if comparison.start in found:
        found["start"] = found[comparison.start]
    return [
        _verdict(found[rival], _queries(comparison)) if rival in found else f"Not compared with {NAMES[rival]}."
        for rival in rivals
    ]


def _verdict(d: Difference, queries: int) -> str:
    says = {
        "beats": "It is better than {}",
        "loses to": "It is worse than {}",
        "level with": f"No difference from {{}} that {queries} queries can show",
    }[d.verdict].format(NAMES[d.rival])
    losses = f"; worse on {', '.join(d.loses_on)}" if d.loses_on and d.sets > 1 else ""
    return f"{says}: {100 * d.mean:+.1f} nDCG@10 ({100 * d.low:+.1f} to {100 * d.high:+.1f}){losses}."


def _queries(comparison: Comparison) -> int:
    return sum(result.queries for result in comparison.results if result.mode == comparison.judged)
