"""The container that an engine is stored in, inside a GraphDef's engine node.

Layout, all integers little-endian::

    8 bytes   magic b"TFOPTENG"
    u32       format version (1)
    u32       length of the header
    ...       header: a JSON object, UTF-8
    u64       length of the payload
    ...       payload: what the runtime reads, such as an ONNX model without weights
    u32       CRC-32 (zlib) of everything before

`tf_opt/ops/engine_blob.cc` reads the same layout.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tf_opt.errors import EngineBlobCorruptError, EngineBlobVersionError

MAGIC = b"TFOPTENG"
FORMAT_VERSION = 1
REQUIRED_HEADER_KEYS = ("runtime", "tf_opt_version", "library_version", "inputs", "outputs")

_PREFIX = struct.Struct("<8sII")
_PAYLOAD_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_REBUILD = "Build the engine again by optimizing the original model."


@dataclass(frozen=True, kw_only=True)
class EngineBlob:
    """An engine as it is stored.

    Attributes:
        header: A JSON object. `runtime` (name of the runtime that reads the payload), `tf_opt_version`,
            `library_version` (of the library the engine was built with), `inputs` and `outputs` must be there.
            The runtime "openvino" also reads `inference_precision`: "f32" (where it is absent), "bf16" or "f16".
        payload: The bytes the runtime reads.
    """

    header: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def pack(self) -> bytes:
        """Returns the stored form.

        Raises:
            ValueError: The header lacks a required key or is no JSON.
        """
        missing = [key for key in REQUIRED_HEADER_KEYS if key not in self.header]
        if missing:
            raise ValueError(f"The header of an engine lacks {', '.join(missing)}; give all of {REQUIRED_HEADER_KEYS}.")
        # Sorted, so that equal engines have equal bytes, which caches compare.
        header = json.dumps(dict(self.header), sort_keys=True).encode("utf-8")
        body = b"".join(
            (
                _PREFIX.pack(MAGIC, FORMAT_VERSION, len(header)),
                header,
                _PAYLOAD_LENGTH.pack(len(self.payload)),
                self.payload,
            )
        )
        return body + _CHECKSUM.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes) -> EngineBlob:
        """Reads the stored form.

        Raises:
            EngineBlobCorruptError: Wrong magic, length, checksum or header.
            EngineBlobVersionError: Written in another format version.
        """
        if len(data) < _PREFIX.size:
            raise EngineBlobCorruptError(
                f"A stored engine has at least {_PREFIX.size} bytes, this one has {len(data)}. {_REBUILD}"
            )
        magic, version, header_length = _PREFIX.unpack_from(data)
        if magic != MAGIC:
            raise EngineBlobCorruptError(f"A stored engine starts with {MAGIC!r}, this one with {magic!r}. {_REBUILD}")
        if version != FORMAT_VERSION:
            # Before the checksum: where it stands depends on the version.
            raise EngineBlobVersionError(
                f"The stored engine has format version {version}, this tf_opt reads version {FORMAT_VERSION}. Optimize "
                "the original model again with this tf_opt, or install the tf_opt that wrote the engine."
            )
        payload_start = _PREFIX.size + header_length + _PAYLOAD_LENGTH.size
        if payload_start + _CHECKSUM.size > len(data):
            raise EngineBlobCorruptError(
                f"The stored engine's header of {header_length} bytes does not fit into {len(data)} bytes. {_REBUILD}"
            )
        (payload_length,) = _PAYLOAD_LENGTH.unpack_from(data, payload_start - _PAYLOAD_LENGTH.size)
        present = len(data) - payload_start - _CHECKSUM.size
        if payload_length != present:
            raise EngineBlobCorruptError(
                f"The stored engine's payload should have {payload_length} bytes, {present} are there. {_REBUILD}"
            )
        (checksum,) = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)
        if zlib.crc32(memoryview(data)[: -_CHECKSUM.size]) != checksum:
            raise EngineBlobCorruptError(f"The stored engine's checksum does not match its bytes. {_REBUILD}")
        try:
            header = json.loads(data[_PREFIX.size : _PREFIX.size + header_length].decode("utf-8"))
        except ValueError as error:
            raise EngineBlobCorruptError(f"The stored engine's header is no JSON: {error}. {_REBUILD}") from error
        missing = REQUIRED_HEADER_KEYS if not isinstance(header, dict) else set(REQUIRED_HEADER_KEYS) - set(header)
        if missing:
            raise EngineBlobCorruptError(f"The stored engine's header lacks {', '.join(sorted(missing))}. {_REBUILD}")
        return cls(header=header, payload=bytes(data[payload_start : payload_start + payload_length]))
