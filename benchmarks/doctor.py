"""Hold `cde doctor` to what people judged: does it order and recommend rightly, from questions it made itself?

    python -m benchmarks.doctor MODEL SETS [--cache runs/quality_cache] [--questions 200]

On each judged set the doctor sees the documents alone. Its order of plain, BM25 + plain and ours (two parts, own
context of 512 documents), and the setting it recommends, are then compared with nDCG@10 of the same settings on the
judged queries. Two settings that people's judgements hold less than 0.5 apart are in either order.

Plain vectors of the sets come from the cache folder of `benchmarks.quality`; those of documents that a question was
taken out of are made once and kept there too. Writes docs/figures/doctor.json and docs/figures/doctor.md.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import Bench
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import TruncationWarning
from cde_retriever.files.replacing import write_atomically
from cde_retriever.lifecycle.doctor import MIXTURE, PLAIN, Setting, examine, recommend
from cde_retriever.lifecycle.kept_vectors import kept_embedding
from cde_retriever.lifecycle.trial import JUDGED, Question, Trial, automatic_trial
from cde_retriever.search.mixture import WORD_SHARE
from cde_train.data.retrieval_sets import RetrievalSet, find_retrieval_sets

APART = 0.5
"""Points below which judged settings count as equal."""
OURS = ("both", "own")


class Vectors:
    """Plain vectors of texts: known ones by their text, others made and kept."""

    def __init__(self, encoder: ContextualEncoder, cache: Path) -> None:
        self._known: dict[tuple[str, str], NDArray[np.float32]] = {}
        self._others = kept_embedding(encoder, cache, show_progress=True)

    def add(self, role: str, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add vectors that are known."""
        self._known.update(((role, text), vector) for text, vector in zip(texts, vectors, strict=True))

    def __call__(self, texts: Sequence[str], role: str) -> NDArray[np.float32]:
        """Return plain vectors, (n, d)."""
        missing = [text for text in dict.fromkeys(texts) if (role, text) not in self._known]
        if missing:
            self.add(role, missing, self._others(missing, role))
        return np.stack([self._known[role, text] for text in texts])


def judged_by_people(data: RetrievalSet) -> Trial:
    """Return a whole set with its judged queries."""
    place = {name: number for number, name in enumerate(data.document_ids)}
    questions = [
        Question(text, {place[name]: float(gain) for name, gain in data.relevant[query].items()}, JUDGED)
        for query, text in zip(data.query_ids, data.queries, strict=True)
    ]
    return Trial(data.documents, tuple(questions), len(data.documents))


def ours(settings: Sequence[Setting]) -> Setting:
    """Return two parts under the largest own context."""
    return max((one for one in settings if (one.parts, one.context) == OURS), key=lambda setting: setting.size)


def three(settings: Sequence[Setting]) -> dict[str, float]:
    """Return the means of plain, BM25 + plain and ours."""
    named = {setting.name: setting.mean for setting in settings}
    return {"plain": named[PLAIN], "mixture": named[MIXTURE], "ours": ours(settings).mean}


def agrees(found: dict[str, float], judged: dict[str, float]) -> bool:
    """Tell whether no pair that is apart in the judged means stands in the other order in those found."""
    return all(
        found[better] > found[worse] for better in judged for worse in judged if judged[better] - judged[worse] >= APART
    )


def row(data: RetrievalSet, found: Sequence[Setting], judged: Sequence[Setting]) -> dict[str, Any]:
    """Return what one set says about the doctor."""
    advice = recommend(found, judged=False)
    same = {(one.parts, one.context, one.name if not one.parts else one.size): one for one in judged}
    key = (advice.parts, advice.context, advice.name if not advice.parts else advice.size)
    best = max(judged, key=lambda setting: setting.mean)
    taken = same.get(key) or ours(judged)
    return {
        "set": data.name,
        "found": three(found),
        "judged": three(judged),
        "agrees": agrees(three(found), three(judged)),
        "constant_agrees": agrees({"plain": 0, "mixture": 1, "ours": 2}, three(judged)),
        "recommended": advice.name,
        "best": best.name,
        "loss": best.mean - taken.mean,
        "loss_error": 100 * float((best.quality - taken.quality).std() / np.sqrt(len(best.quality))),
        "all_found": {setting.name: setting.mean for setting in found},
        "all_judged": {setting.name: setting.mean for setting in judged},
    }


def write_page(file: Path) -> str:
    """Write the measurements as a page beside them, and return it."""
    stated = json.loads(file.read_text())
    rows, share = stated["results"], stated["word_share"]
    lines = [
        "# The doctor against people's judgements",
        "",
        f"{stated['name']}, {stated['questions']} questions made of each set's documents, by `python -m "
        f"benchmarks.doctor`; nDCG@10 x 100 of plain, BM25 + plain ({share} and {1 - share}), two parts under own "
        "context. Loss: the best judged setting less the recommended one, and its standard error over queries.",
        "",
        "| set | made questions | judged queries | order agrees | recommended | best judged | loss |",
        "|---|---|---|---|---|---|--:|",
    ]
    for one in rows:
        made, judged = (" · ".join(f"{value:.1f}" for value in one[key].values()) for key in ("found", "judged"))
        cells = [one["set"], made, judged, "yes" if one["agrees"] else "no", one["recommended"], one["best"]]
        lines.append(f"| {' | '.join(cells)} | {one['loss']:.1f} ± {one['loss_error']:.1f} |")
    agreeing, constant = (sum(one[key] for one in rows) for key in ("agrees", "constant_agrees"))
    lines += [
        "",
        f"The order agrees on {agreeing} of {len(rows)} sets; the fixed order plain < BM25 + plain < ours, which looks "
        f"at no corpus, on {constant}. Pairs closer than {APART} in the judgements count in either order. "
        f"Largest loss {max(one['loss'] for one in rows):.1f}.",
        "",
    ]
    write_atomically(file.with_suffix(".md"), "\n".join(lines).encode())
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.doctor", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder or name of a model with a corpus head")
    parser.add_argument("sets", type=Path, nargs="+", help="judged sets, or folders of them")
    parser.add_argument("--questions", type=int, default=200, help="most questions of a set (default: 200)")
    parser.add_argument("--documents", type=int, default=10_000, help="most documents of a set (default: 10000)")
    parser.add_argument("--dtype", default="bfloat16", help="precision of plain vectors (default: bfloat16)")
    parser.add_argument("--cache", type=Path, default=Path("runs/quality_cache"), help="folder of plain vectors")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/doctor.json"), help="file of measurements")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine every set, writing after each, and write the page."""
    options = parse(arguments)
    warnings.simplefilter("ignore", TruncationWarning)
    encoder = ContextualEncoder.from_pretrained(options.model, dtype=options.dtype)
    folders = [found for folder in options.sets for found in find_retrieval_sets(folder)]
    bench = Bench(encoder, folders, cache=options.cache, dtype=options.dtype)
    results: list[dict[str, Any]] = []
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        (data, _), plain = bench.data(folder), bench.plain(folder)
        vectors = Vectors(encoder, bench.cache / "doctor")
        vectors.add("document", plain.documents, plain.document_vectors)
        vectors.add("query", plain.queries, plain.query_vectors)
        trial = automatic_trial(data.documents, documents=options.documents, questions=options.questions)
        found = examine(encoder, trial, vectors)
        # The settings that made questions choose among.
        judged = [one for one in examine(encoder, judged_by_people(data), vectors) if one.alpha == 0.5]
        results.append(row(data, found, judged))
        stated = {"model": encoder.identity.sha256, "name": encoder.config.name, "questions": options.questions}
        stated["word_share"] = WORD_SHARE
        write_atomically(options.output, json.dumps({**stated, "results": results}, indent=1).encode())
        print(folder.name, results[-1]["found"], results[-1]["judged"], flush=True)
    print(write_page(options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
