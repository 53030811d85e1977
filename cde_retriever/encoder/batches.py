"""Cut texts into batches of similar length."""

from collections.abc import Iterator, Sequence

TYPICAL_TOKENS = 128
MOST_TEXTS = 4
"""A batch holds at most so many times the texts it holds of `TYPICAL_TOKENS`: more of tiny ones gain no time, and each
odd size of batch leaves its own holes in the heap, which glibc before 2.38 does not fill again."""
# Padding that a batch may hold: as many tokens as take the time of starting another batch, or a share of all.
PADDING_TOKENS, PADDING_SHARE = 48, 1 / 8


def batches_of(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield rows of batches, the longest texts first, each of about as many tokens and with little padding.

    Args:
        ids: Token ids.
        batch_size: Texts of `TYPICAL_TOKENS` tokens a batch; of shorter ones up to `MOST_TEXTS` times as many, of
            longer ones fewer, at least one.
    """
    most = batch_size * MOST_TEXTS
    rows: list[int] = []
    longest = tokens = 0
    for row in sorted(range(len(ids)), key=lambda row: -len(ids[row])):
        tokens += len(ids[row])
        padded = longest * (len(rows) + 1)
        if rows and (padded > batch_size * TYPICAL_TOKENS or len(rows) == most or _wasteful(padded, tokens)):
            yield rows
            rows, tokens = [], len(ids[row])
        if not rows:
            longest = max(1, len(ids[row]))
        rows.append(row)
    if rows:
        yield rows


def _wasteful(padded: int, tokens: int) -> bool:
    return padded - tokens > max(PADDING_TOKENS, PADDING_SHARE * padded)
