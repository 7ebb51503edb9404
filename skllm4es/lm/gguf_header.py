"""The header of a GGUF file, checked before any library trusts it.

Whoever wrote the file chose every count and length in it. Each is compared with the size of the file, or with what the
largest models have, before anything of its size is made.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

#: What no model comes near: tensors (DeepSeek V3 has 1,100), values in all arrays (Gemma's tokenizer has 1.3 million),
#: bytes of a string, and what is counted of a layer or of a model, such as layers, heads and experts.
_MOST_TENSORS, _MOST_VALUES, _MOST_BYTES, _MOST_PARTS = 2**14, 2**21, 2**24, 2**10
_MOST_DIMENSIONS = 4
_VERSIONS = (2, 3)

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is in the file: its type, number of values, and first and last byte."""

    type: int
    n_values: int
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    metadata : dict of str to object
        Numbers, booleans and strings; of an array its length.
    tensors : dict of str to Tensor
        The tensors by name.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        """The name of the model's architecture, which is also the prefix of its settings."""
        return str(self.metadata["general.architecture"])

    def setting(self, name: str) -> Any:
        """Return a setting of the architecture, or None."""
        return self.metadata.get(f"{self.architecture}.{name}")

    def read_floats(self, name: str) -> npt.NDArray[np.float32]:
        """Read a tensor of float32 values."""
        tensor = self.tensors[name]
        if tensor.type != 0:
            raise ValueError(f"the tensor {name} does not hold float32 values")
        return np.fromfile(self.path, dtype="<f4", count=tensor.n_values, offset=tensor.start)


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If it is no GGUF file, is cut off, or holds counts and lengths that no model has.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError("it is not a GGUF file: it does not begin with GGUF.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                metadata, tensors = _Reader(data).read()
            except struct.error as error:
                raise _cut_off() from error
    header = Header(path, metadata, tensors)
    _check(header)
    return header


class _Reader:
    """Reads from a file in memory, from one place to the next."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 4
        self.n_values = 0

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        version = self.number("<I")
        if version & 0xFFFF == 0:
            raise ValueError("it was written for big-endian machines: choose the file for little-endian ones.")
        if version not in _VERSIONS:
            raise ValueError(f"it has version {version} of GGUF, where 2 and 3 are read. Look for a newer file.")
        n_tensors = _at_most(self.number("<Q"), _MOST_TENSORS, "tensors")
        n_entries = _at_most(self.number("<Q"), _MOST_TENSORS, "entries of metadata")
        metadata = {self.string(): self.value(self.number("<I")) for _ in range(n_entries)}
        if len(metadata) < n_entries:
            raise ValueError("its metadata has two values for one key.")
        described = [(self.string(), *self.tensor()) for _ in range(n_tensors)]
        return metadata, self.place(described, metadata.get("general.alignment", 32))

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.position)
        self.position += struct.calcsize(form)
        return value

    def string(self) -> str:
        length = _at_most(self.number("<Q"), _MOST_BYTES, "bytes in a string")
        try:
            return self.skip(length).decode()
        except UnicodeDecodeError as error:
            raise ValueError("it is damaged: a text in its header is not UTF-8. Copy or download it again.") from error

    def skip(self, n_bytes: int) -> bytes:
        start, self.position = self.position, self.position + n_bytes
        if self.position > len(self.data):
            raise _cut_off()
        return self.data[start : self.position]

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError(f"its metadata has a value of the unknown type {kind}.")
        inner, length = self.number("<I"), self.number("<Q")
        self.n_values = _at_most(self.n_values + length, _MOST_VALUES, "values in arrays")
        if inner in _SCALARS:
            self.skip(length * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            for _ in range(length):
                self.skip(_at_most(self.number("<Q"), _MOST_BYTES, "bytes in a string"))
        else:
            raise ValueError(f"its metadata has an array of values of type {inner}.")
        return length

    def tensor(self) -> tuple[list[int], int, int]:
        """Read the lengths of a tensor, its type, and where it begins, counted from the end of the header."""
        n_dimensions = _at_most(self.number("<I"), _MOST_DIMENSIONS, "dimensions of a tensor")
        return [self.number("<Q") for _ in range(n_dimensions)], self.number("<I"), self.number("<Q")

    def place(self, described: list[tuple[str, list[int], int, int]], alignment: Any) -> dict[str, Tensor]:
        """Find where each tensor begins and ends; together they cannot be larger than the file."""
        from gguf import GGML_QUANT_SIZES  # An extra.

        if not isinstance(alignment, int) or alignment <= 0:
            raise ValueError(f"its alignment is {alignment!r}.")
        sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
        after = -self.position % alignment + self.position
        tensors = {}
        for name, lengths, kind, offset in described:
            if kind not in sizes:
                raise ValueError(f"the tensor {name} has the unknown type {kind}. A newer version of gguf may know it.")
            block, n_bytes = sizes[kind]
            n_values = math.prod(lengths)
            tensors[name] = Tensor(kind, n_values, after + offset, after + offset + n_values // block * n_bytes)
        last = max((tensor.end for tensor in tensors.values()), default=0)
        if last > len(self.data) or sum(tensor.end - tensor.start for tensor in tensors.values()) > len(self.data):
            raise _cut_off()
        return tensors


def _check(header: Header) -> None:
    """Reject what is no model, or has more parts than its file can hold."""
    metadata = header.metadata
    if not isinstance(metadata.get("general.architecture"), str):
        raise ValueError("it names no architecture (general.architecture).")
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise ValueError(f"it does not hold a language model, but what GGUF calls {kind!r}.")
    n_files = metadata.get("split.count", 0)
    if isinstance(n_files, int) and n_files > 1:
        raise ValueError(
            f"it is one of {n_files} files. Join them with llama.cpp: "
            f"`llama-gguf-split --merge {header.path.name} whole.gguf`, and pass whole.gguf."
        )
    if not header.tensors:
        raise ValueError("it holds no weights.")
    for key, value in metadata.items():
        if key.startswith(f"{header.architecture}.") and key.endswith("_count") and isinstance(value, int | float):
            _at_most(value, _MOST_PARTS, key)


def _at_most(value: Any, limit: int, what: str) -> Any:
    if value > limit:
        raise ValueError(f"it claims to have {value:,} {what}, more than any model ({limit:,}).")
    return value


def _cut_off() -> ValueError:
    return ValueError("it is cut off: it says that it holds more than there is. Copy or download it again.")
