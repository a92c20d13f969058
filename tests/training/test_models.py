"""The built-in models, and the user's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lethe.core.errors import FileDamaged, ParamsInvalid
from lethe.training.description import Architecture
from lethe.training.models import build_model, loss_for, probabilities


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_records_become_outputs_whatever_stands_before_them(name: str, outputs: int) -> None:
    model = build_model(Architecture(name, (8, 4), 6, outputs))
    assert model(torch.rand(5, 6)).shape == (5, outputs)
    assert model(torch.rand(5, 2, 6)).shape == (5, 2, outputs)


def test_a_new_model_favours_no_answer() -> None:
    for name in ("logistic", "mlp"):
        model = build_model(Architecture(name, (8,), 6, 1))
        assert probabilities(model(torch.rand(4, 6))).tolist() == [0.5] * 4


def test_hidden_layers_are_as_declared() -> None:
    model = build_model(Architecture("mlp", (8, 4), 6, 1))
    sizes = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    assert sizes == [8, 4, 1]


def test_losses_are_one_number_a_record() -> None:
    # log(2) at a probability of one half; log(3) at three equal classes.
    binary = loss_for(1)(torch.zeros(2, 1), torch.tensor([0.0, 1.0]))
    assert binary.tolist() == pytest.approx([0.693147, 0.693147], abs=1e-6)
    several = loss_for(3)(torch.zeros(2, 3), torch.tensor([0, 2]))
    assert several.tolist() == pytest.approx([1.098612, 1.098612], abs=1e-6)


@pytest.mark.parametrize(
    "change", [{"features": "6"}, {"hidden": [8.5]}, {"model": 3}, {"loader": "os:system"}]
)
def test_an_architecture_that_lethe_would_not_write_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FileDamaged, match="architecture"):
        Architecture.from_data(Architecture("mlp", (8, 4), 6, 3).to_data() | change)


def test_an_architecture_read_back_is_the_same() -> None:
    made = Architecture("mlp", (8, 4), 6, 3)
    assert Architecture.from_data(made.to_data()) == made


OWN = """
from torch import nn

def small(features, outputs):
    return nn.Sequential(nn.Linear(features, 3), nn.Tanh(), nn.Linear(3, outputs))

def nothing(features, outputs):
    return None
"""


def test_a_module_of_the_workspace_is_called_with_features_and_outputs(tmp_path: Path) -> None:
    (tmp_path / "own_network_a.py").write_text(OWN)
    model = build_model(Architecture("own_network_a:small", (), 6, 2), root=tmp_path)
    assert model(torch.rand(5, 6)).shape == (5, 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_network_b:large", "no function 'large'"),
        ("own_network_b:nothing", "returned NoneType"),
        ("own_network_absent:small", "no module 'own_network_absent'"),
    ],
)
def test_what_is_wrong_with_the_users_model_is_named(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "own_network_b.py").write_text(OWN)
    with pytest.raises(ParamsInvalid, match=said):
        build_model(Architecture(name, (), 6, 1), root=tmp_path)


def test_two_workspaces_with_a_module_of_one_name_have_each_its_own(tmp_path: Path) -> None:
    """Also a package, and whichever was there first."""
    text = "import torch\nfrom {helper} import WIDTH\n\n\ndef build(features, outputs):\n"
    text += "    return torch.nn.Linear(features, WIDTH)\n"
    for width in (1, 2, 3):
        root = tmp_path / str(width)
        root.mkdir()
        (root / "one_name_here.py").write_text(text.format(helper="one_helper"))
        (root / "one_helper.py").write_text(f"WIDTH = {width}\n")
    for width in (1, 2, 3, 1):
        made = build_model(
            Architecture("one_name_here:build", (), 6, 1), root=tmp_path / str(width)
        )
        assert made.weight.shape == (width, 6)
