from lethe.config.sections import Budget as Budget
from lethe.core.errors import LetheError as LetheError
from lethe.data.batches import PersonData as PersonData
from lethe.face.price import epsilon as epsilon
from lethe.face.train import train as train
from lethe.face.workspace import Workspace as Workspace
from lethe.face.workspace import audit as audit
from lethe.ledger.ledger import Ledger as Ledger
from lethe.privacy.plan import Plan as Plan

__version__: str
__all__ = [
    "Budget",
    "Ledger",
    "LetheError",
    "PersonData",
    "Plan",
    "Workspace",
    "audit",
    "epsilon",
    "train",
]
