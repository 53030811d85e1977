"""A first, plain training loop: batches of one domain, in-batch negatives, a frozen first stage.

It proves the path from pairs to a checkpoint. Contextual batching, false-negative filtering and two-stage gradient
caching are not in it.

Because the first stage is frozen, the vector of every possible context document is computed once, before the loop;
each step then draws a context of random size from its domain. `TrainConfig` says what is drawn how often.

    python -m cde_train.training run.toml
"""

import argparse
import json
import random
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from cde_retriever.context import hash_text, write_atomically
from cde_retriever.encoder import ContextualEncoder, default_device
from cde_retriever.tokenization import TextTokenizer
from cde_train.data import TrainingPair, by_domain, read_pairs
from cde_train.initialization import StartConfig, start_from
from cde_train.losses import contrastive_loss, duplicate_mask

STATE_NAME = "training.pt"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run.

    Attributes:
        pairs: File or folder of pairs.
        base: Folder of the plain encoder both stages start from.
        output: Where checkpoint, state and log go.
        name: The model's name.
        leave_out: Domains not to train on.
        pairs_per_domain: Most pairs of one domain, drawn at random.
        steps: Optimiser steps.
        batch_size: Pairs a step, all of one domain.
        train_length: Longest text in training, in tokens.
        max_length: Longest text the finished model reads, in tokens.
        context_sizes: Smallest and largest context, in documents.
        null_rate: Share of steps under the null context.
        context_dropout: Chance that a context document is left out (paper: 0.005, replaced by the null vector).
        temperature: Divides the cosine scores.
        learning_rate: Peak rate of the backbone's parameters.
        new_learning_rate: Peak rate of projection and null context, which start untrained.
        gate_learning_rate: Peak rate of the gate, a score added before a softmax, which must travel far.
        warmup: Steps of linear warm-up; linear decay to zero follows.
        clip: Largest gradient norm.
        interpolation: How far the checkpoint goes from the start to the trained weights: 1 is all the way, 0.5 the
            middle, which often keeps more of what the start was good at (WiSE-FT, arXiv 2109.01903).
        bf16: Whether to compute in bfloat16 where autocast allows.
        save_every: Steps between two saved states.
        seed: Seed of everything random.
    """

    pairs: str
    base: str
    output: str
    name: str
    leave_out: tuple[str, ...] = ()
    pairs_per_domain: int = 400
    steps: int = 400
    batch_size: int = 128
    train_length: int = 96
    max_length: int = 256
    context_sizes: tuple[int, int] = (16, 256)
    null_rate: float = 0.15
    context_dropout: float = 0.005
    temperature: float = 0.05
    learning_rate: float = 2e-5
    new_learning_rate: float = 3e-4
    gate_learning_rate: float = 1e-2
    warmup: int = 40
    clip: float = 1.0
    interpolation: float = 1.0
    bf16: bool = True
    save_every: int = 20
    seed: int = 0


class Trainer:
    """One run: data, model, optimiser, and the loop over them.

    Resumes from the state in the output folder if there is one.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.output = Path(config.output)
        self.encoder = self._start()
        self.model = self.encoder.model.to(default_device())
        self.device = self.encoder.device
        self.texts = TextTokenizer(
            self.encoder.tokenizer,
            prompts=self.encoder.config.prompts,
            max_length=config.train_length,
            pad_token_id=int(self.encoder.config.second_stage["pad_token_id"]),
        )
        self.domains = self._draw_pairs()
        self.optimizer = self._optimizer()
        self.step = 0

    def _start(self) -> ContextualEncoder:
        config = self.config
        return start_from(config.base, StartConfig(config.name, max_length=config.max_length), config.seed)

    def _draw_pairs(self) -> dict[str, list[TrainingPair]]:
        config = self.config
        groups = by_domain(read_pairs(config.pairs))
        unknown = set(config.leave_out) - groups.keys()
        if unknown:
            raise ValueError(f"leave_out names unknown domains {sorted(unknown)}; there are {sorted(groups)}")
        rng = random.Random(config.seed)
        drawn = {}
        for domain, pairs in groups.items():
            if domain not in config.leave_out and len(pairs) >= config.batch_size:
                drawn[domain] = rng.sample(pairs, min(len(pairs), config.pairs_per_domain))
        return drawn

    def _optimizer(self) -> torch.optim.AdamW:
        self.model.requires_grad_(False)
        second = self.model.second_stage
        second.requires_grad_(True)
        second.backbone.get_input_embeddings().weight.requires_grad_(False)
        backbone = {id(p) for p in second.backbone.parameters()}
        new = [p for p in second.parameters() if id(p) not in backbone and p is not second.gate and p.numel()]
        old = [p for p in second.backbone.parameters() if p.requires_grad]
        groups = [
            {"params": old, "peak": self.config.learning_rate},
            {"params": new, "peak": self.config.new_learning_rate},
            {"params": [second.gate], "peak": self.config.gate_learning_rate},
        ]
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0)

    @property
    def _gate(self) -> Tensor:
        """The second stage's gate, (layers, heads)."""
        return self.model.second_stage.get_parameter("gate").detach().cpu()

    def _schedule(self) -> float:
        """Return the share of the peak rate at this step: linear warm-up, then linear decay to zero."""
        config = self.config
        left = (config.steps - self.step) / max(1, config.steps - config.warmup)
        return min((self.step + 1) / config.warmup if config.warmup else 1.0, left)

    def dataset_embeddings(self) -> dict[str, NDArray[np.float32]]:
        """Return the first-stage vectors of each domain's drawn documents, from the output folder if they are there."""
        vectors = {}
        folder = self.output / "dataset_embeddings"
        folder.mkdir(parents=True, exist_ok=True)
        for domain, pairs in tqdm(self.domains.items(), desc="Embedding context documents", unit="domain"):
            file = folder / f"{hash_text(domain)[:16]}.npy"
            if not file.exists():
                documents = [pair.document for pair in pairs]
                embedded = self._embed_first_stage(documents)
                with open(file.with_suffix(".tmp"), "wb") as stream:
                    np.save(stream, embedded)
                file.with_suffix(".tmp").replace(file)
            vectors[domain] = np.load(file)
        return vectors

    def _embed_first_stage(self, documents: Sequence[str], chunk: int = 32) -> NDArray[np.float32]:
        rows = []
        with torch.inference_mode(), self._autocast():
            for start in range(0, len(documents), chunk):
                ids, mask = self._tokens(documents[start : start + chunk], "document")
                rows.append(self.model.first_stage(ids, mask).float().cpu().numpy())
        return np.concatenate(rows)

    def _tokens(self, texts: Sequence[str], role: str) -> tuple[Tensor, Tensor]:
        ids, mask = self.texts.pad(self.texts.tokenize(texts, role).ids)
        return ids.to(self.device), mask.to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def _draw_context(self, vectors: NDArray[np.float32], rng: random.Random) -> Tensor:
        """Return the rows of one context, (c, d); none of them for the null context."""
        least, most = self.config.context_sizes
        if rng.random() < self.config.null_rate:
            return torch.zeros(0, vectors.shape[1], device=self.device)
        size = min(rng.randint(least, most), len(vectors))
        return torch.from_numpy(vectors[rng.sample(range(len(vectors)), size)]).to(self.device)

    def _prepare(self, context: Tensor, rng: random.Random) -> object:
        """Prepare a context; documents that dropout hits are left out, the null vector standing for an empty rest."""
        kept = [i for i in range(len(context)) if rng.random() >= self.config.context_dropout]
        return self.model.second_stage.prepare(context[kept])

    def train_step(self, vectors: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
        """Draw a domain, a batch and a context, and take one step; everything drawn follows from (seed, step)."""
        config = self.config
        rng = random.Random(f"{config.seed}/{self.step}")
        domain = rng.choice(list(self.domains))
        batch = rng.sample(self.domains[domain], config.batch_size)
        queries, documents = [pair.query for pair in batch], [pair.document for pair in batch]
        context = self._draw_context(vectors[domain], rng)
        with self._autocast():
            state = self._prepare(context, rng)
            q = self.model.second_stage(*self._tokens(queries, "query"), state)
            d = self.model.second_stage(*self._tokens(documents, "document"), state)
        mask = duplicate_mask(queries, documents).to(self.device)
        scores = q.float() @ d.float().T
        loss = contrastive_loss(scores, mask, config.temperature)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._schedule()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        right = (scores.argmax(dim=1).cpu() == torch.arange(len(batch))).float().mean()
        return {
            "step": self.step,
            "domain": domain,
            "context": len(context),
            "loss": round(loss.item(), 4),
            "accuracy": round(right.item(), 4),
            "gradient_norm": round(norm.item(), 4),
            "gate": [round(x, 3) for x in self._gate.quantile(torch.tensor([0.0, 0.5, 1.0])).tolist()],
        }

    def run(self) -> Path:
        """Train to the last step, resuming if a state is there, and return the checkpoint's folder."""
        vectors = self.dataset_embeddings()
        self._resume()
        progress = tqdm(total=self.config.steps, initial=self.step, desc="Training", unit="step")
        while self.step < self.config.steps:
            record = self.train_step(vectors)
            progress.update()
            progress.set_postfix(loss=record["loss"], accuracy=record["accuracy"])
            with open(self.output / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self._save()
        self.interpolate()
        return self.encoder.save_pretrained(self.output / "checkpoint", dtype=torch.float16)

    def interpolate(self) -> None:
        """Move every weight of the model to its place between start and trained; the saved state keeps the latter."""
        start = self._start().model.state_dict()
        for name, weight in self.model.state_dict().items():
            weight.lerp_(start[name].to(weight), 1 - self.config.interpolation)

    def _save(self) -> None:
        temporary = self.output / "training.tmp"
        state = {
            "config": json.dumps(asdict(self.config)),
            "step": self.step,
            "model": self.model.stored_state(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, temporary)
        temporary.replace(self.output / STATE_NAME)

    def _resume(self) -> None:
        file = self.output / STATE_NAME
        if not file.exists():
            self.output.mkdir(parents=True, exist_ok=True)
            write_atomically(self.output / "config.json", json.dumps(asdict(self.config), indent=2).encode())
            return
        state = torch.load(file, map_location=self.device, weights_only=True)
        if state["config"] != json.dumps(asdict(self.config)):
            raise ValueError(f"{file} belongs to a run with other settings; choose another output, or delete it")
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one configuration."""
    parser = argparse.ArgumentParser(prog="python -m cde_train.training", description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file with the fields of TrainConfig")
    path = parser.parse_args(arguments).config
    settings = tomllib.loads(path.read_text())
    for name in ("leave_out", "context_sizes"):
        if name in settings:
            settings[name] = tuple(settings[name])
    print(Trainer(TrainConfig(**settings)).run())  # noqa: T201 - the command's result
    return 0


if __name__ == "__main__":
    sys.exit(main())
