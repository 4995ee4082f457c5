"""The plan: everything that decides what is asked of the model, frozen in a folder before the work begins.

DIR/
  plan.json      the plan's hash and what it is made of
  config.yaml    the configuration as resolved
  slots.yaml     the slot tables
  templates/     the prompts
  tasks.json     stage 1's result, once it is there
  work/          journals and parts, by stage and shard
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgh_ds import __version__
from mgh_ds.common import files
from mgh_ds.common.config import dump_config, load_config
from mgh_ds.common.differences import differences
from mgh_ds.common.errors import MghError
from mgh_ds.synthesis.config import SynthesisConfig
from mgh_ds.synthesis.engines.opening import check_engine
from mgh_ds.synthesis.prompts import Prompts
from mgh_ds.synthesis.schemas import sample_schema, task_schema
from mgh_ds.synthesis.slots import PACKAGED_SLOTS, SlotTable
from mgh_ds.synthesis.units import EARLIER_UNITS, STAGES, UNITS_VERSION, SynthesisStage

# What `run` may set anew: how an engine is driven does not change what it is asked.
ENGINE_IDENTITY = ("kind", "model", "revision", "chat_template_kwargs", "scripted")


@dataclass(frozen=True)
class SynthesisPlan:
    """A frozen plan, opened. `plan_hash` is 64 hexadecimal digits, `units_version` that of the code that made
    it."""

    folder: Path
    config: SynthesisConfig
    plan_hash: str
    prompts: Prompts
    slots: SlotTable
    units_version: int = UNITS_VERSION

    def shard_folder(self, stage: SynthesisStage, shard: int) -> Path:
        """Where the journals and parts of one stage of one shard are."""
        return self.folder / "work" / stage / f"shard-{shard:05d}"

    def check_shard(self, shard: int) -> None:
        """Raises MghError for a shard that the plan does not have."""
        if not 0 <= shard < self.config.shards:
            raise MghError(f"shard {shard}: {self.folder} has the shards 0 to {self.config.shards - 1}")

    def check_units(self) -> None:
        """Raises MghError for a plan whose units this version would draw otherwise."""
        if self.units_version != UNITS_VERSION:
            raise MghError(
                f"{self.folder} was planned by an earlier mgh-ds, which drew other units (version "
                f"{self.units_version}, here {UNITS_VERSION}): finish it with that one, or merge what there "
                "is with mgh-ds synth merge --partial, or plan anew with mgh-ds synth plan --config "
                f"{self.folder / 'config.yaml'} --output NEW"
            )


def freeze_plan(arguments: Sequence[str], output: Path) -> SynthesisPlan:
    """Checks a configuration (`--config FILE` and overrides) and freezes it in the new folder `output`.

    Raises MghError for a bad key, value, slot table or template, for a model folder without a chat template,
    and if `output` exists.
    """
    config = load_config(SynthesisConfig, arguments)
    check_engine(config.engine)
    slots_file = Path(config.prompts.slots) if config.prompts.slots else PACKAGED_SLOTS
    slots = SlotTable.load(slots_file)
    prompts = Prompts.load(Path(config.prompts.templates) if config.prompts.templates else None, slots)
    identity = _identity(config, prompts, slots_file)
    with files.new_folder(output) as folder:
        (folder / "templates").mkdir()
        for name, text in prompts.files().items():
            (folder / "templates" / name).write_text(text, encoding="utf-8")
        (folder / "slots.yaml").write_bytes(slots_file.read_bytes())
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        content = {"plan_hash": _hash(identity), "mgh_ds": __version__, "identity": identity}
        files.write_json(folder / "plan.json", content)
    return open_plan(output)


def open_plan(folder: Path, overrides: Sequence[str] = (), *, new_filters: bool = False) -> SynthesisPlan:
    """Opens a frozen plan. `overrides` such as `--engine.max_in_flight 64` may change how the engine is
    driven, and with `new_filters` which answers are accepted (`--filters.short_chars '[4, 900]'`).

    Raises MghError if the folder holds no plan, if anything in it was changed since it was frozen, or if an
    override would change what is asked of the model.
    """
    frozen = files.read_json(folder / "plan.json") if (folder / "plan.json").exists() else None
    if frozen is None:
        raise MghError(f"{folder} holds no plan.json: make a plan with mgh-ds synth plan")
    if (
        not isinstance(frozen, dict)
        or "plan_hash" not in frozen
        or not isinstance(frozen.get("identity"), dict)
    ):
        raise MghError(f"{folder / 'plan.json'} is damaged: make the plan again in another folder")
    recipe = ["--config", str(folder / "config.yaml")]
    slots = SlotTable.load(folder / "slots.yaml")
    prompts = Prompts.load(folder / "templates", slots)
    config = load_config(SynthesisConfig, recipe)
    identity = _identity(config, prompts, folder / "slots.yaml")
    units_version = frozen["identity"].get("units_version")
    if units_version in EARLIER_UNITS:
        identity["units_version"] = units_version
    if found := differences(frozen["identity"], identity):
        raise _changed(folder, *found[0])
    if frozen["plan_hash"] != _hash(identity):
        raise MghError(
            f"{folder / 'plan.json'} was changed after it was frozen: its hash is not its content's"
        )
    if overrides:
        config = load_config(SynthesisConfig, [*recipe, *overrides])
        wanted = _identity(config, prompts, folder / "slots.yaml")
        wanted["units_version"] = identity["units_version"]
        if new_filters:
            wanted["config"]["filters"] = identity["config"]["filters"]
        if found := differences(identity, wanted):
            raise _frozen(folder, *found[0], free="filters" if new_filters else "engine")
    return SynthesisPlan(folder, config, frozen["plan_hash"], prompts, slots, identity["units_version"])


def stage_schema(config: SynthesisConfig, stage: SynthesisStage) -> dict[str, Any]:
    """The JSON schema of a stage's answers."""
    return task_schema(config.tasks.per_call) if stage == "tasks" else sample_schema()


def _identity(config: SynthesisConfig, prompts: Prompts, slots_file: Path) -> dict[str, Any]:
    """Everything that decides what is asked and what is kept, as plain JSON values."""
    values = config.model_dump()
    del values["prompts"]  # their content counts, not where it lay
    values["engine"] = {name: values["engine"][name] for name in ENGINE_IDENTITY}
    texts = {f"templates/{name}": _sha256(text.encode()) for name, text in sorted(prompts.files().items())}
    return {
        "units_version": UNITS_VERSION,
        "config": values,
        "files": {**texts, "slots.yaml": _sha256(slots_file.read_bytes())},
        "schemas": {stage: _hash(stage_schema(config, stage)) for stage in STAGES},
    }


def _changed(folder: Path, key: str, before: Any, after: Any) -> MghError:
    if key == "units_version":
        return MghError(f"{folder} was planned by another version of mgh-ds (units {before}, here {after})")
    return MghError(
        f"{folder} was changed after it was frozen: `{key.removeprefix('config.')}` (frozen as {before!r}, "
        f"now {after!r}). Put it back, or make a new plan."
    )


def _frozen(folder: Path, key: str, before: Any, after: Any, *, free: str) -> MghError:
    free = free if free == "filters" else f"engine other than {', '.join(ENGINE_IDENTITY)}"
    return MghError(
        f"`{key.removeprefix('config.')}` (frozen as {before!r}, now {after!r}) is part of the frozen plan "
        f"{folder}: make a new plan to change it. What may be set here are the keys of {free}"
    )


def _hash(value: Any) -> str:
    return _sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
