"""The exceptions that are ours. Each message is one line that says what to do or what is wrong where."""

__all__ = ["InputError", "NothingToCompressError", "WorkerError"]


class InputError(ValueError):
    """An input that cannot be used: not an ONNX model, damaged, or asking for something that is refused."""


class NothingToCompressError(InputError):
    """The model is fine, but holds no weight that could be made smaller."""


class WorkerError(RuntimeError):
    """The executor that was to compress a weight failed: a dead process, a lost connection, a missing package."""
