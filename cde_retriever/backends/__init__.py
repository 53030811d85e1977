"""Run a model on PyTorch, ONNX Runtime or OpenVINO: arrays in, arrays out."""
