"""The exceptions that are ours. Each message is one line that says what to do or what is wrong where."""

__all__ = ["InputError", "NothingToCompressError", "WorkerError"]


class InputError(ValueError):
    """An input that cannot be used: not an ONNX model, damaged, or asking for something that is refused.

    Examples:
        >>> import mcd_graph
        >>> try:
        ...     mcd_graph.compress_model("README.md", "out.onnx")
        ... except mcd_graph.InputError as error:
        ...     print(error)
        README.md is not an ONNX model
    """


class NothingToCompressError(InputError):
    """The model is fine, but holds no weight that could be made smaller.

    Examples:
        >>> import mcd_graph
        >>> report = mcd_graph.compress_model("model.onnx", "model.mcd.onnx")
        >>> try:
        ...     mcd_graph.compress_model("model.mcd.onnx", "again.onnx")
        ... except mcd_graph.NothingToCompressError as error:
        ...     print(error)
        model.mcd.onnx: nothing to compress: it is compressed already
    """


class WorkerError(RuntimeError):
    """The executor that was to compress a weight failed: a dead process, a lost connection, a missing package.

    Examples:
        >>> import concurrent.futures, mcd_graph
        >>> class Broken(concurrent.futures.Executor):
        ...     def submit(self, *args, **kwargs):
        ...         future = concurrent.futures.Future()
        ...         future.set_exception(ConnectionError("nobody answers"))
        ...         return future
        >>> try:
        ...     mcd_graph.compress_model("model.onnx", "out.onnx", executor=Broken())
        ... except mcd_graph.WorkerError as error:
        ...     print(error)
        weight w1 could not be compressed: nobody answers
    """
