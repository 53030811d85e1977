"""Learn from a teacher that knows a corpus how a short vector weighs its context's directions; judge on unseen corpora.

    python -m benchmarks.distillation.directions --store ... --base all-MiniLM-L6-v2
        --page docs/figures/distillation-directions

The student has `NUMBERS` numbers, plain vectors in the context's main directions and words in its topics,
and what is learned is as in `cde_train.distillation`. A lesson is a mixture of training corpora; the teacher's scores
are dense vectors moved to neighbours and exact words under the whole mixture's statistics. Contexts:

- ``own``: documents of the mixture, a fifth to three fifths of it, 512 at most;
- ``foreign``: those of another mixture;
- ``mixed``: documents of all training corpora, the same for every lesson: a context that tells nothing of this one;
- ``null``: none: the encoder's first numbers, no words.

One student is trained and judged under each, with each seed. "Its own corpus alone": a student for each unseen corpus,
taught by that corpus and its real queries without their answers: the most that a recipe for one folder could gain. Only
the pages of `benchmarks.quality` judge the product.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablation.table import show
from benchmarks.distillation.__main__ import UNSEEN, ndcg
from benchmarks.distillation.corpora import Corpus, Store, joined, teach
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.files.replacing import write_atomically
from cde_train.distillation.config import DistillationConfig
from cde_train.distillation.student import Context, Law, Seen, divergence, see, train
from cde_train.distillation.teacher import Texts

MOST = 512
TAUGHT_BY = HeadSettings(word_weight=0.26, gram_weight=0.26, rareness=1.5, sharing=0.5, skip_question_words=False)
UNTAUGHT = replace(HeadSettings.short(384), levelling=0.0, topic_weight=0.85)
NUMBERS = UNTAUGHT.directions + UNTAUGHT.topics
TEMPERATURE = 0.06
FIRST_LINE = (__doc__ or "").split("\n")[0]
ALONE = "its own corpus alone"
CONTEXTS = ("own", "mixed", "foreign", "null")


def mixture(corpora: Sequence[Corpus], rng: np.random.Generator, queries: int = 60) -> Corpus:
    """Draw one to six corpora, half to all of each, and queries of all of them."""
    chosen = [corpora[i] for i in rng.choice(len(corpora), int(rng.choice([1, 2, 3, 4, 6])), replace=False)]
    parts = [rng.permutation(len(c))[: int(len(c) * rng.uniform(0.5, 1))] for c in chosen]
    asked = [rng.permutation(len(c.relevant))[: queries // len(chosen)] for c in chosen]
    sides = zip((parts, asked), (0, 1), strict=True)
    vectors, words = zip(
        *(
            (
                np.concatenate([c.vectors[side][r] for c, r in zip(chosen, rows, strict=True)]),
                joined([c.words[side] for c in chosen], rows),
            )
            for rows, side in sides
        ),
        strict=True,
    )
    return Corpus("+".join(c.name for c in chosen), vectors, words, (), [])


def sampled(corpus: Corpus, rng: np.random.Generator, share: float) -> Context:
    """Draw a corpus's context documents."""
    return Context.of(corpus.documents, rng.permutation(len(corpus))[: min(MOST, int(share * len(corpus)))])


def target(corpus: Corpus) -> Tensor:
    """Return the teacher's distribution over documents, (q, n)."""
    (documents, queries), (words, asked) = corpus.vectors, corpus.words
    scores = teach(documents, words, queries, asked, settings=TAUGHT_BY)
    return torch.from_numpy(scores / TEMPERATURE).softmax(dim=1)


class Classroom:
    """Lessons and unseen corpora, under every context."""

    def __init__(self, store: Store, lessons: int) -> None:
        names = [name for name in store.names() if name.startswith("p_")]
        self.training = [store.open(name) for name in names if name not in UNSEEN]
        self.unseen = [store.open(name) for name in UNSEEN]
        rng = np.random.default_rng(0)
        parts = [rng.permutation(len(c))[:12] for c in self.training]
        words = joined([c.words[0] for c in self.training], parts)
        vectors = np.concatenate([c.vectors[0][r] for c, r in zip(self.training, parts, strict=True)])
        self.mixed = Context(Texts(vectors, words), None)
        mixtures = [mixture(self.training, np.random.default_rng([7, i])) for i in range(lessons)]
        self.targets = [target(corpus) for corpus in mixtures]
        self.lessons, self.judged = self._under(mixtures), self._under(self.unseen)

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
        plain = [ndcg(c.vectors[1] @ c.vectors[0].T, c.relevant) for c in self.unseen]
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


def markdown(result: dict[str, Any]) -> str:
    """Return the page's text."""
    lines = [
        "# Distillation of a short vector",
        "",
        "Written by `python -m benchmarks.distillation.directions`, which says what is learned and from whom.",
        "",
        f"nDCG@10 x 100, mean over {len(UNSEEN)} corpora that were not trained on ({', '.join(UNSEEN)}); {NUMBERS} "
        f"numbers a vector. Plain vectors of 384 numbers {result['plain']:.2f}, the teacher {result['teacher']:.2f}. "
        f"KL: from the teacher, nats, in {result['held_out']} of {result['lessons']} lessons, left out of training. "
        "± is half the 95 % interval over seeds (Student's t).",
        "",
        "| trained under | seeds | p | topics' worth | KL | own context | mixed | foreign | null |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ("nothing learned", *CONTEXTS, ALONE):
        runs = [run for run in result["runs"] if run["trained_on"] == name]
        figures = [
            show([run[key] for run in runs], digits)
            for key, digits in (("levelling", 3), ("worth", 2), ("divergence", 3))
        ]
        figures += [show([run["scores"].get(context) for run in runs]) for context in CONTEXTS]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(figures)} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and judge a student under every context, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation.directions", description=FIRST_LINE)
    parser.add_argument("--store", type=Path, required=True, help="folder of stored corpora, as `Store` says")
    parser.add_argument("--base", required=True, help="name of the plain encoder whose vectors are stored")
    parser.add_argument("--lessons", type=int, default=32)
    parser.add_argument("--held-out", type=int, default=6, help="lessons that are not trained on")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", type=Path, required=True, help="write PAGE.json and PAGE.md")
    options = parser.parse_args(arguments)
    room = Classroom(Store(options.store, None, options.base, 0), options.lessons)
    runs = [room.examine("nothing learned", 0, 0, options.held_out)]
    runs += [room.examine(name, seed, options.steps, options.held_out) for name in CONTEXTS for seed in options.seeds]
    runs += [room.tutor(seed, options.steps) for seed in options.seeds]
    result = {"lessons": options.lessons, "held_out": options.held_out, "runs": runs} | room.bounds()
    write_atomically(options.page.with_suffix(".json"), (json.dumps(result, indent=1) + "\n").encode())
    write_atomically(options.page.with_suffix(".md"), markdown(result).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
