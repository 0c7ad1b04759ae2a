"""Types of elements: NumPy's names of them, and the safetensors format's."""

__all__ = ["NUMPY_NAMES", "TYPES"]

TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
"""The format's names by NumPy's."""

NUMPY_NAMES = {theirs: ours for ours, theirs in TYPES.items()}
"""NumPy's names by the format's."""
