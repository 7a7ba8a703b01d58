"""What every ONNX operator does to channel labels."""
