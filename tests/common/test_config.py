"""Recipes: every file in configs/ parses, every key is commented, and a wrong key is refused with the nearest
name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field
from pydantic.fields import FieldInfo

from mgh_ds.common.config import Settings, dump_config, load_config, read_recipe
from mgh_ds.common.errors import MghError
from mgh_ds.common.keys import bounds, expected, tables_in
from mgh_ds.curriculum.config import ORDERS, order_of
from mgh_ds.model.config import LoraConfig, ModelConfig, PoolingConfig
from mgh_ds.synthesis import plan
from mgh_ds.synthesis.config import SynthesisConfig
from mgh_ds.training.config import RunConfig
from mgh_ds.training.engine import engine_settings

RECIPES = sorted(Path("configs").glob("*.yaml"))
SYNTHESES = [path for path in RECIPES if path.stem.startswith("synth-")]
# Dry runs: they leave out what they do not use, the sections of other engines first of all.
SHORT = ("synth-demo", "synth-scripted")
DEMO = ["--config", "configs/demo.yaml"]


def kind_of(path: Path) -> Any:
    return SynthesisConfig if path in SYNTHESES else RunConfig


def load(path: Path) -> Any:
    """A recipe as what it is."""
    return load_config(kind_of(path), ["--config", str(path)])


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
    assert read_recipe(path, kind_of(path)) == yaml.safe_load(dump_config(load(path)))


@pytest.mark.parametrize(
    "name",
    [
        "mistral-7b-full",
        "mistral-7b-mntp",
        "mistral-7b-retrieval",
        "smollm2-mntp",
        "synth-endpoint",
        "synth-qwen3-8b",
        "synth-scripted",
    ],
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
    assert {order_of(config.curriculum.stages) for config in found} == set(ORDERS)
    for config in found:
        order = config.curriculum.replace(stages="all")
        assert config.name == f"ablation-{order_of(config.curriculum.stages)}"
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
    assert (config.name, config.seed, config.data.paths) == ("top", 5, ["x"])
    assert config.model.lora == base.model.lora.replace(rank=4, alpha=7)
    lora = config.model.lora.replace(rank=base.model.lora.rank, alpha=base.model.lora.alpha)
    restored = config.replace(name="demo", seed=0, model=config.model.replace(lora=lora))
    assert restored.replace(data=base.data) == base, "all other keys are the demo's"
    overridden = load_config(RunConfig, ["--config", str(top), "--seed", "9"])
    assert overridden == config.replace(seed=9)


def test_a_source_is_a_path_or_a_table(tmp_path: Path) -> None:
    said = "{path: b, weight: 2, levels: [1, 3]}"
    config = load_config(RunConfig, [*DEMO, "--data.train", f"[{{path: a, weight: 1.5}}, {said}]"])
    assert config.data.paths == ["a", "b"]
    assert [source.said for source in config.data.train] == [
        {"weight": 1.5},
        {"weight": 2.0, "levels": [1, 3]},
    ]
    copy = write_recipes(tmp_path, copy=dump_config(config))
    assert load(copy) == config
    plain = load_config(RunConfig, [*DEMO, "--data.train", "[a, {path: b, weight: null}]"])
    assert plain.model_dump()["data"]["train"] == ["a", "b"], "written as before there were tables"
    assert config.replace(data=config.data.replace(train=["a", "b"])) == plain


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("demo", "max_epochs: 2", r"data.train\[1\].max_epochs \(b\) and curriculum.ungraded_share both say"),
        ("smollm2-mntp", "ungraded_level: 2", r"no levels: leave out data.train\[1\].ungraded_level \(b\)"),
    ],
)
def test_what_a_run_has_no_use_for_may_not_be_said_of_a_source(
    recipe: str, override: str, message: str
) -> None:
    share = ["--curriculum.ungraded_share", "0.5"] if recipe == "demo" else []
    with pytest.raises(MghError, match=message):
        load_config(RunConfig, ["--config", recipe, *share, "--data.train", f"[a, {{path: b, {override}}}]"])


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
        ("curriculum:\n  stage: all\n", "did you mean `curriculum.stages`"),
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


def test_a_number_may_be_written_with_an_exponent_alone(tmp_path: Path) -> None:
    path = write_recipes(tmp_path, top="extends: demo\ntraining: {learning_rate: 1e-4, weight_decay: 1}\n")
    config = load(path)
    assert (config.training.learning_rate, config.training.weight_decay) == (1e-4, 1.0)
    assert load_config(RunConfig, [*DEMO, "--training.learning_rate", "3e-5"]).training.learning_rate == 3e-5
    path.write_text(dump_config(config.replace(name="1e4")))
    assert load(path).name == "1e4"


@pytest.mark.parametrize("name", ["123", "2026-01-01", "0x1F", "yes", "null", "a: b", "1e5", "[x"])
def test_a_key_for_text_takes_a_word_as_it_stands(name: str) -> None:
    assert load_config(RunConfig, [*DEMO, f"--name={name}"]).name == name


def test_a_word_may_be_null_where_null_is_allowed() -> None:
    assert load_config(RunConfig, [*DEMO, "--data.held_out", "null"]).data.held_out is None
    assert load_config(RunConfig, [*DEMO, "--data.shards", "7"]).data.shards == "7"


def test_tables_of_a_recipe_are_merged_and_tables_of_free_keys_are_given_whole() -> None:
    assert load_config(RunConfig, [*DEMO, "--model.lora", "{rank: 4}"]).model.lora == LoraConfig(rank=4)
    scripted = ["--config", "synth-scripted"]
    whole = load_config(SynthesisConfig, [*scripted, "--tasks.subtypes", "{sts: 1}"])
    assert whole.tasks.subtypes == {"sts": 1.0}
    parts = [*scripted, "--engine.chat_template_kwargs", "{a: 1}", "--engine.chat_template_kwargs.b", "x"]
    assert load_config(SynthesisConfig, parts).engine.chat_template_kwargs == {"a": 1, "b": "x"}


def test_later_arguments_win_over_earlier_ones_and_over_recipes() -> None:
    twice = [*DEMO, "--seed", "3", "--seed", "4", "--model.lora", "null", "--model.lora.rank", "2"]
    config = load_config(RunConfig, twice)
    assert (config.seed, config.model.lora) == (4, LoraConfig(rank=2))
    assert load_config(RunConfig, ["--seed", "3", *DEMO]).seed == 0
    assert load_config(RunConfig, [*DEMO, "--config", "tiny-mistral"]).name == "tiny-mistral"


def test_a_recipe_that_ships_is_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {name: load(Path(f"configs/{name}.yaml")) for name in ("demo", "ablation-all")}
    own = write_recipes(tmp_path, own="extends: demo\nname: own\n", deep="extends: base/ablation\nname: d\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # such as a run's folder: no recipe
    for name, config in here.items():
        assert load_config(RunConfig, ["--config", name]) == config
    assert load(own) == here["demo"].replace(name="own")
    deep = load(tmp_path / "deep.yaml")
    assert deep == here["ablation-all"].replace(name="d", curriculum=deep.curriculum)
    (tmp_path / "tiny-mistral").write_text("extends: demo\nname: a file goes first\n")
    assert load_config(RunConfig, ["--config", "tiny-mistral"]).name == "a file goes first"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("dmo", "'dmo' is neither a configuration file nor the name of a recipe; did you mean `demo`?"),
        ("mistral-7b", "did you mean `mistral-7b-full`?"),
        ("configs/dmo.yaml", "configs/dmo.yaml: No such file or directory; did you mean `demo`?"),
        ("zzzzzzz", "there are: ablation-all, ablation-coarse_to_fine"),
    ],
)
def test_an_unknown_recipe_gets_the_nearest_name(recipe: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MghError, match=re.escape(message)):
        load_config(RunConfig, ["--config", recipe])
    if not recipe.endswith(".yaml"):
        with pytest.raises(MghError, match=re.escape(message)):
            load(write_recipes(tmp_path, top=f"extends: {recipe}\n"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--training.learning_rate", "-1"], "training.learning_rate must be above 0, found -1"),
        (["--training.learning_rate", ".inf"], "training.learning_rate must be finite, found inf"),
        (["--training.learning_rate", "true"], "training.learning_rate must be a number, found True"),
        (["--training.steps", "1.5"], "training.steps must be a whole number, found 1.5"),
        (["--training.steps", "true"], "training.steps must be a whole number, found True"),
        (["--training.steps.foo", "3"], "training.steps must be a whole number, found {'foo': 3}"),
        (["--model.bidirectional", "1"], "model.bidirectional must be true or false, found 1"),
        (["--model.lora", "7"], "model.lora must be a table or null, found 7"),
        (["--model.lora.dropout", "1"], "model.lora.dropout must be at least 0 and below 1, found 1"),
        (["--model.pooling.method", "atta"], "weighted_mean, found 'atta'; did you mean `ata`?"),
        (
            ["--model.pooling.layers", "[]"],
            "model.pooling.layers must be a list of at least one whole number",
        ),
        (["--curriculum.ungraded_share", "x"], "must be a number or null, found 'x'"),
        (["--curriculum.ungraded_share", "2"], "ungraded_share must lie between 0 and 1, found 2"),
        (["--curriculum.stages", "corse_to_fine"], "did you mean `coarse_to_fine`?"),
        (["--curriculum.stages", "[{levels: [5]}]"], "curriculum.stages[0].levels must"),
        (["--curriculum.stages", "[{levels: [1], shares: 1}]"], "did you mean `curriculum.stages[0].share`?"),
        (["--curriculum.stages", "[]"], "curriculum.stages must be a list of at least one"),
        (["--data.train", "[]"], "data: every path must name a store or file; data.train needs at least one"),
        (["--data.train", "x"], "data.train must be a list of texts or tables, found 'x'"),
        (["--data.train", "[3]"], "data.train[0]: must be a path, or a table with a path, found 3"),
        (["--data.train", "[a, {weight: 2}]"], "data.train[1].path is missing: it must be text"),
        (["--data.train", "[{path: a, weigth: 2}]"], "did you mean `data.train[0].weight`?"),
        (["--data.train", "[{path: a, weight: 0}]"], "data.train[0].weight must be above 0, found 0"),
        (["--data.train", "[a, {path: b, max_epochs: -1}]"], "data.train[1].max_epochs must be above 0"),
        (["--data.train", "[{path: a, levels: [1, 1]}]"], "data.train[0].levels names a level twice: [1, 1]"),
        (["--data.train", "[{path: a, levels: [5]}]"], "data.train[0].levels must lie between 1 and 4"),
        (
            ["--data.train", "[{path: a, ungraded_level: 0}]"],
            "ungraded_level must lie between 1 and 4, found",
        ),
        (
            ["--data.train", "[a, {path: b, weight: 2}]"],
            "data: train[0] (a) has no weight, but train[1] (b) has: give every source a weight, or none",
        ),
        (["--name", "a/b"], "name must be the name of a folder, found 'a/b'"),
        (["--curriculum.stages", "[1, {"], "--curriculum.stages is not valid YAML"),
        (["--training.steps"], "--training.steps needs a value"),
        (["--training.steps", "--seed", "1"], "--training.steps needs a value"),
        (["stray"], "'stray' belongs to no option"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(override: list[str], message: str) -> None:
    with pytest.raises(MghError, match=re.escape(message)) as error:
        load_config(RunConfig, [*DEMO, *override])
    assert str(error.value).startswith("command line: ")
    assert "\n" not in str(error.value)


def test_an_error_names_the_file_that_set_the_key(tmp_path: Path) -> None:
    write_recipes(tmp_path, base="extends: demo\ntraining: {steps: 0, warmup_steps: -1}\n")
    top = write_recipes(tmp_path, top="extends: base.yaml\ntraining: {steps: 3}\n")
    with pytest.raises(MghError, match=r"base\.yaml: training\.warmup_steps must not be negative, found -1"):
        load(top)
    bare = write_recipes(tmp_path, bare="name: x\n")
    with pytest.raises(MghError, match=r"bare\.yaml: model is missing: it must be a table"):
        load(bare)


def test_settings_made_in_code_get_the_same_words() -> None:
    with pytest.raises(MghError, match=r"^PoolingConfig\.layers must be a list of at least one"):
        PoolingConfig(layers=[])
    with pytest.raises(MghError, match=r"^unknown key `PoolingConfig\.metod`; did you mean .*\.method`"):
        PoolingConfig(metod="ata")  # type: ignore[call-arg]
    with pytest.raises(MghError, match=r"^LoraConfig\.rank must be above 0, found 0"):
        LoraConfig().replace(rank=0)
    with pytest.raises(MghError, match=r"^ModelConfig\.lora\.rank must be above 0, found 0"):
        ModelConfig(name_or_path="x", lora={"rank": 0})  # type: ignore[arg-type]


class Nce(Settings):
    """A loss of the tests."""

    name: Literal["nce"] = "nce"
    temperature: float = Field(default=0.5, gt=0)
    symmetric: bool = False


class Margin(Settings):
    """Another one."""

    name: Literal["level_margin"] = "level_margin"
    margin: float = Field(default=0.1, ge=0)
    symmetric: bool = False


class Part(Settings):
    """An element of a list of tables."""

    levels: list[int] = Field(min_length=1)
    share: float | None = Field(default=None, gt=0)


class Optimiser(Settings):
    """A section of the tests' recipe."""

    loss: Annotated[Nce | Margin, Field(discriminator="name")] = Nce()
    only: Nce = Nce()
    parts: list[Part] | None = None


class Recipe(Settings):
    """A recipe of the tests."""

    training: Optimiser = Optimiser()


def test_a_name_chooses_the_kind_of_a_table(tmp_path: Path) -> None:
    def loss(*arguments: str) -> Settings:
        return load_config(Recipe, arguments).training.loss

    assert loss() == loss("--training.loss", "{}") == Nce()
    assert loss("--training.loss.temperature", "2") == Nce(temperature=2)
    assert loss("--training.loss.name", "level_margin", "--training.loss.margin", "3") == Margin(margin=3)
    assert Recipe(training={"loss": {"temperature": 2}}).training.loss == Nce(temperature=2)  # type: ignore[arg-type]
    base = write_recipes(tmp_path, base="training: {loss: {temperature: 2, symmetric: true}}\n")
    assert loss("--config", str(base)) == Nce(temperature=2, symmetric=True)
    assert loss("--config", str(base), "--training.loss.name", "nce") == Nce(temperature=2, symmetric=True)
    # Another name begins the table anew: what the other kind was given does not count for this one.
    assert loss("--config", str(base), "--training.loss.name", "level_margin") == Margin()
    top = write_recipes(
        tmp_path, top="extends: base.yaml\ntraining: {loss: {name: level_margin, margin: 3}}\n"
    )
    assert loss("--config", str(top), "--training.loss.symmetric", "true") == Margin(margin=3, symmetric=True)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(load_config(Recipe, ["--config", str(top)])))
    assert loss("--config", str(copy)) == Margin(margin=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--training.loss.name", "level_margn"],
            "training.loss.name must be one of nce, level_margin, found",
        ),
        (["--training.loss.name", "level_margn"], "; did you mean `level_margin`?"),
        (
            ["--training.only.name", "ncee"],
            "training.only.name must be one of nce, found 'ncee'; did you mean",
        ),
        (
            ["--training.loss.margin", "1"],
            "training.loss.margin belongs to level_margin, but training.loss.name is nce",
        ),
        (
            ["--training.loss.name", "level_margin", "--training.loss.temperature", "1"],
            "training.loss.temperature belongs to nce, but training.loss.name is level_margin",
        ),
        (
            ["--training.loss.temperature", "1", "--training.loss.name", "level_margin"],
            "training.loss.temperature belongs to nce, but training.loss.name is level_margin",
        ),
        (["--training.loss.name", "[1]"], "training.loss.name must be one of nce, level_margin, found '[1]'"),
        (["--training.loss.margni", "1"], "unknown key `training.loss.margni`"),
        (["--training.loss.temperature", "0"], "training.loss.temperature must be above 0, found 0"),
        (["--training.loss", "3"], "training.loss must be a table, found 3"),
        (
            ["--training.parts", "[{levels: [1]}, {levels: []}]"],
            "training.parts[1].levels must be a list of at",
        ),
        (["--training.parts", "[{level: [1]}]"], "unknown key `training.parts[0].level`; did you mean"),
        (
            ["--training.parts", "[{levels: [1], share: 0}]"],
            "training.parts[0].share must be above 0, found 0",
        ),
        (["--training.parts", "7"], "training.parts must be a list of tables or null, found 7"),
    ],
)
def test_a_table_of_the_wrong_kind_is_refused_by_key(arguments: list[str], message: str) -> None:
    with pytest.raises(MghError, match=re.escape(f"{message}")) as error:
        load_config(Recipe, arguments)
    assert str(error.value).startswith("command line: ")


def keys_of(kind: type[Settings]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        yield f"{kind.__name__}.{name}", field
        for inner in tables_in(field.annotation):
            yield from keys_of(inner)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [RunConfig, SynthesisConfig])
def test_every_key_has_a_description_and_every_number_bounds(kind: type[Settings]) -> None:
    # Layers count from either end; stages and filters, whose numbers depend on each other, check themselves.
    free = ("PoolingConfig.layers", "CurriculumConfig.shares", "FilterConfig")
    for name, field in keys_of(kind):
        assert field.description, name
        if re.search("number", expected(field.annotation)) and not name.startswith(free):
            assert bounds(field.annotation, field.metadata), name


def test_help_shows_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_config(RunConfig, ["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--training.steps (a whole number; required)\n    Optimiser steps. Must be above 0.\n" in printed
    assert "--model.lora (a table or null; default: a table" in printed
    assert "--model.lora.rank (a whole number; default: 16)" in printed
    assert "--model.pooling.layers (a list of at least one whole number; default: [-1])" in printed
    with pytest.raises(SystemExit):
        load_config(Recipe, ["--help"])
    assert "Where training.loss.name is level_margin." in capsys.readouterr().out
