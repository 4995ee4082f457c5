"""Loggers are told what metrics.jsonl is told, once, over kills and resumes, without a network; and what is
wrong with one costs a line, not the run."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mgh_ds.common import files
from mgh_ds.common.config import load_config
from mgh_ds.common.errors import MghError
from mgh_ds.training.config import LoggingConfig, RunConfig
from mgh_ds.training.loggers.base import Logger
from mgh_ds.training.loggers.opening import Loggers, open_loggers
from mgh_ds.training.loggers.scalars import scalars
from mgh_ds.training.run_folder import RunFolder
from tests.ranks import run_ranks, start_ranks
from tests.training import logger_worker
from tests.training.run_worker import Fault

Figures = dict[tuple[str, int], float]

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the form that W&B takes


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """An environment in which W&B finds no key, and in which whoever would call out of the machine calls
    here; and a check that nobody did."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        home = str(tmp_path / "home")

        def check() -> None:
            with pytest.raises(BlockingIOError):
                server.accept()

        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        yield (
            {
                **proxies,
                "WANDB_BASE_URL": address,
                "HOME": home,
                "NETRC": f"{home}/netrc",
                "XDG_CONFIG_HOME": f"{home}/config",
                "XDG_CACHE_HOME": f"{home}/cache",
            },
            check,
        )


def of_metrics(config: RunConfig) -> Figures:
    entries = RunFolder(config.path).metrics.entries()
    return {(name, line["step"]): value for line in entries for name, value in scalars(line).items()}


def of_tensorboard(config: RunConfig) -> list[tuple[tuple[str, int], float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(config.path / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return [
        ((name, event.step), event.value)
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    ]


def of_wandb(file: Path) -> tuple[str, Figures]:
    """The run's id and figures in a file that W&B has written: blocks of 32 KiB, as LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    found: Figures = {}
    name = ""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record.FromString(whole)
            whole = b""
            name = record.run.run_id or name
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            step = json.loads(row.pop("step", "0"))
            found |= {(key, step): json.loads(value) for key, value in row.items() if key[0] != "_"}
    return name, found


def test_a_line_is_flattened_to_names() -> None:
    step = {
        "kind": "step",
        "step": 3,
        "stage": 1,
        "stage_name": "level 4",
        "loss": 0.5,
        "mfu": None,
        "levels": {"4": {"accuracy": 0.75, "count": 8}},
        "statistics": {"masked_share": 0.1},
    }
    assert scalars(step) == {
        "train/stage": 1.0,
        "train/loss": 0.5,
        "train/level_4/accuracy": 0.75,
        "train/level_4/count": 8.0,
        "train/masked_share": 0.1,
    }
    evaluation = {
        "kind": "evaluation",
        "step": 3,
        "scores": {"STS17": 0.8},
        "metric": "STS17",
        "levels": {"4": {"accuracy": 0.9}},
        "seconds": 2,
        "problem": None,
    }
    assert scalars(evaluation) == {
        "evaluation/STS17": 0.8,
        "evaluation/level_4/accuracy": 0.9,
        "evaluation/seconds": 2.0,
    }
    checkpoint = {"kind": "checkpoint", "step": 2, "seconds": 1.5, "bytes": 12, "copy_seconds": 0.25}
    assert scalars(checkpoint) == {
        "checkpoint/seconds": 1.5,
        "checkpoint/bytes": 12.0,
        "checkpoint/copy_seconds": 0.25,
    }
    assert scalars({"kind": "skipped", "step": 4, "reason": "x", "ids": ["a"]}) == {"train/skipped": 1.0}


def test_loggers_hold_the_metrics_once_over_a_kill(
    tiny_run: Callable[..., RunConfig], nowhere: tuple[dict[str, str], Callable[[], None]]
) -> None:
    config = tiny_run(steps=4).replace(logging=LoggingConfig(loggers=["tensorboard", "wandb"]))
    environment, check_nobody_called = nowhere
    environment |= {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}
    fault = Fault("forward", step=3, after="step-000002")
    codes, outputs = start_ranks(1, logger_worker.train, config, environment, fault, timeout=100)
    assert codes == [-9], outputs
    assert ("train/loss", 3) in of_metrics(config), "behind the checkpoint: it is trained again"
    run_ranks(2, logger_worker.train, config, environment)

    metrics = of_metrics(config)
    assert {step for _, step in metrics} == {1, 2, 3, 4}
    board = of_tensorboard(config)
    assert len(board) == len(dict(board)), "no step is there twice"
    assert dict(board).keys() == metrics.keys()
    for place, value in board:
        assert value == pytest.approx(metrics[place], rel=1e-6), "it keeps float32"

    name = files.read_json(config.path / "wandb.json")["id"]
    runs = sorted(config.path.glob("wandb/offline-run-*/*.wandb"))
    assert len(runs) == 2, "W&B has a file for each start"
    assert {file.name for file in runs} == {f"run-{name}.wandb"}, "of one run"
    assert of_wandb(runs[1]) == (name, {place: value for place, value in metrics.items() if place[1] > 2})
    check_nobody_called()
    written = [path for path in config.path.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_what_breaks_a_logger_costs_a_line(
    tiny_run: Callable[..., RunConfig], nowhere: tuple[dict[str, str], Callable[[], None]]
) -> None:
    config = tiny_run().replace(logging=LoggingConfig(loggers=["tensorboard", "wandb"]))
    (said,) = run_ranks(1, logger_worker.train_with_breaking_loggers, config, nowhere[0])
    tensorboard, wandb = [line for line in said.splitlines() if line.startswith("logger ")]
    assert tensorboard == (
        "logger tensorboard: its package is not installed: pip install 'mgh-ds[tensorboard]'; training goes "
        "on without it"
    )
    assert wandb == "logger wandb: ConnectionError: the network is gone; training goes on without it"
    lines = [line for line in RunFolder(config.path).metrics.entries() if line["kind"] == "step"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert line["mfu"] is None, "a CPU's peak is unknown"
        assert 0 < line["padding_saved"] < 1
        assert line["padding_spent"] == 0
        assert 0 <= line["wait_share"] <= 1
    summary = files.read_json(config.path / "run.json")
    assert summary["memory_bytes"] == max(line["memory_bytes"] for line in lines) > 1e7
    assert min(line["padding_saved"] for line in lines) <= summary["padding_saved"] < 1


def test_wandb_without_a_key_does_not_ask_for_one(
    tiny_run: Callable[..., RunConfig], nowhere: tuple[dict[str, str], Callable[[], None]]
) -> None:
    config = tiny_run().replace(logging=LoggingConfig(loggers=["wandb"]))
    environment, check_nobody_called = nowhere
    (said,) = run_ranks(1, logger_worker.open_and_close, config, environment | {"WANDB_MODE": "online"})
    assert said == (
        "logger wandb: it has no API key: set WANDB_API_KEY or call `wandb login` (WANDB_MODE=offline needs "
        "none); training goes on without it\n"
    )
    check_nobody_called()


class Deaf(Logger):
    def __init__(self) -> None:
        pass

    def log(self, step: int, _scalars: Any) -> None:
        raise MghError(f"it does not hear\nstep {step}")

    def close(self) -> None:
        raise OSError("its disk is full")


class Patient(Deaf):
    heard: list[int]

    def log(self, step: int, _scalars: Any) -> None:
        self.heard = [*getattr(self, "heard", []), step]


def test_one_that_raises_is_left_out_and_the_others_stay(capsys: pytest.CaptureFixture[str]) -> None:
    patient = Patient()
    with Loggers({"deaf": Deaf(), "patient": patient}) as loggers:
        for step in (1, 2):
            loggers.log({"kind": "step", "step": step, "loss": 0.5})
    assert patient.heard == [1, 2]
    assert capsys.readouterr().out.splitlines() == [
        "logger deaf: it does not hear step 1; training goes on without it",
        "logger patient: OSError: its disk is full; training goes on without it",
    ]


def test_none_is_opened_unless_it_is_named(tiny_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    with open_loggers(tiny_run(), tmp_path / "nothing", step=0) as loggers:
        loggers.log({"kind": "step", "step": 1, "loss": 0.5})
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (
            "[tensorbord]",
            "must be one of tensorboard, wandb, found 'tensorbord'; did you mean `tensorboard`?",
        ),
        ("[wandb, wandb]", "must name a logger once, found wandb, wandb"),
    ],
)
def test_a_recipe_that_names_no_logger_is_refused(value: str, fault: str) -> None:
    with pytest.raises(MghError) as refused:
        load_config(RunConfig, ["--config", "demo", "--logging.loggers", value])
    assert str(refused.value) == f"command line: logging.loggers {fault}"


def test_a_run_that_begins_anew_shows_its_first_figures_once(
    tiny_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Killed before its first checkpoint, nothing of it counts, the untrained model's scores neither."""
    from mgh_ds.training.loggers.tensorboard import TensorBoardLogger

    config = tiny_run().replace(folder=str(tmp_path))
    for value in (0.25, 0.75):
        logger = TensorBoardLogger(config.path, config, -1)
        logger.log(0, {"evaluation/value": value})
        logger.close()
        time.sleep(1.1)  # event files are told apart by the second
    assert of_tensorboard(config) == [(("evaluation/value", 0), 0.75)]
