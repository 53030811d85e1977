"""Learn from a teacher that knows a corpus how a short vector weighs its context's directions; judge on unseen corpora.

    python -m benchmarks.recipes.pair_sets ../shared/pairs runs/pair_sets
    python -m benchmarks.distillation.directions cde-minilm-l6-v2 runs/pair_sets
        ../shared/eval/{claude_docs,cranfield,med,stackfaq,xquad_en}

The sets named in `UNSEEN` are judged on, all others given are learned from. The student has `NUMBERS` numbers, plain
vectors in the context's main directions and words in its topics, and what is learned is as in
`cde_train.distillation`. A lesson is a mixture of training corpora; the teacher's scores are dense vectors moved to
neighbours and exact words under the whole mixture's statistics. Contexts:

- ``own``: documents of the mixture, a fifth to three fifths of it, 512 at most;
- ``foreign``: those of another mixture;
- ``mixed``: documents of all training corpora, the same for every lesson: a context that tells nothing of this one;
- ``null``: none: the encoder's first numbers, no words.

One student is trained and judged under each, with each seed. "Its own corpus alone": a student for each unseen corpus,
taught by that corpus and its real queries without their answers: the most that a recipe for one folder could gain. Only
the pages of `benchmarks.quality` judge the product. Plain vectors are kept in the cache folder of `benchmarks.quality`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

from benchmarks.ablation.table import show
from benchmarks.distillation.corpora import Corpus, joined, mixture, named
from benchmarks.kept_bench import kept_parser, open_bench, write_lines, write_measurements
from benchmarks.quality import Bench
from cde_retriever.context.head_settings import HeadSettings
from cde_train.distillation.config import DistillationConfig
from cde_train.distillation.student import Context, Law, Seen, divergence, see, train
from cde_train.distillation.teacher import Vectors, teach

UNSEEN = (
    *("claude_docs", "cranfield", "med", "stackfaq", "xquad_en"),
    *("doc_postgresql", "factbook", "medquad", "movies", "openstax_psychology", "python_code", "recipes", "scitldr"),
)
"""Corpora to judge on: development sets that are not large, and eight of the training pairs' sources."""
MOST = 512
TAUGHT_BY = HeadSettings(
    word_weight=0.26, gram_weight=0.26, pair_weight=0.0, rareness=1.5, sharing=0.5, skip_question_words=False
)
UNTAUGHT = replace(HeadSettings.short(384), levelling=0.0, topic_weight=0.85)
NUMBERS = UNTAUGHT.directions + UNTAUGHT.topics
TEMPERATURE = 0.06
ALONE = "its own corpus alone"
CONTEXTS = ("own", "mixed", "foreign", "null")


def sampled(corpus: Corpus, rng: np.random.Generator, share: float) -> Context:
    """Draw a corpus's context documents."""
    return Context.of(corpus.documents, rng.permutation(len(corpus))[: min(MOST, int(share * len(corpus)))])


def target(corpus: Corpus) -> Tensor:
    """Return the teacher's distribution over documents, (q, n)."""
    scores, _ = teach(corpus.documents, corpus.queries, TAUGHT_BY)
    return torch.from_numpy(scores / TEMPERATURE).softmax(dim=1)


def ndcg(scores: Vectors, relevant: Sequence[dict[int, int]]) -> float:
    """Return nDCG@10 x 100 of scores, (q, n), mean over queries."""
    gains = np.zeros(scores.shape)
    for row, found in enumerate(relevant):
        gains[row, list(found)] = list(found.values())
    return 100 * float(ndcg_score(gains, scores, k=10, ignore_ties=True))


class Classroom:
    """Lessons and unseen corpora, under every context."""

    def __init__(self, training: Sequence[Corpus], unseen: Sequence[Corpus], lessons: int) -> None:
        self.unseen = unseen
        rng = np.random.default_rng(0)
        mixed = joined([c.documents.take(rng.permutation(len(c))[:12]) for c in training])
        self.mixed = Context(mixed, None)
        mixtures = [mixture(training, np.random.default_rng([7, i])) for i in range(lessons)]
        self.targets = [target(corpus) for corpus in mixtures]
        self.lessons, self.judged = self._under(mixtures), self._under(unseen)

    def _under(self, corpora: Sequence[Corpus]) -> dict[str, list[Seen]]:
        own = [sampled(c, rng := np.random.default_rng([8, i]), rng.uniform(0.2, 0.6)) for i, c in enumerate(corpora)]
        nobody = Context.of(corpora[0].documents, np.zeros(0, np.int64))
        contexts = {
            "own": own,
            "mixed": [self.mixed] * len(corpora),
            "foreign": [replace(context, rows=None) for context in (own[-1], *own[:-1])],
            "null": [nobody] * len(corpora),
        }
        return {
            name: [see(c.documents, c.queries, used, UNTAUGHT) for c, used in zip(corpora, contexts[name], strict=True)]
            for name in CONTEXTS
        }

    def tutor(self, seed: int, steps: int) -> dict[str, Any]:
        """Train a student for each unseen corpus on that corpus alone, and return the same as `examine`."""
        lessons = [(seen, target(c)) for seen, c in zip(self.judged["own"], self.unseen, strict=True)]
        laws = [train([lesson], Law(UNTAUGHT), DistillationConfig(seed=seed, steps=steps)) for lesson in lessons]
        with torch.no_grad():
            found = [
                (
                    float(law.levelling),
                    float(law.worth.exp()),
                    float(divergence(law, *lesson)),
                    ndcg(law(lesson[0]).numpy(), c.relevant),
                )
                for law, lesson, c in zip(laws, lessons, self.unseen, strict=True)
            ]
        levelling, worth, kl, score = np.mean(found, axis=0).tolist()
        learned = {"levelling": levelling, "worth": worth, "divergence": kl, "scores": {"own": score}}
        return {"trained_on": ALONE, "seed": seed} | learned

    def bounds(self) -> dict[str, float]:
        """Return nDCG@10 of plain vectors and of the teacher on the unseen corpora."""
        plain = [ndcg(c.queries.vectors @ c.documents.vectors.T, c.relevant) for c in self.unseen]
        taught = [ndcg(target(c).numpy(), c.relevant) for c in self.unseen]
        return {"plain": float(np.mean(plain)), "teacher": float(np.mean(taught))}

    def examine(self, trained_on: str, seed: int, steps: int, held_out: int) -> dict[str, Any]:
        """Train a student under one context and return what it learned, and its nDCG@10 on unseen corpora."""
        lessons = list(zip(self.lessons.get(trained_on, self.lessons["own"]), self.targets, strict=True))
        law = train(lessons[held_out:], Law(UNTAUGHT), DistillationConfig(seed=seed, steps=steps))
        with torch.no_grad():
            left = [float(divergence(law, *lesson)) for lesson in lessons[:held_out]]
            scores = {
                context: [ndcg(law(seen).numpy(), c.relevant) for seen, c in zip(sets, self.unseen, strict=True)]
                for context, sets in self.judged.items()
            }
        return {
            "trained_on": trained_on,
            "seed": seed,
            "levelling": float(law.levelling.detach()),
            "worth": float(law.worth.detach().exp()),
            "divergence": float(np.mean(left)),
            "scores": {context: float(np.mean(values)) for context, values in scores.items()},
        }


def page_lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# Distillation of a short vector"
    yield ""
    yield "Written by `python -m benchmarks.distillation.directions`, which says what is learned and from whom."
    yield ""
    yield (
        f"nDCG@10 x 100, mean over {len(UNSEEN)} corpora that were not trained on ({', '.join(UNSEEN)}); {NUMBERS} "
        f"numbers a vector. Plain vectors of 384 numbers {result['plain']:.2f}, the teacher {result['teacher']:.2f}. "
        f"KL: from the teacher, nats, in {result['held_out']} of {result['lessons']} lessons, left out of training. "
        "± is half the 95 % interval over seeds (Student's t)."
    )
    yield ""
    yield "| trained under | seeds | p | topics' worth | KL | own context | mixed | foreign | null |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name in ("nothing learned", *CONTEXTS, ALONE):
        runs = [run for run in result["runs"] if run["trained_on"] == name]
        figures = [
            show([run[key] for run in runs], digits)
            for key, digits in (("levelling", 3), ("worth", 2), ("divergence", 3))
        ]
        figures += [show([run["scores"].get(context) for run in runs]) for context in CONTEXTS]
        yield f"| {name} | {len(runs)} | {' | '.join(figures)} |"


def read_corpora(bench: Bench, folders: Sequence[Path]) -> list[Corpus]:
    """Return sets with their plain vectors and counts of words."""
    return [Corpus.of(bench.data(folder)[0], bench.plain(folder)) for folder in folders]


def taught(room: Classroom, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what each student learned, and its nDCG@10."""
    yield room.examine("nothing learned", 0, 0, options.held_out)
    for name in CONTEXTS:
        for seed in options.seeds:
            yield room.examine(name, seed, options.steps, options.held_out)
    for seed in options.seeds:
        yield room.tutor(seed, options.steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and judge a student under every context, and write the page."""
    parser = kept_parser("distillation.directions", __doc__)
    parser.set_defaults(output=Path("docs/figures/distillation-directions.json"))
    parser.add_argument("--lessons", type=int, default=32, help="mixtures to draw (default: 32)")
    parser.add_argument("--held-out", type=int, default=6, help="lessons that are not trained on (default: 6)")
    parser.add_argument("--steps", type=int, default=300, help="of training (default: 300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training (default: 0 1 2)")
    options = parser.parse_args(arguments)
    if not 0 < options.held_out < options.lessons:
        parser.error(f"--held-out is {options.held_out}, expected 1 to {options.lessons - 1}, fewer than --lessons")
    bench, folders = open_bench(options)
    unseen = named(folders, UNSEEN)
    training = read_corpora(bench, [folder for folder in folders if folder.name not in UNSEEN])
    room = Classroom(training, read_corpora(bench, unseen), options.lessons)
    result: dict[str, Any] = {"lessons": options.lessons, "held_out": options.held_out} | room.bounds()
    result["runs"] = list(taught(room, options))
    write_measurements(options.output, bench.encoder, **result)
    print(write_lines(options.output, page_lines(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
