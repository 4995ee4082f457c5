"""Messages between a worker and its engine's process: JSON objects behind their length, over a socket."""

import dataclasses
import json
import struct
from typing import Any

from mgh_ds.synthesis.engines.port import Request, Sampling

LENGTH = struct.Struct("<I")  # of the JSON, in bytes
Message = dict[str, Any]


def pack(message: Message) -> bytes:
    """A message as bytes. Lone surrogates pass too: the JSON is ASCII."""
    body = json.dumps(message, allow_nan=False).encode("ascii")
    return LENGTH.pack(len(body)) + body


class Inbox:
    """Puts messages together from bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, in order."""
        self._bytes += data
        messages = []
        start = 0
        while start + LENGTH.size <= len(self._bytes):
            (length,) = LENGTH.unpack_from(self._bytes, start)
            end = start + LENGTH.size + length
            if end > len(self._bytes):
                break
            messages.append(json.loads(self._bytes[start + LENGTH.size : end]))
            start = end
        del self._bytes[:start]
        return messages


def request_to_json(request: Request) -> Message:
    """The message that carries `request`."""
    return dataclasses.asdict(request) | {"sampling": request.sampling.model_dump()}


def request_from_json(message: Message) -> Request:
    """The request that `request_to_json` made `message` of."""
    return Request(**{**message, "sampling": Sampling(**message["sampling"])})
