"""The web process and the vocabulary it shares with workers; never imports torch, onnx, numpy or workers."""
