"""Files that are written and read a tensor at a time are those of the safetensors library."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mgh_ds.common import files
from mgh_ds.common.errors import MghError
from mgh_ds.training.tensor_file import open_file, write_file

TENSORS = {
    "b/ä.weight": torch.arange(6.0).reshape(2, 3).t(),  # not contiguous
    "a": torch.tensor(-0.5),
    "none": torch.empty(0, 4),
    "c": torch.full((3, 1, 2), torch.finfo(torch.float32).max),
}


@pytest.mark.parametrize("count", range(len(TENSORS) + 1))
def test_the_library_reads_what_was_written(count: int, tmp_path: Path) -> None:
    tensors = dict(list(TENSORS.items())[:count])
    path = tmp_path / "file"
    digest = write_file(path, shapes(tensors), iter(tensors.values()).__next__)
    assert digest == files.sha256(path)
    assert_equal(load_file(path), tensors)


@pytest.mark.parametrize("count", range(len(TENSORS) + 1))
def test_what_the_library_wrote_is_read(count: int, tmp_path: Path) -> None:
    tensors = dict(list(TENSORS.items())[:count])
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "file")
    found = open_file(tmp_path / "file")
    assert found.shapes == shapes(tensors)
    assert_equal({name: found.read(name) for name in found.shapes}, tensors)


def test_tensors_come_back_in_the_order_of_the_file(tmp_path: Path) -> None:
    write_file(tmp_path / "file", shapes(TENSORS), iter(TENSORS.values()).__next__)
    assert list(open_file(tmp_path / "file").shapes) == list(TENSORS)


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, dtype=torch.bfloat16)])
def test_a_tensor_that_the_header_does_not_announce_is_refused(wrong: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"w is torch\.\w+ \[\d\], not float32 \[2\]"):
        write_file(tmp_path / "file", {"w": torch.Size([2])}, lambda: wrong)


def test_only_float32_is_read(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "file")
    with pytest.raises(MghError, match="w is BF16; a checkpoint holds F32 alone"):
        open_file(tmp_path / "file")


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"not a file of tensors")
    with pytest.raises(MghError, match=f"{tmp_path / 'file'} holds no tensors"):
        open_file(tmp_path / "file")


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor), name
