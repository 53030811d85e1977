"""Run an export on OpenVINO: with 8-bit weights the fastest for documents on a CPU (docs/figures/performance.md)."""

from pathlib import Path

from cde_retriever.backends.exported import Arrays, ExportBackend, Graph, wanted_threads
from cde_retriever.errors import ConfigError


class OpenVinoBackend(ExportBackend):
    """Runs an export on OpenVINO.

    Args:
        folder: The export's folder.
        device: ``"cpu"``, the default, or another of OpenVINO's names, such as ``"gpu"``.

    Raises:
        CheckpointError, ConfigError, ImportError: as `ExportBackend` says.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        try:
            import openvino
        except ModuleNotFoundError as missing:
            raise ImportError(
                f"backend 'openvino' needs OpenVINO ({missing}); install it with: "
                'pip install "cde-retriever[openvino]"'
            ) from missing
        self._core = openvino.Core()
        device = device or "cpu"
        there = [name.lower() for name in self._core.available_devices]
        if device not in there:
            raise ConfigError(f"device is {device!r}, but the installed OpenVINO has {', '.join(there)}; use 'cpu'")
        super().__init__(folder, device)

    def _open(self, file: Path) -> Graph:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # or it takes bfloat16 wherever a CPU has it
        }
        if threads := wanted_threads():
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        compiled = self._core.compile_model(file, self.device.upper(), settings)
        names = [output.any_name for output in compiled.outputs]

        def run(inputs: Arrays) -> Arrays:
            outputs = compiled(inputs, share_inputs=True)
            return {name: outputs[name] for name in names}

        return run
