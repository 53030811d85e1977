"""Show the progress of a run on the Hugging Face `Trainer`, and find its best state again."""

from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback

from cde_retriever.progress import counter

METRIC = "ndcg@10"
"""What the best state is best in."""


class BestState(TrainerCallback):
    """Find the best state of a resumed run beside the others; the `Trainer` has stored a path, and runs are moved."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Name it by its step."""
        if state.best_global_step:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")


class TrainingProgress(ProgressCallback):
    """Show steps and last figures as every long task here does; the bar of the `Trainer` would fill a log file."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Begin where a resumed run begins."""
        self.current_step = state.global_step
        if state.is_world_process_zero:
            self.training_bar: Any = counter(
                total=state.max_steps, initial=state.global_step, label="Training", unit="step"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Show loss, accuracy and measurements."""
        figures = {k: v for k, v in (logs or {}).items() if k in ("loss", "accuracy", f"eval_{METRIC}")}
        if figures and self.training_bar is not None:
            shown = ", ".join(f"{name}={value:.4g}" for name, value in figures.items())
            self.training_bar.set_postfix_str(shown, refresh=False)
