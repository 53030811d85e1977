"""Train a student on a teacher that knows each corpus, and judge it on corpora that were not trained on.

    python -m benchmarks.distillation --store ... --base ... --output runs/distillation --cell context --seed 0
    python -m benchmarks.distillation ... --page docs/figures/distillation

Cells, all with the same lessons:

- ``context`` sees the corpus through its context documents;
- ``none`` sees the null context alone;
- ``shuffled`` sees context documents of other corpora, which tell it nothing;
- ``isolated`` is ``context`` with a teacher of which only that is left which the context changes, and with plain
  cosines as target under the null context;
- ``isolated_above`` is that with context documents that enter above the frozen layers.

A killed run goes on.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor, nn

from benchmarks.distillation.corpora import Corpus, Hidden, Lesson, Store, draw_lesson, teach
from benchmarks.distillation.page import write_page
from benchmarks.distillation.student import Student, Vectors
from cde_retriever.files.replacing import write_atomically
from cde_retriever.model.stages import State

CELLS = ("context", "none", "shuffled", "isolated", "isolated_above")
FROZEN, GATE = 4, 1.0
TOKENS = 64
DRAW: dict[str, Any] = {"queries": 12, "candidates": 36, "context": (64, 256)}
RATE, NEW_RATE, GATE_RATE, WARMUP = 1e-4, 3e-4, 1e-2, 20
TEACHER_TEMPERATURE = 0.08
NULL_RATE = 0.15
SAVE_STEPS = 20
JUDGED_CONTEXT = 256
UNSEEN = (
    *("claude_docs", "cranfield", "med", "stackfaq", "xquad_en"),
    *("p_doc_postgresql", "p_factbook", "p_medquad", "p_movies", "p_openstax_psychology", "p_python_code"),
    *("p_recipes", "p_scitldr"),
)
"""Corpora to judge on: development sets that are not large, and eight of the training pairs' sources."""


class Training:
    """One cell with one seed, saved every so many steps."""

    def __init__(self, options: argparse.Namespace, corpora: Sequence[Corpus]) -> None:
        self.options, self.corpora = options, corpora
        self.file = options.output / f"{options.cell}-{options.seed}" / "state.pt"
        torch.manual_seed(options.seed)
        self.isolated = options.cell.startswith("isolated")
        self.student = Student(options.base, FROZEN, GATE, enters_above=options.cell.endswith("above"))
        self.optimizer = torch.optim.AdamW(self.student.groups(RATE, NEW_RATE, GATE_RATE), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.step, self.losses = 0, list[float]()
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.student.load_state_dict(state["student"], strict=False)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.step, self.losses = state["step"], state["losses"]

    def _rate(self, step: int) -> float:
        return min((step + 1) / WARMUP, (self.options.steps - step) / (self.options.steps - WARMUP))

    def run(self) -> None:
        """Train to the end, or on to it."""
        began = time.process_time()
        while self.step < self.options.steps:
            loss = self._take_step()
            self.step += 1
            self.losses.append(loss)
            if self.step % SAVE_STEPS == 0 or self.step == self.options.steps:
                self._save()
                mean = np.mean(self.losses[-50:])
                print(f"{self.options.cell} {self.step} {mean:.4f} {time.process_time() - began:.0f} s", flush=True)

    def _take_step(self) -> float:
        rng = np.random.default_rng([self.options.seed, self.step])
        lesson = draw_lesson(self.corpora, rng, isolated=self.isolated, **DRAW)
        context: Vectors | None = lesson.context
        null = rng.random() < NULL_RATE
        if null and self.isolated:
            lesson = replace(lesson, teacher=lesson.plain)
        if self.options.cell == "shuffled":
            context = self._foreign(len(lesson.context), rng)
        loss = divergence(self.student, lesson, None if null or self.options.cell == "none" else context)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def _foreign(self, size: int, rng: np.random.Generator) -> Vectors:
        corpus = self.corpora[rng.integers(len(self.corpora))].vectors[0]
        return corpus[rng.choice(len(corpus), min(size, len(corpus)), replace=False)]

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        trained = {name for name, p in self.student.named_parameters() if p.requires_grad}
        weights = {name: tensor for name, tensor in self.student.state_dict().items() if name in trained}
        state = {
            "student": weights,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        part = self.file.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.file)


def divergence(student: Student, lesson: Lesson, context: Vectors | None) -> Tensor:
    """Return the listwise KL divergence of the student from the teacher, mean over queries, in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        state = student.read(context)
        documents, queries = student(lesson.documents, state), student(lesson.queries, state)
    scores = student.scale.exp() * (queries @ documents.T)
    target = torch.from_numpy(lesson.teacher / TEACHER_TEMPERATURE).softmax(dim=1)
    return nn.functional.kl_div(scores.log_softmax(dim=1), target, reduction="batchmean")


def judge_by_teacher(
    student: Student, corpora: Sequence[Corpus], isolated: bool, lessons: int = 60
) -> dict[str, list[float]]:
    """Return the divergence in each of some lessons of unseen corpora, under null, own and foreign context.

    A foreign context is that of the lesson before. Less noisy than nDCG: every candidate of every query counts.
    """
    found: dict[str, list[float]] = {"null": [], "own": [], "foreign": []}
    drawn = [draw_lesson(corpora, np.random.default_rng(i), isolated=isolated, **DRAW) for i in range(lessons)]
    for before, lesson in zip([drawn[-1], *drawn], drawn, strict=False):
        for name, context in (("null", None), ("own", lesson.context), ("foreign", before.context)):
            with torch.inference_mode():
                found[name].append(float(divergence(student, lesson, context)))
    return found


def judge(student: Student, start: Student, corpora: Sequence[Corpus]) -> dict[str, dict[str, float]]:
    """Return nDCG@10 x 100 of each corpus under null, own and foreign context, and of rivals.

    Rivals: the start without a context, plain vectors of 256 tokens, both teachers.
    """
    found = {}
    for number, corpus in enumerate(corpora):
        next_one = corpora[(number + 1) % len(corpora)]
        contexts = {"null": None, "own": sample(corpus), "foreign": sample(next_one)}
        scores = {name: scored(student, corpus, context) for name, context in contexts.items()}
        scores["start"] = scored(start, corpus, None)
        scores["plain"] = corpus.vectors[1] @ corpus.vectors[0].T
        scores |= {"teacher": teach_whole(corpus), "isolated": teach_whole(corpus, isolated=True)}
        found[corpus.name] = {name: ndcg(values, corpus.relevant) for name, values in scores.items()}
    return found


def sample(corpus: Corpus) -> Vectors:
    """Return the vectors of a corpus's context documents."""
    rng = np.random.default_rng(0)
    return corpus.vectors[0][rng.choice(len(corpus), min(JUDGED_CONTEXT, len(corpus)), replace=False)]


def teach_whole(corpus: Corpus, *, isolated: bool = False) -> Vectors:
    """Return the teacher's scores of a whole corpus, (q, n)."""
    (documents, queries), (words, asked) = corpus.vectors, corpus.words
    return teach(documents, words, queries, asked, isolated=isolated)


def scored(student: Student, corpus: Corpus, context: Vectors | None) -> Vectors:
    """Return a student's scores of a whole corpus under a context, (q, n)."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        state = student.read(context)
        documents, queries = (embed(student, hidden, state) for hidden in corpus.hidden)
    return queries @ documents.T


def embed(student: Student, hidden: Hidden, state: State) -> Vectors:
    """Return unit vectors of stored texts, (n, d), longest first through the student."""
    order = np.argsort(-np.diff(hidden.starts), kind="stable")
    parts = [student(hidden.padded(order[i : i + 64]), state).float().numpy() for i in range(0, len(order), 64)]
    vectors = np.empty((len(order), parts[0].shape[1]), np.float32)
    vectors[order] = np.concatenate(parts)
    return vectors


def ndcg(scores: Vectors, relevant: Sequence[dict[int, int]]) -> float:
    """Return nDCG@10 x 100 of scores, (q, n), mean over queries."""
    gains = np.zeros(scores.shape)
    for row, found in enumerate(relevant):
        gains[row, list(found)] = list(found.values())
    return 100 * float(ndcg_score(gains, scores, k=10, ignore_ties=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a cell, judge it, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="folder of stored corpora, as `Store` says")
    parser.add_argument("--hidden", type=Path, help="folder of what the lower layers give")
    parser.add_argument("--base", type=Path, help="the plain encoder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cell", choices=CELLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--page", type=Path, help="write PAGE.json and PAGE.md from what is done")
    options = parser.parse_args(arguments)
    if options.page:
        write_page(
            [json.loads(file.read_text()) for file in sorted(options.output.glob("*/result.json"))], options.page
        )
        return 0
    store = Store(options.store, options.hidden, options.base.name, TOKENS)
    unseen = [store.open(name) for name in UNSEEN]
    corpora = [store.open(name) for name in store.names() if name not in UNSEEN and name.startswith("p_")]
    training = Training(options, corpora)
    training.run()
    result = {
        "cell": options.cell,
        "seed": options.seed,
        "steps": options.steps,
        "last_loss": float(np.mean(training.losses[-50:])),
        "gate": training.student.second.gate[FROZEN:].flatten().tolist(),
        "scale": float(training.student.scale.detach().exp()),
        "divergence": judge_by_teacher(training.student, unseen, training.isolated),
        "sets": judge(training.student, Student(options.base, FROZEN, -math.inf), unseen),
    }
    write_atomically(training.file.with_name("result.json"), json.dumps(result, indent=1).encode())
    print(
        {name: round(float(np.mean([s[name] for s in result["sets"].values()])), 2) for name in result["sets"]["med"]}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
