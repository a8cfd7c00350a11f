"""Reading tensors from safetensors files into float32 arrays that the caller has allocated.

A file is eight bytes of header length, a JSON header (name, dtype, shape, byte range) and the data. NumPy has
no bfloat16, whose bits are the upper half of a float32, so they are shifted into place. One tensor at a time
is in memory besides its destination. Headers are checked against the file before anything is read; nothing is
unpickled.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perstep._files import read_given
from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError

STORED_AS: dict[str, np.dtype[np.generic]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: its file, dtype, shape and first byte."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read_into(self, out: NDArray[np.float32]) -> None:
        """Fill `out`, of this tensor's shape, with its values as float32."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                raw = np.fromfile(file, STORED_AS[self.dtype], math.prod(self.shape)).reshape(self.shape)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot read tensor {self.name}: {error}") from error
        if self.dtype == "BF16":
            np.left_shift(raw, 16, out=out.view(np.uint32), dtype=np.uint32)
        else:
            out[...] = raw


def read_json(path: Path) -> dict[str, Json]:
    """A JSON object from a file, or InputError with one line saying what is wrong with it."""
    try:
        parsed = json.loads(read_given(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(parsed).__name__}")
    return parsed


def find_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder's model.safetensors, or of the shards its index names.

    Raises:
        InputError: if there is neither, or a file is missing, truncated or inconsistent.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise InputError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise InputError(f"{index} must name files of its own folder, found {name!r}")
    shards = {name: read_header(folder / name) for name in sorted(set(weight_map.values()))}
    tensors = {}
    for tensor, shard in weight_map.items():
        if tensor not in shards[shard]:
            raise InputError(f"{folder / shard} lacks tensor {tensor}, which {index.name} places there")
        tensors[tensor] = shards[shard][tensor]
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, each checked to lie within it."""
    try:
        num_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else num_bytes
            if 8 + header_bytes > num_bytes:
                raise InputError(f"{path} is truncated: its header does not fit into {plural(num_bytes, 'byte')}")
            if header_bytes > MAX_HEADER_BYTES:
                raise InputError(f"{path} is not a safetensors file: a header of {plural(header_bytes, 'byte')}")
            header = json.loads(file.read(header_bytes))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise InputError(f"{path} is not a safetensors file: its header is not a JSON object")
    return {
        name: _entry(path, name, entry, 8 + header_bytes, num_bytes)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _entry(path: Path, name: str, entry: Json, data_start: int, num_bytes: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        well_formed = isinstance(dtype, str) and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        well_formed = False
    if not well_formed:
        raise InputError(f"{path}: the header entry of tensor {name} is malformed")
    if data_start + end > num_bytes:
        raise InputError(
            f"{path} is truncated: tensor {name} ends at byte {data_start + end}, the file has {num_bytes}"
        )
    if dtype in STORED_AS and end - begin != math.prod(shape) * STORED_AS[dtype].itemsize:
        raise InputError(f"{path}: tensor {name} of {dtype} {list(shape)} cannot take {plural(end - begin, 'byte')}")
    return StoredTensor(name, path, dtype, shape, data_start + begin)
