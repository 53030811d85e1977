"""Run an export on ONNX Runtime: the fastest for queries, on a CPU or a CUDA device."""

from pathlib import Path

from cde_retriever.backends.exported import Arrays, ExportBackend, Graph, wanted_threads
from cde_retriever.errors import ConfigError

SMALL_BATCH = 2048
"""Most tokens of a batch, padding included, whose memory is kept for the next: queries cannot wait. That of larger ones
is given back, since ONNX Runtime would keep the most that batches of any shape ever took."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxBackend(ExportBackend):
    """Runs an export on ONNX Runtime.

    Args:
        folder: The export's folder.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; None takes CUDA where the installed ONNX Runtime has it.

    Raises:
        CheckpointError, ConfigError, ImportError: as `ExportBackend` says.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as missing:
            raise ImportError(
                f"backend 'onnx' needs ONNX Runtime ({missing}); install it with: pip install \"cde-retriever[onnx]\""
            ) from missing
        self._runtime = onnxruntime
        there = onnxruntime.get_available_providers()
        device = device or ("cuda" if PROVIDERS["cuda"] in there else "cpu")
        kind, _, number = device.partition(":")
        if PROVIDERS.get(kind) not in there:
            raise ConfigError(
                f"device is {device!r}, but the installed ONNX Runtime has {', '.join(there)}; use device='cpu', "
                "or install onnxruntime-gpu for 'cuda'"
            )
        self._provider = (PROVIDERS[kind], {"device_id": int(number)} if number else {})
        super().__init__(folder, device)

    def _open(self, file: Path) -> Graph:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = wanted_threads()
        options.log_severity_level = 3
        session = self._runtime.InferenceSession(str(file), options, providers=[self._provider])
        names = [output.name for output in session.get_outputs()]
        give_back = self._runtime.RunOptions()
        give_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

        def run(inputs: Arrays) -> Arrays:
            small = "input_ids" in inputs and inputs["input_ids"].size <= SMALL_BATCH
            return dict(zip(names, session.run(names, inputs, None if small else give_back), strict=True))

        return run
