"""Half of a character: what JSON lets through, and no file or tokenizer can take."""


def has_lone_surrogate(text: str) -> bool:
    """Whether the text holds a half of a surrogate pair, so that it is no Unicode text."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
