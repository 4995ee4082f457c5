"""Recipes: every file in configs/ parses, every key is commented, and a wrong key is refused with the nearest
name."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from mgh_ds.common.config import dump_config, load_config, read_recipe
from mgh_ds.common.errors import MghError
from mgh_ds.curriculum.config import Order
from mgh_ds.model.config import LoraConfig
from mgh_ds.synthesis import plan
from mgh_ds.synthesis.config import SynthesisConfig
from mgh_ds.training.config import RunConfig
from mgh_ds.training.engine import engine_settings

RECIPES = sorted(Path("configs").glob("*.yaml"))
SYNTHESES = [path for path in RECIPES if path.stem.startswith("synth-")]
# Dry runs: they leave out what they do not use, the sections of other engines first of all.
SHORT = ("synth-demo", "synth-scripted")
DEMO = ["--config", "configs/demo.yaml"]


def load(path: Path) -> Any:
    """A recipe as what it is."""
    return load_config(SynthesisConfig if path in SYNTHESES else RunConfig, ["--config", str(path)])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read_and_written_back_unchanged(path: Path, tmp_path: Path) -> None:
    config = load(path)
    assert config.name == path.stem
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert load_config(type(config), ["--config", str(copy)]) == config
    if isinstance(config, RunConfig):
        engine_settings(config.model, config.training)


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem not in SHORT], ids=lambda path: path.stem
)
def test_every_recipe_writes_out_every_key(path: Path) -> None:
    """A recipe hides no default: what a reader sees is what runs."""
    assert read_recipe(path) == yaml.safe_load(dump_config(load(path)))


@pytest.mark.parametrize(
    "name",
    ["mistral-7b-full", "mistral-7b-retrieval", "synth-endpoint", "synth-qwen3-8b", "synth-scripted"],
)
def test_every_key_is_commented(name: str) -> None:
    lines = Path(f"configs/{name}.yaml").read_text().splitlines()
    bare = [
        line
        for number, line in enumerate(lines)
        if re.match(r"\s*[\w-]+: *\S", line)
        and "#" not in line
        and not lines[number - 1].lstrip().startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize("path", SYNTHESES, ids=lambda path: path.stem)
def test_every_synthesis_can_be_planned_where_its_model_exists(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "check_engine", lambda _config: None)
    frozen = plan.freeze_plan(["--config", str(path)], tmp_path / "plan")
    assert plan.open_plan(tmp_path / "plan").plan_hash == frozen.plan_hash
    assert frozen.config == load(path)


def test_the_synthesis_for_the_paper_holds_its_figures() -> None:
    config = load(Path("configs/synth-qwen3-8b.yaml"))
    assert (config.samples.budget.tokens, config.samples.budget.count_prompt) == (180_000_000, False)
    longest = max(config.tasks.sampling.max_tokens, config.samples.sampling.max_tokens)
    assert longest + 1500 <= config.engine.vllm.max_model_len, "no room for the prompt"
    assert config.engine.max_in_flight >= config.engine.vllm.max_num_seqs, "batches would not be full"


def test_the_paper_recipes_hold_the_paper_figures() -> None:
    full = load_config(RunConfig, ["--config", "configs/mistral-7b-full.yaml"])
    retrieval = load_config(RunConfig, ["--config", "configs/mistral-7b-retrieval.yaml"])
    assert (full.training.steps, retrieval.training.steps) == (1600, 1000)
    for config in (full, retrieval):
        assert config.training.global_batch == 512
        assert config.training.loss.temperature == 0.02
        assert config.model.lora is not None
        assert (config.model.lora.rank, config.model.pooling.method, config.model.bidirectional) == (
            16,
            "ata",
            True,
        )


def test_the_ablation_recipes_differ_in_their_order_alone() -> None:
    found = [load(path) for path in RECIPES if path.stem.startswith("ablation-")]
    assert {config.curriculum.order for config in found} == set(get_args(Order))
    for config in found:
        order = config.curriculum.replace(order="all")
        assert config.name == f"ablation-{config.curriculum.order}"
        assert config.replace(name="ablation-all", curriculum=order) == load(
            Path("configs/ablation-all.yaml")
        )


def write_recipes(folder: Path, **texts: str) -> Path:
    """Writes `<name>.yaml` for every text; the path of the first."""
    paths = [folder / f"{name}.yaml" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    return paths[0]


def test_a_recipe_lays_its_keys_over_those_that_it_extends(tmp_path: Path) -> None:
    demo = Path("configs/demo.yaml").resolve()
    (tmp_path / "deep").mkdir()
    write_recipes(tmp_path / "deep", middle=f"extends: {demo}\nseed: 5\nmodel: {{lora: {{rank: 4}}}}\n")
    top = write_recipes(
        tmp_path, top="extends: deep/middle.yaml\nname: top\nmodel: {lora: {alpha: 7}}\ndata: {train: [x]}\n"
    )
    config, base = load(top), load(demo)
    assert (config.name, config.seed, config.data.train) == ("top", 5, ["x"])
    assert config.model.lora == base.model.lora.replace(rank=4, alpha=7)
    lora = config.model.lora.replace(rank=base.model.lora.rank, alpha=base.model.lora.alpha)
    restored = config.replace(name="demo", seed=0, model=config.model.replace(lora=lora))
    assert restored.replace(data=base.data) == base, "all other keys are the demo's"
    overridden = load_config(RunConfig, ["--config", str(top), "--seed", "9"])
    assert overridden == config.replace(seed=9)


def test_null_and_tables_replace_each_other(tmp_path: Path) -> None:
    demo = Path("configs/demo.yaml").resolve()
    bare = write_recipes(tmp_path, bare=f"extends: {demo}\nmodel: {{lora: null}}\n")
    assert load(bare).model.lora is None
    write_recipes(tmp_path, again="extends: bare.yaml\nmodel: {lora: {rank: 2}}\n")
    assert load(tmp_path / "again.yaml").model.lora == LoraConfig(rank=2)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "extends: b.yaml\n", "b": "extends: a.yaml\n"}, "a.yaml extends itself by way of"),
        ({"a": "extends: a.yaml\n"}, "a.yaml extends itself by way of"),
        ({"a": "extends: nowhere.yaml\n"}, "nowhere.yaml: No such file"),
        ({"a": "extends: [b.yaml]\n"}, "a.yaml: extends must name one file"),
        (
            {"a": "extends: b.yaml\n", "b": "trainig: {steps: 3}\n"},
            "b.yaml: unknown key `trainig.steps`; did",
        ),
        (
            {"a": "extends: b.yaml\nmodell: 3\n", "b": "name: b\n"},
            "a.yaml: unknown key `modell`; did you mean",
        ),
        ({"a": "extends: b.yaml\n", "b": "- 1\n"}, "b.yaml must hold `key: value` pairs"),
    ],
)
def test_wrong_extensions_are_refused(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(MghError, match=re.escape(message)):
        load(write_recipes(tmp_path, **texts))


def test_overrides_win() -> None:
    config = load_config(RunConfig, [*DEMO, "--training.steps", "7", "--model.lora", "null"])
    assert config.training.steps == 7
    assert config.model.lora is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--training.learning_rat", "1"], "did you mean `training.learning_rate`"),
        (["--trainig.steps=3"], "did you mean `training`"),
        (["--training.steps", "many"], "training.steps"),
        (["--training.loss.temperature", "0"], "temperature must be above 0"),
        (["--zzz", "1"], "at the top level there are: name"),
    ],
)
def test_wrong_overrides_are_refused(override: list[str], message: str) -> None:
    with pytest.raises(MghError, match=re.escape(message)):
        load_config(RunConfig, [*DEMO, *override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model:\n  poolin:\n    method: ata\n",
            "unknown key `model.poolin.method`; did you mean `model.pooling`",
        ),
        ("curriculum:\n  ordr: all\n", "did you mean `curriculum.order`"),
        ("- a\n- b\n", "must hold `key: value` pairs"),
        ("a: [", "not valid YAML"),
        ("model: !!python/object:os.system {}\n", "not valid YAML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(MghError, match=re.escape(message)):
        load_config(RunConfig, ["--config", str(path)])


def test_a_missing_file_is_named() -> None:
    with pytest.raises(MghError, match="no-such"):
        load_config(RunConfig, ["--config", "no-such.yaml"])


def test_engine_settings_may_not_contradict_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "zero.json"
    config = load_config(RunConfig, [*DEMO, "--training.deepspeed", str(path)])
    path.write_text('{"zero_optimization": {"stage": 2}, "gradient_clipping": 5}')
    with pytest.raises(MghError, match="gradient_clipping is decided by the recipe"):
        engine_settings(config.model, config.training)
    path.write_text('{"zero_optimization": {"stage": 3}}')
    with pytest.raises(MghError, match="stage must be 2"):
        engine_settings(config.model, config.training)
