"""The graph: operators, storage, the numpy reference, and its writers for TFLite and ONNX."""
