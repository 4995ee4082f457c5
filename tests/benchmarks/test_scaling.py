"""Counted bytes are those that real ranks exchange. For the loss: tests/losses/test_gather.py."""

import pytest

from benchmarks import scaling
from benchmarks.scaling import Exchange, zero2_exchange
from benchmarks.shapes import Shapes
from tests.benchmarks import zero_worker
from tests.ranks import run_ranks

MISTRAL = Shapes()


@pytest.mark.parametrize("world_size", [2, 5])
def test_zero_2_exchanges_what_is_counted(world_size):
    """12,288 numbers: two ranks share them evenly, for five they are filled up."""
    for output in run_ranks(world_size, zero_worker.main):
        assert "counted" in output


def test_parameters_are_those_of_a_real_model():
    import peft
    from transformers import AutoModel, MistralConfig

    shapes = Shapes(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48, vocabulary=50, rank=3)
    config = MistralConfig(
        hidden_size=shapes.hidden,
        num_hidden_layers=shapes.layers,
        num_attention_heads=shapes.heads,
        num_key_value_heads=shapes.kv_heads,
        intermediate_size=shapes.intermediate,
        vocab_size=shapes.vocabulary,
    )
    backbone = AutoModel.from_config(config)
    model = peft.get_peft_model(backbone, peft.LoraConfig(r=shapes.rank, target_modules="all-linear"))
    adapters = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in adapters) == shapes.lora_parameters


def test_mistral_7b():
    """Worked out by hand: adapters of rank 16 have 16·(2·8192 + 2·5120 + 3·18432) = 1,310,720 a block; their
    gradients in fp32, their weights in bf16."""
    assert MISTRAL.lora_parameters == 32 * 1_310_720 == 41_943_040
    exchange = zero2_exchange(MISTRAL.lora_parameters, 8, scaling.BF16)
    assert exchange == (167_772_160, 83_886_080)
    assert exchange.received(8) == (2 * 167_772_160 + 83_886_080) * 7 / 8


def test_weights_are_filled_up_and_a_rank_alone_receives_nothing():
    assert zero2_exchange(13, 3, 2) == Exchange(52, 36)
    assert zero2_exchange(13, 1, 2).received(1) == 0


def test_the_file_holds_every_way(tmp_path, capsys):
    """8,192 records, four negatives: on 1,024 ranks 1,023/1,024 of the batch comes in, and its gradient."""
    assert scaling.main(["--output", str(tmp_path)]) == 0
    text = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    last = text.split("## ")[-1].splitlines()
    [whole] = [line for line in last if line.startswith("| whole | 1 |")]
    received = 1023 * 8 * 5 * (2 * 4096 * 4 + 32)
    assert whole.endswith(f"| {received / 1e6:,.1f} |")
    small = [line for line in text.splitlines() if line.startswith("| ring")]
    assert len(small) == 2 * 2 * 2
    assert all(line.endswith("| – |") for line in small[:4])  # 1,024 ranks have no work with 512 records
