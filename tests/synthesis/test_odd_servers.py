"""Whole runs against servers that speak oddly: what is accepted is what a well-behaved one has accepted, but
for the units at fault, and those say why."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis import commands
from mgh_ds.synthesis.engines import endpoint, pace
from mgh_ds.synthesis.merge import merge
from mgh_ds.synthesis.plan import SynthesisPlan, open_plan
from mgh_ds.synthesis.prepare import PROBES
from mgh_ds.synthesis.units import seed_of
from mgh_ds.synthesis.worker import run
from tests.synthesis.kill_worker import Silent
from tests.synthesis.recipes import small_plan
from tests.synthesis.servers import (
    DIALECTS,
    FAULTS,
    Answer,
    Body,
    Limited,
    Server,
    completion,
    serving,
    well_behaved,
    write,
)

ALL = [0, 1]
WITHOUT_SCHEMAS = {"json_object": "json_object", "prompt": None}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Tries follow each other at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "FIRST_WAIT_S", 0.002)
        patch.setattr(pace, "FIRST_PAUSE_S", 0.005)
        yield


def endpoint_plan(folder: Path, samples: int, *overrides: str) -> SynthesisPlan:
    return small_plan(
        folder,
        *("--engine.kind", "endpoint", "--shards", "2", "--samples.budget.samples", str(samples)),
        *("--samples.max_rounds", "1", *overrides),
    )


def work_with(server: Server, folder: Path, *overrides: str, shards: list[int] = ALL) -> SynthesisPlan:
    settings = ["--engine.endpoint.base_url", server.url, "--engine.endpoint.max_retries", "2", *overrides]
    plan = open_plan(folder, settings)
    run(plan, shards, Silent(plan))
    return plan


def units(plan: SynthesisPlan) -> dict[str, dict[str, Any]]:
    """The merged units by id."""
    merge(plan)
    rows = pq.read_table(plan.folder / "merged" / "units.parquet").to_pylist()
    return {row["unit_id"]: row for row in rows}


@dataclass
class Frozen:
    """A plan whose tasks are frozen, and what a well-behaved server makes of stage 2."""

    folder: Path
    accepted: set[str]

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.folder, folder))


def freeze(folder: Path, samples: int) -> Frozen:
    plan = endpoint_plan(folder / "frozen", samples)
    with serving(well_behaved) as server:
        work_with(server, plan.folder, shards=[])
        done = work_with(server, Path(shutil.copytree(plan.folder, folder / "well-behaved")))
    found = units(done)
    assert not any(row["reason"] for row in found.values())
    assert len(found) == samples
    return Frozen(plan.folder, set(found))


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    return freeze(tmp_path_factory.mktemp("frozen"), 64)


def at_fault(frozen: Frozen, faults: Sequence[str]) -> dict[int, str]:
    """One in four units by their seeds, and their faults."""
    guilty = sorted(frozen.accepted)[::4]
    return {seed_of(unit_id): faults[number % len(faults)] for number, unit_id in enumerate(guilty)}


def check_faults(frozen: Frozen, folder: Path, faults: Sequence[str]) -> None:
    """A server that always fails some calls costs these and no other."""
    fault_of = at_fault(frozen, faults)

    def answer(_: int, body: Body) -> Answer:
        fault = fault_of.get(body["seed"])
        return FAULTS[fault][0](body) if fault else completion(write(body))

    with serving(answer) as server:
        found = units(work_with(server, frozen.copy(folder)))
    assert found.keys() == frozen.accepted
    for row in found.values():
        fault = fault_of.get(row["seed"])
        if fault is None:
            assert row["reason"] == "", row["error"]
        else:
            assert FAULTS[fault][1] in row["error"]
            assert row["reason"] == f"finish:{row['finish_reason']}"
            assert row["attempts"] == (2 if row["finish_reason"] == "refused" else 3)


def check_passing_faults(frozen: Frozen, folder: Path, faults: Sequence[str]) -> None:
    """A server that fails some calls the first time costs nothing."""
    fault_of = at_fault(frozen, faults)
    to_come = dict(fault_of)

    def answer(_: int, body: Body) -> Answer:
        fault = to_come.pop(body["seed"], None)
        return FAULTS[fault][0](body) if fault else completion(write(body))

    with serving(answer) as server:
        found = units(work_with(server, frozen.copy(folder)))
    assert {unit_id for unit_id, row in found.items() if not row["reason"]} == frozen.accepted
    assert all(row["attempts"] == 1 + (row["seed"] in fault_of) for row in found.values())


def check_dialects(frozen: Frozen, folder: Path, dialects: Sequence[str]) -> None:
    """A server that answers in its own way costs nothing."""
    with serving(lambda _, body: DIALECTS[dialects[body["seed"] % len(dialects)]](body)) as server:
        found = units(work_with(server, frozen.copy(folder)))
    assert {unit_id for unit_id, row in found.items() if not row["reason"]} == frozen.accepted
    assert len(server.bodies) == len(frozen.accepted) + PROBES


def check_limited(frozen: Frozen, folder: Path, every_s: float, headers: dict[str, str]) -> None:
    """A server that answers a few calls a second costs time."""
    limited = Limited(every_s, headers)
    with serving(limited) as server:
        found = units(work_with(server, frozen.copy(folder)))
    assert limited.refused
    assert {unit_id for unit_id, row in found.items() if not row["reason"]} == frozen.accepted


def test_units_at_fault_cost_themselves_alone(frozen: Frozen, tmp_path: Path) -> None:
    check_faults(frozen, tmp_path / "plan", list(FAULTS))


def test_faults_that_pass_cost_nothing(frozen: Frozen, tmp_path: Path) -> None:
    check_passing_faults(frozen, tmp_path / "plan", list(FAULTS))


def test_dialects_cost_nothing(frozen: Frozen, tmp_path: Path) -> None:
    check_dialects(frozen, tmp_path / "plan", list(DIALECTS))


def test_a_limited_server_costs_no_unit(frozen: Frozen, tmp_path: Path) -> None:
    check_limited(frozen, tmp_path / "plan", 0.002, {})


@pytest.fixture(scope="module")
def two_thousand(tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    return freeze(tmp_path_factory.mktemp("two-thousand"), 2_000)


@pytest.mark.system
@pytest.mark.xdist_group("two thousand units")
@pytest.mark.parametrize("fault", FAULTS)
def test_two_thousand_units_of_which_some_fail(fault: str, two_thousand: Frozen, tmp_path: Path) -> None:
    check_faults(two_thousand, tmp_path / "plan", [fault])


@pytest.mark.system
@pytest.mark.xdist_group("two thousand units")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_thousand_units_in_a_dialect(dialect: str, two_thousand: Frozen, tmp_path: Path) -> None:
    check_dialects(two_thousand, tmp_path / "plan", [dialect])


@pytest.mark.system
@pytest.mark.xdist_group("two thousand units")
@pytest.mark.parametrize("headers", [{}, {"retry-after": "0.01"}, {"retry-after-ms": "3"}])
def test_two_thousand_units_a_few_at_a_time(
    headers: dict[str, str], two_thousand: Frozen, tmp_path: Path
) -> None:
    check_limited(two_thousand, tmp_path / "plan", 0.002, headers)


@pytest.mark.system
@pytest.mark.xdist_group("two thousand units")
def test_two_thousand_units_of_which_some_fail_once(two_thousand: Frozen, tmp_path: Path) -> None:
    check_passing_faults(two_thousand, tmp_path / "plan", list(FAULTS))


def no_system_role(_: int, body: Body) -> Answer:
    """A chat template that knows no system message."""
    if body["messages"][0]["role"] == "system":
        return 400, '{"error": "System role not supported"}', {}
    return completion(write(body))


def test_a_server_that_refuses_all_real_prompts_is_found_out_before_any_work(
    tmp_path: Path, frozen: Frozen
) -> None:
    for folder in (endpoint_plan(tmp_path / "new", 64).folder, frozen.copy(tmp_path / "stage 2")):
        with serving(no_system_role) as server:
            with pytest.raises(MghError, match="System role not supported"):
                work_with(server, folder)
            assert len(server.bodies) == PROBES
        with serving(well_behaved) as server:
            found = units(work_with(server, folder))
        assert sum(not row["reason"] for row in found.values()) == 64


def test_a_stage_that_alone_is_refused_ends_the_run_with_the_servers_words(tmp_path: Path) -> None:
    def tasks_only(_: int, body: Body) -> Answer:
        said = write(body)
        return completion(said) if "tasks" in said[:9] else (400, '{"error": "schema too deep"}', {})

    folder = endpoint_plan(tmp_path / "plan", 48).folder
    with serving(tasks_only) as server, pytest.raises(MghError, match=r"first 3 prompts.*schema too deep"):
        work_with(server, folder)
    with serving(well_behaved) as server:
        assert len(units(work_with(server, folder))) == 48


@pytest.mark.parametrize("samples", [4, 48])
def test_a_model_that_talks_nonsense_ends_a_small_plan_and_the_next_run_goes_on(
    samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = endpoint_plan(tmp_path / "plan", samples, "--samples.max_rounds", "2").folder
    with serving(well_behaved) as server:
        work_with(server, folder, shards=[])
    with serving(lambda *_: completion("Hello! How can I help?")) as server:
        for _ in range(2):
            before = len(server.bodies)
            with pytest.raises(MghError, match=r"none of the first \d+ answers.*not_json.*run again"):
                work_with(server, folder, "--engine.max_in_flight", "4")
            assert 16 <= len(server.bodies) - before < 80
    assert not list(folder.glob("work/samples/*/done.json"))
    with serving(well_behaved) as server:
        mended = open_plan(folder, ["--engine.endpoint.base_url", server.url])
        monkeypatch.setattr(commands, "open_plan", lambda *_: mended)
        commands.run_command(folder, None)
    found = units(mended)
    assert {row["reason"] for row in found.values()} == {"", "not_json"}
    accepted = sum(not row["reason"] for row in found.values())
    assert accepted >= samples
    assert samples == 48 or accepted <= 8, (
        "rounds of nonsense are no measure of what the mended server yields"
    )


def test_a_plan_that_was_used_up_for_nothing_is_taken_up_again(tmp_path: Path, frozen: Frozen) -> None:
    folder = frozen.copy(tmp_path / "plan")
    with serving(lambda *_: completion("Hello!")) as server, pytest.raises(MghError, match="not_json"):
        work_with(server, folder)
    for shard in ALL:  # as it was left when such a shard was said to be done
        files.write_json(folder / f"work/samples/shard-{shard:05d}/done.json", {"short": True})
    with serving(well_behaved) as server:
        found = units(work_with(server, folder))
    assert sum(not row["reason"] for row in found.values()) > 0
    assert len(server.bodies) > PROBES


@pytest.mark.parametrize("how", WITHOUT_SCHEMAS)
def test_a_server_without_schemas_is_asked_in_the_prompt(how: str, tmp_path: Path, frozen: Frozen) -> None:
    def without_schemas(_: int, body: Body) -> Answer:
        wanted = body.get("response_format", {}).get("type")
        if wanted != WITHOUT_SCHEMAS[how]:
            return 400, f'{{"error": "response_format {wanted} is not supported"}}', {}
        return completion(f"```json\n{write(body)}\n```")

    with serving(without_schemas) as server:
        folder = frozen.copy(tmp_path / "plan")
        with pytest.raises(MghError, match=r"(?s)json_schema is not supported.*response_format"):
            work_with(server, folder)
        found = units(work_with(server, folder, "--engine.endpoint.response_format", how))
    assert {unit_id for unit_id, row in found.items() if not row["reason"]} == frozen.accepted


def test_a_budget_in_tokens_needs_a_server_that_counts(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    plan = endpoint_plan(
        tmp_path / "plan", 48, "--samples.budget.samples", "null", "--samples.budget.tokens", "200",
        "--samples.max_rounds", "3",
    )  # fmt: skip
    with (
        serving(lambda _, body: completion(write(body), usage=usage)) as server,
        pytest.raises(MghError, match=r"how many tokens.*samples\.budget\.samples"),
    ):
        work_with(server, plan.folder)
    with serving(well_behaved) as server:
        rows = units(work_with(server, plan.folder)).values()
    assert sum(row["tokens_out"] for row in rows) >= 200


@pytest.mark.parametrize("count_prompt", ["false", "true"])
def test_a_budget_in_tokens_needs_a_server_that_counts_nearly_all(count_prompt: str, tmp_path: Path) -> None:
    """Else it is overshot in silence: twice, if every other answer has no count; by all that is written, if
    prompts alone have one."""
    plan = endpoint_plan(
        tmp_path / "plan", 48, "--samples.budget.samples", "null", "--samples.budget.tokens", "2000",
        "--samples.budget.count_prompt", count_prompt,
    )  # fmt: skip

    def answer(number: int, body: Body) -> Answer:
        every_other = None if number % 2 else {"prompt_tokens": 7, "completion_tokens": 5}
        return completion(write(body), usage={"prompt_tokens": 7} if count_prompt == "true" else every_other)

    with (
        serving(answer) as server,
        pytest.raises(MghError, match=r"does not say of \d+ of \d+ .*samples\.budget\.samples"),
    ):
        work_with(server, plan.folder)


def test_tokens_that_nobody_counted_are_shown_as_unknown(
    tmp_path: Path, frozen: Frozen, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda _, body: completion(write(body), usage={"prompt_tokens": 3})) as server:
        plan = work_with(server, frozen.copy(tmp_path / "plan"))
    merge(plan)
    assert "| tokens | unknown" in (plan.folder / "merged" / "README.md").read_text()
    commands.status_command(plan.folder)
    shown = capsys.readouterr().out
    assert re.search(r"tokens out .* unknown", shown)
