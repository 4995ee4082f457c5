"""The JSON in what a model wrote: some think aloud before it, some put it in a Markdown fence."""

import re

THOUGHT_END = re.compile(r"</think(?:ing)?>")
FENCE = re.compile(r"```(?:json)?[ \t]*\r?\n(.*)```", re.DOTALL | re.IGNORECASE)
JSON_STARTS = ("{", "[")


def unwrapped(text: str) -> str:
    """What begins as JSON: the text itself, what follows a thought in it, or what stands in a fence. The text
    itself if nothing does."""
    text = text.strip().removeprefix("\ufeff")
    if text.startswith(JSON_STARTS):
        return text
    # The chat template may have opened the thought, so only its end is looked for.
    thought = THOUGHT_END.search(text)
    after = text[thought.end() :] if thought else text
    found = (inner.strip() for inner in (after, _fenced(after), _fenced(text)))
    return next((inner for inner in found if inner.startswith(JSON_STARTS)), text)


def _fenced(text: str) -> str:
    fence = FENCE.search(text)
    return fence[1] if fence else ""
