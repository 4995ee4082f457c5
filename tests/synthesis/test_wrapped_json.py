"""JSON behind a thought or in a fence."""

import pytest

from mgh_ds.synthesis.answers import Refused, read_tasks
from mgh_ds.synthesis.wrapped_json import unwrapped

JSON = '{"tasks": ["Given a ```quoted``` </think> text, retrieve another"]}'


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"\n {JSON}\n",
        f"\ufeff{JSON}",
        f"<think>\nIs {{}} it? ```json\n{{}}\n```\n</think>\n\n{JSON}",
        f"the template opened the thought</think>{JSON}",
        f"<thinking>hm</thinking>\n{JSON}",
        f"```json\n{JSON}\n```",
        f"```\r\n{JSON}\r\n```\n",
        f"Here it is:\n\n```JSON\n{JSON}\n```\nAnything else?",
        f"<think>hm</think>\n```json\n{JSON}\n```",
    ],
)
def test_the_json_is_found(text: str) -> None:
    assert unwrapped(text).strip() == JSON
    assert read_tasks(text, "stop") == ["Given a ```quoted``` </think> text, retrieve another"]


@pytest.mark.parametrize(
    "text", [f"Sure! {JSON}", f"<think>{JSON}", "<think>hm</think>", "```json\n```", "``````", ""]
)
def test_what_holds_none_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="not_json"):
        read_tasks(text, "stop")
