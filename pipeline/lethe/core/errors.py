"""What can go wrong for a user: one exception and one exit code each.

A message names the fact, the values (never a personal one) and the next step.
`docs/exit-codes.md` lists the codes; a test compares the two.
"""


class LetheError(Exception):
    """Base of every error a user can meet; the command prints it as one line.

    Its text names the fact, the values and the next step, and never a value of a person.

    >>> import lethe
    >>> try:
    ...     lethe.epsilon(sample_rate=2.0, steps=1, noise_multiplier=1.0)
    ... except lethe.LetheError as error:
    ...     print(error)
    The sample rate is 2; no step can draw more than everybody (1).

    Attributes:
        exit_code: what the command ends with; every class has its own.
    """

    exit_code = 1


class ParamsInvalid(LetheError):
    """`params.yaml` is not YAML, has an unknown key or an impossible value."""

    exit_code = 10


class SourceUnavailable(LetheError):
    """The source database or folder does not answer."""

    exit_code = 11


class SchemaMismatch(LetheError):
    """A table or column is declared but absent, or present but undeclared."""

    exit_code = 12


class ValueOutsideDomain(LetheError):
    """A value lies outside its declared domain and the policy is `reject`."""

    exit_code = 13


class SubjectKeyInvalid(LetheError):
    """A subject key is null or duplicated, or a record links to no subject."""

    exit_code = 14


class ConsentInvalid(LetheError):
    """A consent row is for an unknown subject, has an unknown answer or lies in the future."""

    exit_code = 15


class TooFewSubjects(LetheError):
    """Fewer subjects than the declared minimum."""

    exit_code = 16


class NobodyConsents(LetheError):
    """No subject's latest answer for the purpose is yes."""

    exit_code = 17


class NotFinite(LetheError):
    """NaN or infinity in a feature, a loss or a gradient."""

    exit_code = 18


class KeyInvalid(LetheError):
    """The key is missing, malformed, or its file is readable by others."""

    exit_code = 19


class VaultMismatch(LetheError):
    """The vault belongs to another key or workspace, is damaged, or is gone."""

    exit_code = 20


class DiskFull(LetheError):
    """No space is left on a device that the run writes to."""

    exit_code = 21


class ValidationFailed(LetheError):
    """The validation suite found data that breaks the declarations."""

    exit_code = 22


class BudgetExceeded(LetheError):
    """The run would spend more than a person's privacy budget."""

    exit_code = 23


class AuditContradiction(LetheError):
    """An attack or the mechanism check contradicts the privacy claim."""

    exit_code = 24


class AuditIncomplete(LetheError):
    """Nothing contradicts the claim, but a part of what it rests on could not be looked at."""

    exit_code = 42


class RegistrationRefused(LetheError):
    """A condition of the registration gate does not hold."""

    exit_code = 25


class NotFound(LetheError):
    """Nothing is known by that name."""

    exit_code = 26


class DownloadFailed(LetheError):
    """A public file could not be fetched, or is not the expected one."""

    exit_code = 27


class Busy(LetheError):
    """Another run holds the workspace, the ledger or the database."""

    exit_code = 29


class LedgerInvalid(LetheError):
    """The ledger is damaged, rolled back, another workspace's, of a newer schema, or gone."""

    exit_code = 30


class TrainingRefused(LetheError):
    """The model or the plan cannot be trained with the guarantee that is claimed."""

    exit_code = 31


class RunSpent(LetheError):
    """A run ended without a model and is charged; the same request again is another run."""

    exit_code = 44


class NotRecorded(LetheError):
    """What a training must leave for its audit cannot be written; it goes on once it can."""

    exit_code = 45


class StoreUnavailable(LetheError):
    """DVC's cache or remote, or the registry, does not answer or cannot be looked through whole."""

    exit_code = 32


class PublicationRefused(LetheError):
    """What a run made cannot become what its workspace releases; nothing was changed there."""

    exit_code = 34


class RequestsOpen(LetheError):
    """People's requests are still open, with a reason each; the next run goes on with them."""

    exit_code = 36


class RetentionOpen(LetheError):
    """Rows past their retention have not left everywhere yet; the next run goes on with them."""

    exit_code = 39


class ReceiptInvalid(LetheError):
    """A receipt was changed, is missing from its chain, or is signed by another key."""

    exit_code = 37


class ProcessLost(LetheError):
    """A process of a training over several ended, or does not answer."""

    exit_code = 38


class ErasureRefused(LetheError):
    """The source cannot lose the person as `params.yaml` declares; nothing was changed."""

    exit_code = 33


class RunEnded(LetheError):
    """What a stage in a pod starts from is not there, or not what it was; its run is over."""

    exit_code = 35


class ApprovalRefused(LetheError):
    """A version cannot be promoted by this person, or not any more."""

    exit_code = 40


class FileDamaged(LetheError):
    """A file of Lethe's own is damaged, foreign, or not the one that dvc.lock names."""

    exit_code = 41


class NothingToDo(LetheError):
    """No request is open that the step could work on."""

    exit_code = 43
