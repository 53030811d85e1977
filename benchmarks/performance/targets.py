"""The rows of the table: what is measured, against what, and what it should be."""

from dataclasses import dataclass
from typing import Any

from benchmarks.performance.sections import Section

PLAIN = "sentence-transformers, same backbone, no context"
FAST = "fastembed (ONNX Runtime), same backbone and precision, no context"
FIT = "fit and set a context"
START = "start-up: import, load, open a saved context, first query"
ALONE = "the same queries, sequential"
LOADING = "sentence-transformers load and first query"


@dataclass(frozen=True)
class Target:
    """What a ratio should be; `unit` says what it is of."""

    limit: float
    at_most: bool
    unit: str

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g} × {self.unit}".rstrip()  # noqa: RUF001

    def met_by(self, value: float) -> bool:
        """Tell whether a ratio is as it should be."""
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True)
class Row:
    """One row: a ratio of a section, in words, and its target, if it has one."""

    section: str
    key: str
    work: str
    against: str
    target: Target | None = None


TIME, RATE = Target(1.1, True, "its time"), Target(1.0, False, "its throughput")
JOINT, CONTEXT = Target(12, False, "our time"), Target(1.2, True, "its time")
CALLERS, STEP = Target(2, False, "queries a second"), Target(1.3, True, "its time")
PEAK, STARTUP = Target(1.1, True, "its peak"), Target(1.0, True, "its time")

ROWS = (
    Row("queries", "torch", "one query, 16 tokens, PyTorch", PLAIN, TIME),
    Row("queries", "torch_bf16", "one query, PyTorch bf16", f"{PLAIN} (bf16)", TIME),
    Row("queries", "onnx", "one query, ONNX fp32", PLAIN, TIME),
    Row("queries", "onnx_int8", "one query, ONNX int8", f"{PLAIN} (fp32)", TIME),
    Row("queries", "openvino_int8", "one query, OpenVINO int8", f"{PLAIN} (fp32)", TIME),
    Row("queries", "cached", "one query, PyTorch, `cached` layout, untrained", PLAIN, TIME),
    Row("queries", "joint", "one query, PyTorch", "`joint` layout, same backbone, PyTorch", JOINT),
    Row("queries", "joint_onnx", "one query, ONNX fp32", "`joint` layout, same backbone, ONNX fp32", JOINT),
    Row("documents", "torch", "documents, real lengths, PyTorch", PLAIN, RATE),
    Row("documents", "torch_bf16", "documents, real lengths, PyTorch bf16", f"{PLAIN} (bf16)", RATE),
    Row("documents", "onnx", "documents, ONNX fp32", PLAIN, RATE),
    Row("documents", "onnx_int8", "documents, ONNX int8", f"{PLAIN} (fp32)", RATE),
    Row("documents", "openvino_int8", "documents, OpenVINO int8", f"{PLAIN} (fp32)", RATE),
    Row("documents", "onnx_to_fastembed", "documents, ONNX fp32", f"{FAST}, our batch size", RATE),
    Row("documents", "onnx_to_fastembed_default", "documents, ONNX fp32", f"{FAST}, its batch size", RATE),
    Row("hybrid", "documents", "documents in both parts, PyTorch", "the same in one vector"),
    Row("hybrid", "hybrid", "one hybrid query, embedded and searched", "one vector, embedded and searched exactly"),
    Row("hybrid", "sparse", "one query by exact words alone", "the same"),
    Row("context", "fit_torch", f"{FIT}, PyTorch", "embedding as many documents plainly", CONTEXT),
    Row("context", "fit_onnx", f"{FIT}, ONNX fp32", "the same", CONTEXT),
    Row("context", "fit_onnx_int8", f"{FIT}, ONNX int8", "the same", CONTEXT),
    Row("context", "fit_cached", f"{FIT}, PyTorch, `cached` layout, untrained", "the same", CONTEXT),
    Row("context", "set_torch", "set a fitted context, PyTorch", "the same"),
    Row("context", "set_onnx", "set a fitted context, ONNX fp32", "the same"),
    Row("context", "set_onnx_int8", "set a fitted context, ONNX int8", "the same"),
    Row("context", "set_cached", "set a fitted context, PyTorch, `cached` layout, untrained", "the same"),
    Row("concurrent", "torch", "concurrent callers, PyTorch", ALONE, CALLERS),
    Row("concurrent", "onnx", "concurrent callers, ONNX fp32", ALONE, CALLERS),
    Row("concurrent", "onnx_int8", "concurrent callers, ONNX int8", ALONE, CALLERS),
    Row("concurrent", "torch_mixed", "concurrent callers, PyTorch, 8 to 24 tokens", ALONE, CALLERS),
    Row("concurrent", "onnx_mixed", "concurrent callers, ONNX fp32, 8 to 24 tokens", ALONE, CALLERS),
    Row("concurrent", "onnx_int8_mixed", "concurrent callers, ONNX int8, 8 to 24 tokens", ALONE, CALLERS),
    Row("training", "frozen", "training step, `cached`", "plain bi-encoder step, gradient caching", STEP),
    Row("training", "trained", "training step, `cached`, first stage trained too", "the same"),
    Row("training", "frozen_bf16", "training step, `cached`, bf16", "plain bi-encoder step, bf16", STEP),
    Row("training", "trained_bf16", "training step, `cached`, bf16, first stage trained too", "the same"),
    Row("memory", "stream", "peak memory, many short documents as a stream", "few documents", PEAK),
    Row("startup", "torch", f"{START}, PyTorch", LOADING, STARTUP),
    Row("startup", "onnx", f"{START}, ONNX fp32", LOADING, STARTUP),
    Row("startup", "onnx_int8", f"{START}, ONNX int8", LOADING, STARTUP),
    Row("startup", "serving", f"{START}, ONNX int8, without PyTorch installed", LOADING, STARTUP),
)


def judge(row: Row, found: dict[str, Any] | None) -> str:
    """Say whether a ratio meets its target, by its median; one with a fault does not, whatever it is."""
    if found is None:
        return "not measured"
    if "fault" in found:
        return f"not met: {found['fault']}"
    if row.target is None:
        return ""
    return "met" if row.target.met_by(found["median"]) else "not met"


def target_table(sections: dict[str, Section]) -> list[str]:
    """Return the table of all ratios."""
    lines = ["| Work | Against | Measured ratio (least to largest) | Target | Met |", "|---|---|---|---|---|"]
    for row in ROWS:
        found = sections.get(row.section, {}).get("result", {}).get("ratios", {}).get(row.key)
        measured = "" if found is None else _ratio(found)
        lines.append(f"| {row.work} | {row.against} | {measured} | {row.target or ''} | {judge(row, found)} |")
    return lines


def _ratio(found: dict[str, Any]) -> str:
    if found["repetitions"] == 1:
        return f"{figure(found['median'])} (one run)"
    return f"{figure(found['median'])} ({figure(found['least'])} to {figure(found['largest'])})"


def figure(value: float) -> str:
    """Return a number as people read it: three decimals, or two digits of a small one."""
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"
