"""An export on ONNX Runtime: the fastest for queries, on a CPU or a CUDA device."""

from pathlib import Path

from cde_retriever.backends.exported import Arrays, ExportBackend, Graph, wanted_threads
from cde_retriever.errors import ConfigError

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

        def run(inputs: Arrays) -> Arrays:
            return dict(zip(names, session.run(names, inputs), strict=True))

        return run
