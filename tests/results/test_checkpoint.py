import numpy as np
import pytest
from safetensors.numpy import save_file

from emsfl.errors import RunFolderError
from emsfl.results import read_checkpoint, write_checkpoint


def test_arrays_and_note_come_back_bit_for_bit(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "weights": random.normal(size=(3, 4)).astype(np.float32),
        "transposed view": random.normal(size=(4, 5)).T,
        "every other": np.arange(10)[::2],
        "scalar": np.array(7.5),
        "empty": np.zeros((0, 3), dtype=np.int64),
        "flags": np.array([True, False]),
    }
    meta = {
        "generator": random.bit_generator.state,
        "next_event_s": float("inf"),
        "time_s": 0.1 + 0.2,
        "queue": [["upload", 3]],
    }
    write_checkpoint(tmp_path / "checkpoints" / "a.safetensors", arrays, meta)
    back, note = read_checkpoint(tmp_path / "checkpoints" / "a.safetensors")
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)
    assert note == meta


def test_equal_checkpoints_have_equal_bytes(tmp_path):
    arrays = {name: np.arange(3.0) for name in ("b", "a", "c")}
    write_checkpoint(tmp_path / "1", arrays, {"x": 1, "y": 2})
    write_checkpoint(tmp_path / "2", arrays, {"x": 1, "y": 2})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"x": np.ones(2)}, {"step": 1})
    with pytest.raises(TypeError):
        write_checkpoint(path, {"x": np.zeros(2)}, {"step": object()})
    assert read_checkpoint(path)[1] == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(RunFolderError, match="does not exist"):
        read_checkpoint(path)
    path.write_bytes(b"garbage")
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_checkpoint(path)
    save_file({"x": np.ones(2)}, path)
    with pytest.raises(RunFolderError, match="not a checkpoint of emsfl"):
        read_checkpoint(path)
