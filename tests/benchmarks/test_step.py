"""The training step, tiny, with both poolings."""

import pytest
import torch

from benchmarks import step, table

CPU = torch.device("cpu")


def test_the_tiny_step_is_measured_with_both_poolings(tmp_path, capsys):
    arguments = ["--device", "cpu", "--tiny", "--rounds", "2", "--output", str(tmp_path)]
    assert step.main(arguments) == 0
    _, (ata, mean) = table.read(tmp_path / "cpu-step-tiny.csv")
    assert (ata["pooling"], mean["pooling"]) == ("ata", "mean")
    assert ata["attention"] in ("chunked", "triton")
    assert ata["note"].startswith("target: at most 1 % slower")
    assert float(ata["tokens_per_s"]) == pytest.approx(
        1e3 * int(ata["tokens"]) / float(ata["step_ms"]), rel=2e-3
    )
    assert (ata["texts"], ata["rounds"], mean["slower_percent"]) == ("6", "2", "")
    assert "%" in capsys.readouterr().out


def test_a_7b_step_is_refused_on_a_cpu(capsys):
    assert step.main(["--device", "cpu"]) == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_a_step_trains_the_adapters_alone():
    backbone = step.make_backbone(step.TINY, CPU)
    model = step.EmbeddingModel(backbone, step.Pooling(step.PoolingConfig(method="ata"))).train()
    before = {name: weight.detach().clone() for name, weight in backbone.named_parameters()}
    adapters = [weight for weight in backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=1e-2)
    update = step.training_step(model, step.make_batch(step.TINY, CPU), optimizer)
    update()
    changed = {name for name, weight in backbone.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora" in name for name in changed)
    assert all(weight.grad is None for weight in adapters)


def test_the_difference_is_taken_round_by_round():
    """Both drift by a factor of 10; ATA is 2 % slower in every round."""
    batch = step.make_batch(step.TINY, CPU)
    times = {"ata": [102.0, 510.0, 1020.0], "mean": [100.0, 500.0, 1000.0]}
    ata, mean = step._rows(times, {"ata": None, "mean": None}, batch, "triton")
    assert (ata.slower_percent, ata.lower_quartile, ata.upper_quartile) == pytest.approx((2, 2, 2))
    assert ata.note.endswith("not met")
    assert (ata.step_ms, mean.step_ms, mean.slower_percent) == (510.0, 500.0, None)
    met, _ = step._rows(times | {"ata": times["mean"]}, {"ata": None, "mean": None}, batch, "triton")
    assert met.note.endswith(": met")
