"""Masked next-token prediction: what is masked, whose gradient it is, and that runs of it go on as others do.

Tolerance of gradients: float32, whose sums differ in order only; 1e-5 of a tensor's largest entry, as in
test_gradients.py.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mgh_ds.common.errors import MghError
from mgh_ds.curriculum import Loader
from mgh_ds.curriculum.loader import MicroBatch, make_micro_batch
from mgh_ds.model.config import ModelConfig
from mgh_ds.model.embedder import build_model
from mgh_ds.model.tiny import make_tiny_model
from mgh_ds.model.tokens import Tokenizer
from mgh_ds.records.schema import Record
from mgh_ds.training.config import DataConfig, RunConfig
from mgh_ds.training.masking import MaskedBatch, Masking
from mgh_ds.training.mntp import Mntp
from mgh_ds.training.objectives import ContrastiveSettings, MntpSettings
from mgh_ds.training.prefetch import make_contrastive
from mgh_ds.training.step import embed
from tests.ranks import run_ranks, start_ranks
from tests.records.examples import record_values
from tests.training import mntp_worker, run_worker
from tests.training.gradient_setup import make_model, make_plan
from tests.training.mntp_setup import STEP, change_config, make_decoder, mntp_run, open_data, write_texts
from tests.training.run_worker import Fault
from tests.training.test_resume import assert_equal_runs, final_weights, losses

MASK = 7


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_decoder(tmp_path_factory.mktemp("decoder") / "tied")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.txt")


@pytest.fixture(scope="module")
def tokenizer(decoder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(decoder, max_length=4096)


def micro_batch(*queries: str) -> MicroBatch:
    """Of records that are named by their texts; "" leaves a place empty."""
    values = [record_values(id=text[:100], query=text) if text else None for text in queries]
    records = [Record.model_validate(each) if each else None for each in values]
    return make_micro_batch(records, [[]] * len(records), 0, seed=3, group=0)


def masked(tokenizer: Tokenizer, *queries: str, step: int = 0, seed: int = 0, **settings: Any) -> MaskedBatch:
    return Masking(MntpSettings(**settings), MASK, seed).masked(micro_batch(*queries), tokenizer, step)


def changes(batch: MaskedBatch, tokenizer: Tokenizer, *queries: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens as they were and as they are, flat."""
    return tokenizer.tokenize(queries).input_ids.flatten(), batch.tokens.input_ids.flatten()


LONG = " ".join(f"The harbour master keeps list {number}." for number in range(300))


def test_shares_and_replacements_are_those_that_are_asked_for(tokenizer: Tokenizer) -> None:
    """Some 3,000 tokens: five deviations of a share of 0.2 of them are 0.037, of a tenth of 600 masked ones
    0.06."""
    batch = masked(tokenizer, LONG, mask_share=0.2, random_share=0.1, kept_share=0.1)
    before, after = changes(batch, tokenizer, LONG)
    assert torch.equal(before[batch.places], batch.targets)
    chosen = torch.zeros(len(before), dtype=torch.bool)
    chosen[batch.places] = True
    assert torch.equal(before[~chosen], after[~chosen])
    assert chosen.float().mean().item() == pytest.approx(0.2, abs=0.037)
    put = after[batch.places]
    of_masked = {
        "mask": (put == MASK).float().mean().item(),
        "kept": (put == batch.targets).float().mean().item(),
    }
    assert of_masked == {"mask": pytest.approx(0.8, abs=0.08), "kept": pytest.approx(0.1, abs=0.06)}
    other = put[(put != MASK) & (put != batch.targets)]
    assert len(other.unique()) > len(other) / 2, "drawn from the whole vocabulary"


def test_all_masked(tokenizer: Tokenizer) -> None:
    batch = masked(tokenizer, LONG, mask_share=0.8, random_share=0.0, kept_share=0.0)
    _, after = changes(batch, tokenizer, LONG)
    assert (after[batch.places] == MASK).all()
    assert len(batch.places) / len(after) == pytest.approx(0.8, abs=0.037)


def test_first_and_special_tokens_are_never_masked_and_one_other_always_is(tokenizer: Tokenizer) -> None:
    short = ["a b", "", *(f"fact {number}" for number in range(20))]
    batch = masked(tokenizer, *short, mask_share=1.0, random_share=0.0, kept_share=0.0)
    lengths = tokenizer.tokenize(short).lengths
    assert torch.equal(batch.owners.bincount(minlength=len(short)), (lengths - 2).long())  # <s> … </s>
    rare = masked(tokenizer, *short, mask_share=1e-9)
    assert torch.equal(rare.owners, torch.tensor([number for number, text in enumerate(short) if text]))
    assert not set(rare.targets.tolist()) & set(tokenizer.backend.all_special_ids)


def test_without_bos_the_first_word_stays(decoder: Path) -> None:
    """Nothing comes before it from which it could be predicted."""
    plain = Tokenizer.from_pretrained(decoder, max_length=64)
    plain.backend.backend_tokenizer.post_processor = None
    batch = masked(plain, "one two three", mask_share=1.0)
    assert batch.places.min() == 1
    assert 0 < len(batch.places) < len(batch.tokens.input_ids)


def test_masks_depend_on_seed_step_and_record_alone(tokenizer: Tokenizer) -> None:
    first, second = "The first of two texts", "The second one, which is a little longer"
    together, alone = masked(tokenizer, first, second, step=4), masked(tokenizer, second, step=4)
    start = int(tokenizer.tokenize([first]).lengths)
    of_second = together.owners == 1
    assert torch.equal(together.places[of_second] - start, alone.places)
    assert torch.equal(together.tokens.input_ids[start:], alone.tokens.input_ids)
    places = masked(tokenizer, LONG, step=4).places
    for other in ({"step": 5}, {"step": 4, "seed": 1}):
        assert not torch.equal(masked(tokenizer, LONG, **other).places, places)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_masks_what_a_packed_one_does(side: Any, decoder: Path, tokenizer: Tokenizer) -> None:
    queries = ["short one", "", "The second one, which is a little longer"]
    padding = Tokenizer.from_pretrained(decoder, max_length=64, padding_free=False, padding_side=side)
    packed, padded = masked(tokenizer, *queries), masked(padding, *queries)
    assert torch.equal(packed.targets, padded.targets)
    assert torch.equal(packed.owners, padded.owners)
    rows = [each.tokens.unpacked(each.tokens.input_ids) for each in (packed, padded)]
    assert [row.tolist() for row in rows[0]] == [row.tolist() for row in rows[1]]
    flat = padded.tokens.input_ids.flatten()
    assert torch.equal(flat[padded.places], packed.tokens.input_ids[packed.places])


def reference(config: RunConfig) -> dict[str, torch.Tensor]:
    """The gradient in one process without DeepSpeed, text by text in padded batches, with torch's own
    cross-entropy of all logits."""
    model, tokenizer = make_model(config)
    tokenizer.padding_free = False
    store, objective = open_data(config), Mntp(config)
    head = model.backbone.get_input_embeddings().weight.detach()
    total, count, empty = torch.zeros(()), 0, 0
    for part in Loader(store, make_plan(store, config)).micro_batches(STEP, 1, 0):
        batch = objective.make_batch(part, tokenizer, STEP)
        hidden, _ = model.states(batch.tokens)
        logits, width = hidden @ head.T, hidden.shape[1]
        for place, target in zip(batch.places.tolist(), batch.targets.tolist(), strict=True):
            text, i = divmod(place, width)
            assert batch.tokens.attention_mask[text, i - 1]
            total = total + torch.nn.functional.cross_entropy(logits[text, i - 1], torch.tensor(target))
            count += 1
        empty += batch.ids.count("")
    assert empty, "the batch must have empty places"
    (total / count).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients | {"loss": (total / count).detach().double().reshape(1)}


def test_ranks_and_packing_do_not_change_the_gradient(decoder: Path, texts: Path, tmp_path: Path) -> None:
    """1 to 4 ranks, of which 3 do not share the micro-batches evenly, against one plain process."""
    config = mntp_run(decoder, texts, tmp_path, gradient_clipping=0.0)
    config = config.replace(model=config.model.replace(lora=config.model.lora.replace(dropout=0.0)))
    expected = reference(config)
    for world_size in (1, 2, 3, 4):
        run_ranks(world_size, mntp_worker.main, config, tmp_path)
        found = load_file(tmp_path / f"{world_size}.safetensors")
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.abs().max() > 0, f"{name}: a gradient of zero proves nothing"
            error = (found[name] - gradient).abs().max() / gradient.abs().max()
            assert error < 1e-5, f"{name} with {world_size} ranks: relative error {error:.1e}"


def test_killed_and_resumed_equals_never_killed(decoder: Path, texts: Path, tmp_path: Path) -> None:
    whole = mntp_run(decoder, texts, tmp_path, steps=4).replace(name="whole")
    killed = whole.replace(name="killed")
    run_ranks(1, run_worker.train, whole)
    fault = Fault("update", step=3, rank=0, after="step-000002")
    codes, outputs = start_ranks(1, run_worker.train, killed, fault, timeout=100)
    assert codes == [-9], outputs
    assert "2 of 4 steps are done" in run_ranks(1, run_worker.train, killed)[0]
    assert_equal_runs(killed, whole)
    assert any(weight.any() for name, weight in final_weights(whole).items() if "lora_B" in name)
    _, first = losses(whole)[0]
    _, last = losses(whole)[-1]
    assert last < first - 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"bidirectional": False}}, "model.bidirectional must be true"),
        ({"training": {"negative_groups": 2}}, "training.negative_groups must be 1"),
        ({"curriculum": {"stages": "coarse_to_fine"}}, "curriculum needs `stages: random`"),
        ({"curriculum": {"negatives": 1}}, "curriculum needs `stages: random`"),
        ({"curriculum": {"missing_level": "skip"}}, "no other choice among its records"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    changes: dict[str, dict[str, Any]], words: str, decoder: Path, texts: Path, tmp_path: Path
) -> None:
    config = mntp_run(decoder, texts, tmp_path)
    with pytest.raises(MghError, match=words):
        config.replace(**{part: getattr(config, part).replace(**new) for part, new in changes.items()})


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(MghError, match="at most 1 together"):
        MntpSettings(random_share=0.6, kept_share=0.6)


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("decoder", {"mask_token": "[MASK]"}, r"has no token '\[MASK\]'; name one that it has, such as '_'"),
        ("decoder", {"mask_token": "é"}, "has no token 'é'"),  # its vocabulary's é is the byte 0xE9
        ("tiny-random/bert", {}, "holds a 'bert' model, which is bidirectional already"),
        ("tiny-random/mistral", {}, r"holds no lm_head\.weight"),
        ("capped", {}, "final_logit_softcapping changes the logits"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_before_it_is_loaded(
    model: str,
    settings: dict[str, Any],
    words: str,
    decoder: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mgh_ds.model.backbone._load", lambda *_: pytest.fail("the model was loaded"))
    if model == "capped":
        capped = make_decoder(tmp_path / "capped")
        change_config(capped, final_logit_softcapping=30.0)
        model = str(capped)
    config = mntp_run(decoder, texts, tmp_path, objective=MntpSettings(**settings))
    name = str(decoder) if model == "decoder" else model
    with pytest.raises(MghError, match=words):
        Mntp(config.replace(model=config.model.replace(name_or_path=name)))


def test_a_head_of_its_own_is_read_from_the_folder(texts: Path, tmp_path: Path) -> None:
    make_tiny_model("chat", tmp_path / "chat")
    config = mntp_run(tmp_path / "chat", texts, tmp_path)
    model, _ = build_model(ModelConfig(name_or_path=str(tmp_path / "chat"), lora=None))
    head = Mntp(config)._output_head(model.backbone)
    assert torch.equal(head, load_file(tmp_path / "chat" / "model.safetensors")["lm_head.weight"])
    assert not torch.equal(head, model.backbone.get_input_embeddings().weight)


def test_a_run_without_text_is_refused(decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    config = mntp_run(decoder, tmp_path / "empty.txt", tmp_path)
    with pytest.raises(MghError, match="holds no text to learn from"):
        open_data(config)


def test_its_store_holds_pairs_for_simcse_that_dropout_alone_tells_apart(
    decoder: Path, texts: Path, tmp_path: Path
) -> None:
    """Each text as query and as positive; the adapters have left zero, where they begin."""
    config = mntp_run(decoder, texts, tmp_path)
    store = open_data(config)
    config = config.replace(
        model=config.model.replace(use_instructions=False),
        data=DataConfig(train=[str(store.path)]),
        training=config.training.replace(objective=ContrastiveSettings()),
    )
    assert open_data(config).path == store.path
    model, tokenizer = make_model(config)
    (batch, *_) = Loader(store, make_plan(store, config)).micro_batches(STEP, 1, 0)
    vectors = embed(model, make_contrastive(batch, tokenizer, STEP)).detach()
    torch.testing.assert_close(vectors[:, 0], vectors[:, 1], rtol=0, atol=1e-5)
    vectors = embed(model.train(), make_contrastive(batch, tokenizer, STEP)).detach()
    assert ((vectors[:, 0] - vectors[:, 1]).norm(dim=1) > 1e-3).all()


def test_the_command_for_simcse_names_the_texts_of_every_source(tmp_path: Path) -> None:
    data = tmp_path / "runs" / "smollm2-mntp" / "data"
    stores = [data / f"train-texts-{digest}" for digest in ("0a", "1b")]  # smollm2-mntp has two
    for store in stores:
        store.mkdir(parents=True)
    page = Path("docs/training.md").read_text(encoding="utf-8")
    (word,) = re.findall(r"--name smollm2-simcse --data\.train (\S.*\]\")", page)
    command = ["bash", "-c", f"echo {word}"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert yaml.safe_load(found.stdout) == [str(store.relative_to(tmp_path)) for store in stores]


def test_draws_are_even() -> None:
    from mgh_ds.training.masking import _uniform

    numbers = _uniform(np.arange(10_000), key=5)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(np.histogram(numbers, bins=10, range=(0, 1))[0] - 1000).max() < 150  # five deviations
