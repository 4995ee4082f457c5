"""What vLLM is told before an engine starts, and what is refused then, without vLLM."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from mgh_ds.common.errors import MghError
from mgh_ds.model.backbone import DECODERS, ENCODERS
from mgh_ds.model.config import ARCHITECTURE
from mgh_ds.model.encoder import Encoder
from mgh_ds.model.tiny import cached_tiny_model
from mgh_ds.serving import hooks, plugin
from mgh_ds.serving.config import EmbedderConfig
from mgh_ds.serving.unnamed import PLAIN, refuse_unnamed


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Pooling → an export of an ELECTRA with it; and of a Llama, whose texts we close by EOS."""
    folder = tmp_path_factory.mktemp("exports")
    electra = cached_tiny_model("electra")
    Encoder.from_pretrained(electra, "ata", max_length=32, dimensions=16, device="cpu").save(folder / "ata")
    Encoder.from_pretrained(electra, "cls", max_length=32, device="cpu").save(folder / "cls")
    Encoder.from_pretrained(cached_tiny_model("llama"), max_length=32, device="cpu").save(folder / "llama")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def every_hook_is_there(monkeypatch):
    monkeypatch.setattr(hooks, "NEEDED", ())


def model_config(folder, **changes):
    """Of what vLLM knows of a model, what we read and set."""
    known = {
        "model": str(folder),
        "revision": None,
        "original_max_model_len": None,
        "max_model_len": 512,
        "hf_config": SimpleNamespace(embedding_size=7),
        "enforce_eager": False,
        "quantization": None,
        "enable_prompt_embeds": False,
        "pooler_config": SimpleNamespace(pooling_type=None, enable_chunked_processing=False),
    }
    return SimpleNamespace(**known | changes)


@pytest.mark.parametrize(("name", "length", "size"), [("ata", 32, 16), ("cls", 32, 64), ("llama", 31, 64)])
def test_the_length_of_prompts_and_vectors_is_the_exports(name, length, size, exports):
    config = model_config(exports[name])
    EmbedderConfig.verify_and_update_model_config(config)
    assert (config.max_model_len, config.hf_config.embedding_size) == (length, size)
    assert config.enforce_eager


def test_a_shorter_length_may_be_asked_for(exports):
    config = model_config(exports["ata"], original_max_model_len=20, max_model_len=20)
    EmbedderConfig.verify_and_update_model_config(config)
    assert config.max_model_len == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original_max_model_len": 33, "max_model_len": 33}, "--max-model-len is 33, but .* at most 32"),
        ({"quantization": "fp8"}, "leave out --quantization"),
        ({"enable_prompt_embeds": True}, "leave out --enable-prompt-embeds"),
        (
            {"pooler_config": SimpleNamespace(pooling_type="MEAN", enable_chunked_processing=False)},
            "leave out pooling_type of --pooler-config",
        ),
        (
            {"pooler_config": SimpleNamespace(pooling_type=None, enable_chunked_processing=True)},
            "leave out enable_chunked_processing",
        ),
    ],
)
def test_what_would_change_the_vectors_is_refused(changes, message, exports):
    with pytest.raises(MghError, match=message):
        EmbedderConfig.verify_and_update_model_config(model_config(exports["ata"], **changes))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("parallel_config", "tensor_parallel_size", 2, "--tensor-parallel-size above 1"),
        ("parallel_config", "pipeline_parallel_size", 2, "--pipeline-parallel-size above 1"),
        ("cache_config", "enable_prefix_caching", True, "--enable-prefix-caching"),
        ("scheduler_config", "enable_chunked_prefill", True, "--enable-chunked-prefill"),
        ("self", "lora_config", object(), "--enable-lora"),
    ],
)
def test_what_would_split_a_text_or_the_model_is_refused(part, key, value, message):
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
        cache_config=SimpleNamespace(enable_prefix_caching=False),
        scheduler_config=SimpleNamespace(enable_chunked_prefill=False),
        lora_config=None,
    )
    EmbedderConfig.verify_and_update_config(config)
    setattr(getattr(config, part, config), key, value)
    with pytest.raises(MghError, match=message):
        EmbedderConfig.verify_and_update_config(config)


def test_an_export_of_another_version_and_one_with_adapters_are_refused(exports, tmp_path):
    folder = tmp_path / "other"
    Encoder.from_pretrained(exports["ata"], device="cpu").save(folder)
    said = json.loads((folder / "mgh_ds.json").read_text())
    (folder / "mgh_ds.json").write_text(json.dumps(said | {"of_tomorrow": 1}))
    with pytest.raises(MghError, match=r"of_tomorrow.*install the version that exported the folder"):
        EmbedderConfig.verify_and_update_model_config(model_config(folder))
    (folder / "mgh_ds.json").write_text(json.dumps(said))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(MghError, match=r"adapter_config\.json.*merge them into the weights first"):
        EmbedderConfig.verify_and_update_model_config(model_config(folder))


def test_exports_name_the_architecture_and_others_are_refused_or_left_alone(exports):
    def architectures(name):
        return json.loads((exports[name] / "config.json").read_text())["architectures"]

    # vLLM without this package finds the family's own model where its vectors could be the same.
    assert architectures("ata") == [ARCHITECTURE]
    assert architectures("cls") == [ARCHITECTURE, "ElectraModel"]
    with pytest.raises(MghError, match=r"export it again with this version, or serve it with --hf-overrides"):
        refuse_unnamed(str(exports["ata"]))
    for other in (exports["cls"], cached_tiny_model("electra"), "BAAI/some-model"):
        refuse_unnamed(str(other))


def test_an_export_on_the_hub_that_does_not_name_the_architecture_is_refused(exports, monkeypatch):
    def fetched(name, file, *, revision):
        assert (name, revision) == ("owner/old", "abc")
        return str(exports["ata"] / file)

    monkeypatch.setattr("mgh_ds.serving.unnamed.hf_hub_download", fetched)
    with pytest.raises(MghError, match="owner/old was exported by mgh-ds for its own pooling"):
        refuse_unnamed("owner/old", "abc")


def test_the_plain_architectures_are_those_of_our_families():
    assert set(PLAIN) == {MODEL_MAPPING_NAMES[family] for family in DECODERS + ENCODERS}


def test_the_plugin_leaves_settings_of_others_as_they_were(exports, monkeypatch):
    seen, registered = [], {}

    class Theirs:
        @staticmethod
        def verify_and_update_model_config(model_config):
            seen.append(model_config.model)

    table = {"Gemma3TextModel": Theirs, "OtherModel": Theirs}
    vllm, config = ModuleType("vllm"), ModuleType("vllm.model_executor.models.config")
    vllm.ModelRegistry = SimpleNamespace(register_model=registered.__setitem__)
    config.MODELS_CONFIG_MAP, config.VerifyAndUpdateConfig = table, Theirs
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    for name in ("vllm.model_executor", "vllm.model_executor.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, config.__name__, config)
    plugin.register()
    after = dict(table)
    plugin.register()
    assert table == after
    assert registered == {ARCHITECTURE: "mgh_ds.serving.model:MghEmbedder"}
    assert table[ARCHITECTURE] is EmbedderConfig
    assert table["OtherModel"] is Theirs
    table["Gemma3TextModel"].verify_and_update_model_config(
        SimpleNamespace(model="google/gemma-3-270m", revision=None)
    )
    assert seen == ["google/gemma-3-270m"]
    with pytest.raises(MghError, match=r"mgh-ds for its own pooling"):
        table["BertModel"].verify_and_update_model_config(
            SimpleNamespace(model=str(exports["ata"]), revision=None)
        )


def test_a_vllm_without_a_hook_is_refused_with_what_to_install(monkeypatch):
    vllm = ModuleType("vllm")
    vllm.__version__ = "0.99.0"
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(hooks, "NEEDED", (("vllm", "__version__"), ("vllm.gone", "Hook")))
    with pytest.raises(
        MghError, match=r"vLLM 0\.99\.0 has no Hook in vllm\.gone.*pip install 'mgh-ds\[vllm\]'"
    ):
        hooks.need_hooks()
