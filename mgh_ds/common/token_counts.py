"""How token counts are said: a server may count the tokens of all its answers, of some, or of none."""


def in_words(tokens: int | None, counted: int, answers: int) -> str:
    """The tokens of `answers`, of which `counted` were counted. A sum over some of them is a bound."""
    if tokens is None or (answers and not counted):
        return "unknown"
    if counted < answers:
        return f"at least {tokens:,} ({counted:,} of {answers:,} answers counted)"
    return f"{tokens:,}"
