"""A served network is the trained one, without PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lethe.core.errors import FileDamaged, NotFound
from lethe.registration.matrices import Matrices, probabilities
from lethe.training import models
from lethe.training.description import Architecture


def _trained(architecture: Architecture, folder: Path, *, scale: float = 1.0) -> torch.nn.Module:
    network = models.build_model(architecture)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_().mul_(scale)
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return network


@settings(max_examples=15, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 40), max_size=3),
    features=st.integers(1, 60),
    outputs=st.integers(1, 5),
    scale=st.sampled_from([0.1, 1.0]),
)
def test_probabilities_are_those_of_pytorch_to_a_millionth(
    tmp_path_factory: pytest.TempPathFactory,
    hidden: list[int],
    features: int,
    outputs: int,
    scale: float,
) -> None:
    folder = tmp_path_factory.mktemp("model")
    kind = "mlp" if hidden else "logistic"
    architecture = Architecture(kind, tuple(hidden), features, outputs)
    network = _trained(architecture, folder, scale=scale)
    encoded = np.random.default_rng(0).uniform(-1, 1, (50, features)).astype(np.float32)
    with torch.no_grad():
        # In double precision, which neither of the two has while it multiplies.
        exact = models.probabilities(network.double()(torch.from_numpy(encoded).double()))
    served = probabilities(Matrices.load(folder, architecture)(encoded))
    np.testing.assert_allclose(served, exact.numpy().reshape(served.shape), atol=1e-6)


def test_hidden_sizes_that_a_logistic_model_does_not_use_are_no_layers(tmp_path: Path) -> None:
    architecture = Architecture("logistic", (64,), 3, 1)
    _trained(architecture, tmp_path)
    assert len(Matrices.load(tmp_path, architecture).layers) == 1


@pytest.mark.parametrize("logit", [-1e30, -800.0, 0.0, 800.0, 1e30])
def test_no_logit_overflows(logit: float) -> None:
    one = probabilities(np.array([[logit]], dtype=np.float32))
    two = probabilities(np.array([[logit, 0.0]], dtype=np.float32))
    assert one[0, 0] == pytest.approx(two[0, 0])
    assert np.isfinite(two).all() and two.sum() == pytest.approx(1.0)


def _renamed(state: dict[str, Any]) -> dict[str, Any]:
    return {"layer": state["0.weight"], "0.bias": state["0.bias"]}


@pytest.mark.parametrize(
    "change",
    [
        _renamed,
        lambda state: {"0.weight": state["0.weight"]},
        lambda state: {**state, "2.weight": state["0.weight"].clone()},
        lambda state: {**state, "0.weight": state["0.weight"].double()},
        lambda state: {**state, "0.weight": state["0.weight"].T.contiguous()},
        lambda state: {**state, "0.weight": state["0.weight"].bfloat16()},
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, change: Any) -> None:
    architecture = Architecture("logistic", (), 3, 1)
    network = _trained(architecture, tmp_path)
    save_file(change(network.state_dict()), tmp_path / "weights.safetensors")
    with pytest.raises(FileDamaged, match="not the weights"):
        Matrices.load(tmp_path, architecture)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64, b"{}", b"PK\x03\x04"])
def test_bytes_that_are_no_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(FileDamaged):
        Matrices.load(tmp_path, Architecture("logistic", (), 3, 1))
    with pytest.raises(NotFound):
        Matrices.load(tmp_path / "absent", Architecture("logistic", (), 3, 1))
