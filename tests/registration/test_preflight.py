"""What `lethe check` finds that would otherwise end a run late."""

import dataclasses
from pathlib import Path

import pytest

from lethe.config.params import Params, load_params
from lethe.core.errors import BudgetExceeded, LetheError, ParamsInvalid, TrainingRefused
from lethe.registration.preflight import refuse_unbuildable, refuse_unpayable, refuse_unwritable
from tests.library import declare


def _declared(root: Path, **changes: object) -> Params:
    return dataclasses.replace(declare("sqlite:///x.db", **changes), root=root)


@pytest.mark.parametrize("folder", ["data", "model", "reports", "receipts", ".lethe"])
def test_a_folder_that_is_a_file_is_named(tmp_path: Path, folder: str) -> None:
    refuse_unwritable(_declared(tmp_path))
    (tmp_path / folder).write_text("a file")
    with pytest.raises(ParamsInvalid, match=f"{folder} is not a folder"):
        refuse_unwritable(_declared(tmp_path))


def test_a_store_without_a_place_is_named_and_all_are_at_once(tmp_path: Path) -> None:
    (tmp_path / "away").symlink_to(tmp_path / "unmounted")
    (tmp_path / "ledger.db").mkdir()
    params = _declared(
        tmp_path,
        stores={"vault": "sqlite:///away/vault.db", "ledger": "sqlite:///ledger.db"},
    )
    with pytest.raises(ParamsInvalid) as said:
        refuse_unwritable(params)
    assert "stores.vault (vault.db): away is not a folder" in str(said.value)
    assert "stores.ledger (ledger.db): there is a folder" in str(said.value)


def test_a_folder_of_somebody_else_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "model")
    (tmp_path / "model").mkdir()
    with pytest.raises(ParamsInvalid, match="model: model is not yours to write"):
        refuse_unwritable(_declared(tmp_path))


@pytest.mark.parametrize(
    "mechanism",
    [
        {"epsilon": None, "noise_multiplier": 0.2},
        {"epsilon": 0.9, "accountant": "pld", "sample_rate": 0.5, "steps": 50},
        {"epsilon": None, "noise_multiplier": 1.0, "sample_rate": 1.0, "steps": 200},
        {"epsilon": None, "noise_multiplier": 0.5, "noise": "discrete"},
    ],
    ids=["little noise", "pld is below rdp", "many steps", "discrete"],
)
def test_a_run_that_nobody_can_pay_is_refused(tmp_path: Path, mechanism: dict[str, object]) -> None:
    """Also where PLD solved for the budget's own epsilon: the budget is held to RDP."""
    changes = {f"training__mechanism__{name}": value for name, value in mechanism.items()}
    refuse_unpayable(_declared(tmp_path))
    with pytest.raises(BudgetExceeded, match="nobody can pay"):
        refuse_unpayable(_declared(tmp_path, budget__epsilon=0.9, **changes))


MODELS = {
    "absent": ("", ParamsInvalid, "no module 'net'"),
    "no function": ("x = 1", ParamsInvalid, "no function 'build'"),
    "no Python": ("def build(:", ParamsInvalid, r"SyntaxError at net\.py:1"),
    "fails at import": ("1 / 0", ParamsInvalid, r"ZeroDivisionError at net\.py:1"),
    "signature": ("def build(features): ...", ParamsInvalid, "TypeError"),
    "returns none": ("def build(features, outputs): ...", ParamsInvalid, "NoneType"),
    "outputs": ("return nn.Linear(features, outputs + 1)", ParamsInvalid, r"makes \(3, 2\)"),
    "features": ("return nn.Linear(features + 1, outputs)", ParamsInvalid, "cannot take 3 records"),
    "mixes people": (
        "return nn.Sequential(nn.BatchNorm1d(features), nn.Linear(features, outputs))",
        TrainingRefused,
        "BatchNorm1d",
    ),
    "mixes people while it trains": (
        """from torch import nn

class Standardized(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0) + 1e-3) if self.training else x

def build(features, outputs):
    return nn.Sequential(Standardized(), nn.Linear(features, outputs))
""",
        TrainingRefused,
        r"layer 0 \(Standardized\) gives, in a batch of \d+ in training mode",
    ),
    "mixes people of larger batches": (
        """from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0) if len(x) > 2 else x)

def build(features, outputs):
    return Net(features, outputs)
""",
        TrainingRefused,
        "people mix",
    ),
    "is of double precision": (
        "return nn.Linear(features, outputs).double()",
        TrainingRefused,
        "float64",
    ),
    "sound": ("return nn.Sequential(nn.Linear(features, 4), nn.Linear(4, outputs))", None, ""),
}


@pytest.mark.parametrize("what", MODELS)
def test_a_network_of_ones_own_is_tried_before_people_are_charged(
    tmp_path: Path, what: str
) -> None:
    code, error, message = MODELS[what]
    if code.startswith("return"):
        code = f"from torch import nn\n\n\ndef build(features, outputs):\n    {code}\n"
    if code:
        (tmp_path / "net.py").write_text(code)
    params = _declared(tmp_path, training__model="net:build")
    if error is None:
        refuse_unbuildable(params)
        return
    with pytest.raises(error, match=message) as said:
        refuse_unbuildable(params)
    assert isinstance(said.value, LetheError)
    assert "\n" not in str(said.value)


def test_a_network_that_could_not_be_loaded_where_it_is_served_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "loose_part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "away")
    body = "def build(features, outputs):\n    return nn.Linear(features, outputs)\n"
    (tmp_path / "net_of_parts.py").write_text(
        f"import loose_part\nfrom torch import nn\n\n\n{body}"
    )
    with pytest.raises(ParamsInvalid, match="loose_part"):
        refuse_unbuildable(_declared(tmp_path, training__model="net_of_parts:build"))


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a:b", ".", "..", "../up", "n" * 257, "two\nlines", " padded"]
)
def test_a_name_that_the_registry_refuses_is_refused(name: str) -> None:
    with pytest.raises(ParamsInvalid, match="registration: name must be one that the registry"):
        declare("sqlite:///x.db", registration__name=name)


def test_names_that_the_registry_takes_are_taken() -> None:
    for name in ("win-back", "Rückkehr 2", "it's", "a.b", "n" * 256):
        assert declare("sqlite:///x.db", registration__name=name).registration.name == name


@pytest.mark.parametrize("days", [0, -1, 73_051, 10**9, 10**30])
def test_a_retention_that_no_calendar_has_is_refused(days: int) -> None:
    with pytest.raises(ParamsInvalid, match=r"retention\.days"):
        declare("sqlite:///x.db", tables__loans__retention__days=days)
    erase = {"action": "retain", "basis": "a law", "days": days}
    with pytest.raises(ParamsInvalid, match=r"erase\.days"):
        declare("sqlite:///x.db", tables__loans__erase=erase)


@pytest.mark.parametrize("snapshot", [2026, 1.5e9, "1700000000", "soon", "2026-13-01", True, []])
def test_a_snapshot_that_is_no_date_is_refused(snapshot: object) -> None:
    with pytest.raises(ParamsInvalid, match="snapshot: it is no date"):
        declare("sqlite:///x.db", snapshot=snapshot)


def test_a_day_that_the_calendar_lacks_is_refused_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("snapshot: 2026-02-30\n")
    with pytest.raises(ParamsInvalid, match="cannot be read as YAML"):
        load_params(tmp_path / "params.yaml")
    for written in ("2026-06-01", "2026-06-01T12:00:00+02:00", "20260601"):
        assert str(declare("sqlite:///x.db", snapshot=written).snapshot).startswith("2026-06-01")
