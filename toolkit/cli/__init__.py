"""The command line: one thin file a verb. Nothing here imports torch or onnx before a command needs it."""
