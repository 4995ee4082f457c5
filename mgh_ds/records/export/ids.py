"""Ids for what has none in a record: made of the content, so that the same text has the same one
everywhere."""

import hashlib


def text_id(*texts: str) -> str:
    """24 hexadecimal digits: the 12-byte blake2b digest of the texts' UTF-8, joined by NUL."""
    return hashlib.blake2b("\0".join(texts).encode("utf-8"), digest_size=12).hexdigest()
