"""The whole pipeline on real records: time, memory, and accuracy with and without privacy."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyroaring import BitMap

from benchmarks.timing import Row
from lethe.config import private_reports
from lethe.config.params import load_params
from lethe.config.workspace import MANIFEST, PLAN, SHARDS, report_path
from lethe.core.files import read_json
from lethe.data.batches import held_out_records, person_data
from lethe.data.encoding import Encoder
from lethe.data.shards import shard_paths
from lethe.privacy.plan import Plan
from lethe.training.dpsgd_fit import task_of
from lethe.training.evaluate import evaluate
from lethe.training.loop import train_plain

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def measure(encounters: Path) -> list[Row]:
    """Runs the project's own declarations in a fresh clone."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lethe"
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True)
        shutil.copy(PROJECT / "params.yaml", root / "params.yaml")
        _lethe(root, "compile")  # the code that runs may not be committed
        _lethe(root, "key")
        _lethe(root, "sample", "--encounters", str(encounters))
        start = time.perf_counter()
        _lethe(root, "run")
        first = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        start = time.perf_counter()
        _lethe(root, "run")
        again = time.perf_counter() - start
        os.chdir(root)  # the stages' files are found from the working directory
        try:
            trained = read_json(report_path("train"))
            exact = private_reports.read(root, "train")  # charged figures are too noisy to compare
            plain = _without_privacy()
        finally:
            os.chdir(here)
    auc = exact["metrics"]["auc"]
    return [
        ("the pipeline on real records, s", f"{first:.0f}", "≤ 300"),
        ("peak memory of its largest process, GiB", f"{peak:.2f}", "≤ 3"),
        ("the pipeline again, nothing changed, s", f"{again:.0f}", ""),
        ("person-level epsilon (PLD), delta 1e-5", f"{trained['epsilon_pld']:.4f}", "≤ 1.0"),
        ("AUC on held-out people", f"{auc:.4f}", "≥ 0.648"),
        ("the same network without privacy", f"{plain:.4f}", ""),
        ("what privacy costs, AUC", f"{plain - auc:.4f}", "≤ 0.005"),
    ]


def _lethe(root: Path, *words: str) -> None:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        [str(BIN / "lethe"), *words], cwd=root, env=environment, check=True, capture_output=True
    )


def _without_privacy() -> float:
    """The same people, network, draws and optimizer; neither clip nor noise. Not released."""
    params = load_params()
    plan = Plan.from_data(read_json(PLAN))
    encoder = Encoder.from_params(params)
    paths = shard_paths(SHARDS)
    data = person_data(
        paths,
        encoder,
        admitted=BitMap.deserialize(MANIFEST.read_bytes()),
        records_per_person=plan.records_per_person,
    )
    task = task_of(params.training, plan, encoder, data, root=params.root)
    model = train_plain(task, params.training.optimizer)
    found = evaluate(model, held_out_records(paths, encoder), classes=len(encoder.classes))
    return found.metrics["auc"]
