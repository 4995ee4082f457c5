"""Scaling: formulas against numbers worked out by hand, a real measurement, and a projection that says so."""

import json
import math

import numpy as np
import pytest

from benchmarks import scaling, scaling_gloo, scaling_page, scaling_plan
from benchmarks.scaling_costs import (
    GLOO,
    Link,
    Sample,
    Traffic,
    check,
    doubling_all_reduce,
    fit,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    tree_broadcast,
)
from benchmarks.scaling_gathers import OPTIONS, pool
from benchmarks.scaling_model import Shapes, checkpoint_bytes, state_bytes
from benchmarks.scaling_projection import (
    GLOBAL_BATCHES,
    NEGATIVES,
    NODES,
    Assumptions,
    Fabric,
    project_checkpoint,
    project_exchanges,
    project_step,
)
from mgh_ds.common.errors import MghError

GIVEN, MISTRAL = Assumptions(), Shapes()
# Round numbers: 2 GPUs a node, 10 GB/s inside, 1 GB/s a card, 1 and 5 µs.
ROUND = Assumptions(
    gpus=2, pools=2, nvlink_gbs=10, network_gbs=1, link_efficiency=1, nvlink_us=1, network_us=5
)


@pytest.mark.parametrize(
    ("algorithm", "ranks", "traffic"),
    [
        (ring_all_gather, 4, (3, 750)),
        (ring_reduce_scatter, 4, (3, 750)),
        (ring_all_reduce, 4, (6, 1500)),
        (doubling_all_reduce, 8, (3, 3000)),
        (tree_broadcast, 4, (2, 2000)),
        (tree_broadcast, 5, (3, 3000)),
        (ring_all_reduce, 1, (0, 0)),
        (doubling_all_reduce, 1, (0, 0)),
    ],
)
def test_steps_and_bytes_of_a_kilobyte(algorithm, ranks, traffic):
    assert algorithm(ranks, 1000) == traffic


def test_a_link_adds_latency_and_bandwidth():
    assert Link(alpha=2e-6, beta=1e-9).seconds(Traffic(3, 750)) == pytest.approx(6e-6 + 0.75e-6)


def synthetic(collective: str, link: Link, noise: float, ranks: tuple[int, ...] = (2, 3)) -> list[Sample]:
    draw = np.random.default_rng(1)
    return [
        Sample(
            collective,
            n,
            960 * 4**i,
            link.seconds(GLOO[collective](n, 960 * 4**i)) * math.exp(noise * draw.normal()),
            30,
        )
        for n in ranks
        for i in range(8)
    ]


@pytest.mark.parametrize("collective", GLOO)
def test_the_fit_recovers_what_made_the_timings(collective):
    true = Link(alpha=30e-6, beta=0.8e-9)
    exact = fit(GLOO[collective], synthetic(collective, true, 0))
    assert exact == pytest.approx(true)
    noisy = fit(GLOO[collective], synthetic(collective, true, 0.05))
    assert noisy == pytest.approx(true, rel=0.1)
    assert noisy != pytest.approx(true, rel=1e-4)


def test_a_fit_is_never_negative():
    """Timings that fall with size would give a bandwidth below nothing."""
    falling = [Sample("all_gather", 2, 960 * 4**i, 1e-3 / (i + 1), 1) for i in range(5)]
    assert min(fit(GLOO["all_gather"], falling)) == 0


def test_a_check_says_how_far_off_a_prediction_is():
    samples = [Sample("all_gather", 2, 1000, seconds, 1) for seconds in (1.0, 2.0, 0.5)]
    found = check(Link(1.0, 0.0), GLOO["all_gather"], samples, "held-out sizes")
    assert (found.samples, found.median_error, found.worst_error) == (3, 0.5, 1.0)


def test_the_fit_never_sees_what_is_held_out():
    """Held-out sizes are twice as slow as the rest, and held-out ranks three times."""
    grid, true = scaling.QUICK, Link(alpha=30e-6, beta=0.8e-9)
    samples = []
    for name, algorithm in GLOO.items():
        for ranks in grid.ranks:
            for size in grid.sizes + grid.held_out:
                factor = 3 if ranks == grid.ranks[-1] else 2 if size in grid.held_out else 1
                samples.append(Sample(name, ranks, size, factor * true.seconds(algorithm(ranks, size)), 5))
    links, checks = scaling.evaluate(samples, grid)
    assert all(link == pytest.approx(true) for link in links.values())
    errors = {(each.collective, each.samples_of): each.worst_error for each in checks}
    for name in GLOO:
        assert errors[name, "fitted"] == pytest.approx(0, abs=1e-9)
        assert errors[name, "held-out sizes"] == pytest.approx(1 / 2)
        assert errors[name, "held-out ranks (3)"] == pytest.approx(2 / 3)


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
    assert sum(weight.numel() for weight in backbone.parameters()) == shapes.frozen_parameters
    model = peft.get_peft_model(backbone, peft.LoraConfig(r=shapes.rank, target_modules="all-linear"))
    adapters = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in adapters) == shapes.lora_parameters
    assert len(adapters) == shapes.lora_tensors


def test_mistral_7b():
    """Worked out by hand: a block has 2·4096² + 2·4096·1024 + 3·4096·14336 = 218,103,808 weights in linear
    layers; adapters of rank 16 have 16·(2·8192 + 2·5120 + 3·18432) = 1,310,720 a block."""
    assert MISTRAL.linear_parameters == 32 * 218_103_808
    assert MISTRAL.frozen_parameters == 32 * 218_103_808 + 32000 * 4096 + 65 * 4096 == 7_110_660_096
    assert MISTRAL.lora_parameters == 32 * 1_310_720 == 41_943_040


def test_flop_of_a_token():
    """Frozen linear layers: forward 2 FLOP a weight; a step of gradient caching passes them four times
    (cache, forward, recomputation, gradient of the inputs), with a single micro-batch three times."""
    assert MISTRAL.forward_flop(0) == 2 * (32 * 218_103_808 + 41_943_040)
    assert MISTRAL.forward_flop(256) - MISTRAL.forward_flop(0) == 4 * 256 * 4096 * 32
    frozen, adapters = 2 * 32 * 218_103_808, 2 * 41_943_040
    assert MISTRAL.step_flop(0, cached=True) == 4 * frozen + 5 * adapters
    assert MISTRAL.step_flop(0, cached=False) == 3 * frozen + 4 * adapters


def test_bytes_that_zero_2_holds_and_a_checkpoint_has():
    assert state_bytes(1000, 8) == {
        "adapter weights": 2000,
        "adapter gradients": 6000,
        "optimiser partition": 2000,
    }
    assert checkpoint_bytes(41_943_040) == 503_316_480


def test_activations_of_one_token():
    """One block of hidden 8, k and v 4 wide, 16 in the MLP: its input 16 bytes, then
    2·(6·8 + 2·4 + 4·16) = 240 bytes, and 3·(6·8 + 16) = 192 behind dropout."""
    shapes = Shapes(hidden=8, layers=1, heads=2, kv_heads=1, intermediate=16, vocabulary=9, rank=1)
    assert shapes.activation_bytes(1) == 16 + 240 + 192
    assert shapes.activation_bytes(5) == 5 * shapes.activation_bytes(1)


def test_the_documented_25_mb():
    """512 records, one negative, queries included: 512 · 3 · 4096 · 4 bytes."""
    whole = pool("whole", 512, 1, 4096, 8, symmetric=True, pools=1)
    assert whole.gathered == 512 * 3 * 4096 * 4 == 25_165_824
    assert whole.sent == 2 * whole.gathered * 7 / 8
    assert whole.held == 2 * whole.gathered


def test_what_each_way_to_gather_moves():
    """8 records of 3 documents, 2 floats wide, on 4 ranks: 8 bytes an embedding."""
    found = {option: pool(option, 8, 2, 2, 4, symmetric=False, pools=2) for option in OPTIONS}
    assert found["whole"] == (4, 192, 2 * 144, 2 * 192, 24)
    assert found["positives"] == (4, 64, 2 * 48, 2 * 64, 8 + 2)
    assert found["pools"] == (2, 96, 2 * 48, 2 * 96, 12)
    # Chunks of 48 bytes: three hops forward, three back, and gradients four.
    assert found["ring"] == (4, 192, 10 * 48, 4 * 48, 6)
    assert pool("positives", 8, 2, 2, 4, symmetric=True, pools=2).gathered == 128


def test_a_ring_over_nodes_pays_for_each_hop_and_the_slowest_link():
    fabric = Fabric(ROUND)
    assert fabric.all_gather(10_000, 1) == pytest.approx(1e-6 + 5_000 / 10e9)
    # Four ranks on two nodes: three hops, one across; both cards of a node carry a ring.
    assert fabric.all_gather(10_000, 2) == pytest.approx(2e-6 + 5e-6 + 7_500 / 2e9)
    # The pool on its way from GPU to GPU uses one card.
    assert fabric.visit(Traffic(3, 7_500), 2) == pytest.approx(7e-6 + 7_500 / 1e9)
    # Two groups of a rank a node: one hop, across, on a card of their own; on one node nothing is to gather.
    assert fabric.all_gather(10_000, 2, groups=2) == pytest.approx(5e-6 + 5_000 / 1e9)
    assert fabric.all_gather(10_000, 1, groups=2) == 0


def test_all_reduce_takes_the_quicker_algorithm():
    fabric = Fabric(ROUND)
    # Short: doubling, one step inside and one across. Long: the ring, twice the gather.
    assert fabric.all_reduce(64, 2) == pytest.approx(1e-6 + 64 / 10e9 + 5e-6 + 64 / 1e9)
    assert fabric.all_reduce(10**9, 2) == pytest.approx(2 * fabric.all_gather(10**9, 2))


def test_exchanges_and_checkpoints_of_one_and_two_nodes():
    gradients, weights = project_exchanges(MISTRAL, GIVEN, 1)
    assert (gradients.bytes, weights.bytes) == (167_772_160, 83_886_080)
    assert gradients.sent_bytes == 2 * 7 / 8 * 167_772_160
    assert gradients.network_bytes == 0
    assert gradients.seconds == pytest.approx(14 * 3.4e-6 + gradients.sent_bytes / 360e9)
    assert project_exchanges(MISTRAL, GIVEN, 2)[0].network_bytes == 2 * 15 / 16 * 167_772_160
    saved = project_checkpoint(MISTRAL, GIVEN, 1)
    assert (saved.bytes, saved.write_s, saved.copy_s) == pytest.approx((503_316_480, 0.503, 0.0201), rel=1e-2)


def test_a_step_by_hand():
    """512 records of three texts of 256 tokens on 8 GPUs: 8 micro-batches of 8 each."""
    step = project_step(MISTRAL, GIVEN, 1, 512, 1, "whole")
    flop = 64 * 3 * 256 * MISTRAL.step_flop(256, cached=True)
    assert step.compute_s == pytest.approx(flop / (989e12 * 0.4))
    assert (step.micro_batches, step.cached, step.note) == (8, True, "")
    assert step.gather_s == pytest.approx(2 * (7 * 3.4e-6 + 512 * 2 * 4096 * 4 * 7 / 8 / 360e9))
    parts = (step.compute_s, step.gather_s, step.gradient_s, step.weights_s, step.flags_s)
    assert step.step_s == pytest.approx(sum(parts))
    assert step.memory.weights == 2 * 7_110_660_096
    assert step.memory.scores == 64 * 1024 * 12 + 1024 * 4096 * 4
    assert step.memory.pool == 2 * 512 * 2 * 4096 * 4 + 2 * 64 * 3 * 4096 * 4
    assert step.memory_bytes == sum(step.memory)


def test_more_gpus_than_micro_batches_do_not_fit():
    last = project_step(MISTRAL, GIVEN, 8, 512, 1, "whole")
    assert (last.micro_batches, last.cached) == (1, False)
    beyond = project_step(MISTRAL, GIVEN, 16, 512, 1, "whole")
    assert beyond.step_s is None
    assert beyond.note == "does not fit: 64 micro-batches for 128 GPUs; global batch 1,024 would"
    assert project_step(MISTRAL, GIVEN, 16, 1024, 1, "whole").step_s is not None


def test_scores_are_held_a_block_at_a_time():
    """Of 40,960 candidates a block has 4,096, so that their gradient has 2²⁴ numbers; it meets 1,024 rows."""
    assert project_step(MISTRAL, GIVEN, 1, 8192, 4, "whole").memory.scores == 4096 * 1024 * 12 + 2**24 * 4


def test_a_small_gpu_runs_out_of_memory():
    step = project_step(MISTRAL, Assumptions(memory_gb=16), 1, 512, 1, "whole")
    assert step.note == "out of memory"


def projected():
    return scaling.make_projection(MISTRAL, GIVEN)


def test_the_projection_is_complete_and_monotone():
    steps = projected().steps
    assert len(steps) == len(NODES) * len(GLOBAL_BATCHES) * len(NEGATIVES) * len(OPTIONS)
    found = {(s.nodes, s.global_batch, s.negatives, s.gather): s for s in steps if s.step_s is not None}
    for (nodes, batch, negatives, option), step in found.items():
        more_nodes = found.get((2 * nodes, batch, negatives, option))
        if more_nodes:
            assert more_nodes.compute_s < step.compute_s
            assert more_nodes.gradient_s > step.gradient_s
            assert more_nodes.gather_s > step.gather_s
            assert more_nodes.sent_bytes > step.sent_bytes
            assert more_nodes.memory_bytes < step.memory_bytes
        larger_batch = found.get((nodes, 4 * batch, negatives, option))
        if larger_batch:
            assert larger_batch.step_s > step.step_s
            assert larger_batch.memory_bytes > step.memory_bytes
            assert larger_batch.gather_s > step.gather_s
        if negatives == 1:
            more_negatives = found[nodes, batch, 4, option]
            assert more_negatives.step_s > step.step_s
            assert more_negatives.memory_bytes > step.memory_bytes
        whole = found[nodes, batch, negatives, "whole"]
        if option != "whole":
            assert step.memory_bytes < whole.memory_bytes
        if option in ("positives", "pools"):
            assert step.gather_s < whole.gather_s
        assert 0 < step.communication_share < 1
        assert (step.nodes > 1) or step.efficiency == 1


def test_a_pool_of_8192_with_four_negatives_fits():
    steps = [s for s in projected().steps if (s.global_batch, s.negatives) == (8192, 4)]
    assert len(steps) == len(NODES) * len(OPTIONS)
    assert all(step.note == "" for step in steps)


def test_pools_that_do_not_divide_the_ranks_are_refused(tmp_path, capsys):
    with pytest.raises(MghError, match="3 pools do not divide"):
        Assumptions(pools=3)
    assert scaling.main(["--pools", "3", "--output", str(tmp_path)]) == 2
    assert "3 pools" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_real_ranks_are_measured():
    sizes = (960, 9600)
    samples = list(scaling_gloo.measure(2, sizes, repetitions=2))
    assert [(s.collective, s.bytes) for s in samples] == [(name, size) for size in sizes for name in GLOO]
    assert all(s.ranks == 2 and s.repetitions == 2 and 0 < s.seconds < 60 for s in samples)


def test_results_keep_apart_what_was_measured(tmp_path, monkeypatch, capsys):
    """The command, with made-up timings: its files say which part is a projection."""
    link = Link(alpha=30e-6, beta=0.8e-9)

    def timings(ranks, sizes, repetitions):
        for size in sizes:
            for name, algorithm in GLOO.items():
                yield Sample(name, ranks, size, link.seconds(algorithm(ranks, size)), repetitions)

    monkeypatch.setattr(scaling_gloo, "measure", timings)
    assert scaling.main(["--quick", "--output", str(tmp_path), "--mean-length", "128", "--symmetric"]) == 0
    assert "scaling-cpu-quick" in capsys.readouterr().out

    data = json.loads((tmp_path / "scaling-cpu-quick.json").read_text())
    assert list(data) == ["MEASURED", "PROJECTION"]
    assert data["MEASURED"]["plan"]["records"] == scaling.QUICK.records
    assert {"load", "load before", "torch", "device"} <= data["MEASURED"]["machine"].keys()
    assert data["MEASURED"]["fits"]["all_gather"]["alpha"] == pytest.approx(30e-6)
    assert data["PROJECTION"]["assumptions"]["mean_length"] == 128
    assert data["PROJECTION"]["assumptions"]["symmetric"] is True
    assert data["PROJECTION"]["steps"][0]["gathered_bytes"] == 25_165_824

    text = (tmp_path / "scaling-cpu-quick.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert all(line.startswith(("## MEASURED: ", "## PROJECTION: ")) for line in headings)
    assert "no GPU and no network between machines was measured" in text
    assert "does not fit: 64 micro-batches for 128 GPUs; global batch 1,024 would" in text
    for section in text.split("## ")[1:]:
        assert section.startswith("PROJECTION") == ("GPU" in section)
    assert "PROJECTION" in (tmp_path / "scaling-cpu-quick.svg").read_text()


def test_every_row_of_a_table_is_as_wide_as_its_head():
    parts = list(scaling_page._projected(projected()))
    tables = [part for part in parts if part.startswith("| ")]
    assert len(tables) == 1 + len(NEGATIVES) * len(GLOBAL_BATCHES) + 4
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_plan_is_timed_on_an_index_that_has_every_kind_of_record():
    index = scaling_plan.make_index(2000)
    assert len(np.unique(index.id_hash)) == 2000
    assert 0.3 < (index.level_counts[:, 4] > 0).mean() < 0.5
    assert ((index.level_counts > 0) == (index.level_chars > 0)).all()
    found = scaling_plan.measure_plan(20_000)
    assert found["records"] == 20_000
    assert min(found["plan_and_first_batch_s"], found["first_share_of_a_step_s"], found["share_s"]) > 0
