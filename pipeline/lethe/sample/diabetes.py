"""The file Diabetes 130-US Hospitals 1999-2008: its columns, how it is fetched and read.

Source: Clore, Cios, DeShazo and Strack, UCI Machine Learning Repository, dataset 296,
    DOI 10.24432/C5230J, CC BY 4.0; described in Strack et al. (2014), BioMed Research
    International 781670.
"""

import errno
import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lethe.core.errors import DownloadFailed, NotFound, SourceUnavailable
from lethe.core.files import disk_errors, write_whole

MEMBER = "diabetic_data.csv"
SHA256 = "0689e7ec031237dc63031b938805c48377748761a3b26acab621567afa24df97"
WHERE = (
    "It is dataset 296 of the UCI Machine Learning Repository (DOI 10.24432/C5230J): copy the "
    "address of its page's download button into $LETHE_DIABETES_URL or --url, or fetch the file "
    "yourself and give --encounters FILE"
)
_MOST_BYTES = 200_000_000  # of the zip and of the file in it; they have 3 and 19 million
_TIMEOUT_SECONDS = 60

MEDICINES = (
    "metformin",
    "repaglinide",
    "nateglinide",
    "chlorpropamide",
    "glimepiride",
    "acetohexamide",
    "glipizide",
    "glyburide",
    "tolbutamide",
    "pioglitazone",
    "rosiglitazone",
    "acarbose",
    "miglitol",
    "troglitazone",
    "tolazamide",
    "examide",
    "citoglipton",
    "insulin",
    "glyburide-metformin",
    "glipizide-metformin",
    "glimepiride-pioglitazone",
    "metformin-rosiglitazone",
    "metformin-pioglitazone",
)
COLUMNS = (
    "encounter_id",
    "patient_nbr",
    "race",
    "gender",
    "age",
    "weight",
    "admission_type_id",
    "discharge_disposition_id",
    "admission_source_id",
    "time_in_hospital",
    "payer_code",
    "medical_specialty",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "diag_1",
    "diag_2",
    "diag_3",
    "number_diagnoses",
    "max_glu_serum",
    "A1Cresult",
    *MEDICINES,
    "change",
    "diabetesMed",
    "readmitted",
)
NUMBERS = frozenset(
    {
        "encounter_id",
        "time_in_hospital",
        "num_lab_procedures",
        "num_procedures",
        "num_medications",
        "number_outpatient",
        "number_emergency",
        "number_inpatient",
        "number_diagnoses",
    }
)


def read_encounters(
    path: Path, *, columns: tuple[str, ...] = COLUMNS, chunk_rows: int = 20_000
) -> Iterator[pd.DataFrame]:
    """Yields the file's rows in order, as it writes them: `?` stays, codes stay text.

    Shapes: frames of at most `chunk_rows` rows with `columns`; `NUMBERS` and `patient_nbr`
        are integers, everything else is text.

    Raises:
        NotFound: there is no such file.
        SourceUnavailable: it is another file, or a damaged one.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}. {WHERE}.")
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
    try:
        header = tuple(pd.read_csv(path, nrows=0, index_col=False).columns)
        if header != COLUMNS:
            raise _other_file(path, f"its header has {len(set(header) & set(COLUMNS))} of them")
        with pd.read_csv(
            path, usecols=list(columns), chunksize=chunk_rows, on_bad_lines="error", **options
        ) as chunks:
            for chunk in chunks:
                whole = {
                    name: chunk[name].astype("int64")
                    for name in columns
                    if name in NUMBERS or name == "patient_nbr"
                }
                yield chunk[list(columns)].assign(**whole)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        # pandas' message may quote a row; its ParserError is a ValueError.
        raise _other_file(path, f"reading it ended with {type(error).__name__}") from None


def _other_file(path: Path, fact: str) -> SourceUnavailable:
    return SourceUnavailable(
        f"{path} is not {MEMBER} with its {len(COLUMNS)} columns: {fact}. {WHERE}."
    )


def download_diabetes(target: Path, *, url: str | None = None) -> None:
    """Fetches the repository's zip file and keeps `diabetic_data.csv` of it at `target`.

    Guarantees: `target` is the published file, byte for byte, or is not touched.

    Args:
        url: where the zip file is (http, https or file); `$LETHE_DIABETES_URL` if not given.

    Raises:
        DownloadFailed: no address, no answer, or not the published file.
    """
    address = url or os.environ.get("LETHE_DIABETES_URL", "")
    if not address:
        raise DownloadFailed(f"No address to fetch {MEMBER} from. {WHERE}.")
    if address.split(":", 1)[0].lower() not in ("http", "https", "file"):
        raise DownloadFailed(f"Only http, https and file addresses are fetched. {WHERE}.")
    with disk_errors(), tempfile.TemporaryFile() as archive:
        try:
            with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - the scheme is checked above
                _copy_some(answer, archive)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            reason = getattr(error, "code", None) or type(getattr(error, "reason", error)).__name__
            raise DownloadFailed(
                f"{MEMBER} could not be fetched ({reason}): offline, or another address. {WHERE}."
            ) from None
        content = _member(archive)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DownloadFailed(
            f"{MEMBER} in the fetched zip file is not the published one (sha256 differs); nothing "
            f"was kept. {WHERE}."
        )
    write_whole(target, content)


def _copy_some(answer: Any, archive: Any) -> None:
    """Copies at most `_MOST_BYTES`: the address may be anybody's."""
    left = _MOST_BYTES
    while block := answer.read(min(1 << 20, left + 1)):
        left -= len(block)
        if left < 0:
            raise DownloadFailed(f"What the address sends is too long for that file. {WHERE}.")
        archive.write(block)


def _member(archive: Any) -> bytes:
    try:
        with zipfile.ZipFile(archive) as found:
            names = [name for name in found.namelist() if name.rsplit("/", 1)[-1] == MEMBER]
            if len(names) != 1 or found.getinfo(names[0]).file_size > _MOST_BYTES:
                raise DownloadFailed(f"There is no {MEMBER} in the fetched zip file. {WHERE}.")
            return found.read(names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise DownloadFailed(f"What was fetched is not a zip file. {WHERE}.") from None


def patient_key(numbers: np.ndarray) -> list[str]:
    """`patient_nbr` → the clinic's `patient_id`, e.g. 8222157 → `P008222157`."""
    return [f"P{number:09d}" for number in numbers.tolist()]
