"""The demonstration clinic's tables: the ones that the project's `params.yaml` declares."""

from lethe.sample.diabetes import COLUMNS, NUMBERS
from lethe.stores.source.demonstration import NewTable, SqlType


def _encounter_columns() -> dict[str, SqlType]:
    columns: dict[str, SqlType] = {}
    for name in COLUMNS:
        if name == "patient_nbr":
            columns |= {"patient_id": "text", "admitted_at": "timestamp"}
        else:
            columns[name] = "integer" if name in NUMBERS else "text"
    return columns


PATIENTS = NewTable(
    name="patients",
    key="patient_id",
    columns={
        "patient_id": "text",
        "full_name": "text",
        "email": "text",
        "phone": "text",
        "street": "text",
        "city": "text",
        "postcode": "text",
        "birth_date": "date",
        "registered_at": "timestamp",
    },
)
ENCOUNTERS = NewTable(
    name="encounters",
    key="encounter_id",
    columns=_encounter_columns(),
    references={"patient_id": "patients.patient_id"},
    indexes=("admitted_at",),
)
NOTES = NewTable(
    name="notes",
    key="note_id",
    columns={
        "note_id": "integer",
        "encounter_id": "integer",
        "patient_id": "text",
        "written_at": "timestamp",
        "text": "text",
    },
    references={
        "encounter_id": "encounters.encounter_id",
        "patient_id": "patients.patient_id",
    },
)
INVOICES = NewTable(
    name="invoices",
    key="invoice_id",
    columns={
        "invoice_id": "integer",
        "patient_id": "text",
        "encounter_id": "integer",
        "issued_at": "timestamp",
        "amount_cents": "integer",
        "billed_to": "text",
    },
    references={
        "patient_id": "patients.patient_id",
        "encounter_id": "encounters.encounter_id",
    },
    loose=("patient_id", "encounter_id"),  # an invoice outlives the patient's file
)
CONSENTS = NewTable(
    name="consents",
    key="consent_id",
    columns={
        "consent_id": "integer",
        "patient_id": "text",
        "purpose": "text",
        "answer": "text",
        "answered_at": "timestamp",
    },
    references={"patient_id": "patients.patient_id"},
)
TABLES = (PATIENTS, ENCOUNTERS, NOTES, INVOICES, CONSENTS)
