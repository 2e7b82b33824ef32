"""Export a student to ONNX, TFLite and C99, and prove each file against the student."""
