"""A draft of params.yaml: what is guessed, that it can be read, and that it holds no value."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML

from lethe.config.params import load_params
from lethe.config.undecided import DECIDE, undecided
from lethe.core.errors import LetheError, ParamsInvalid, SchemaMismatch
from lethe.stores.source.draft import draft
from lethe.stores.source.guess import guess
from lethe.stores.source.signs import quoted, shown, sign_of_name, sign_of_values
from lethe.stores.source.survey import source_address, survey
from tests.postgres import postgres_server, postgres_url, postgres_urls

__all__ = ["postgres_server", "postgres_url", "postgres_urls"]

STUDIO = """
CREATE TABLE members (member_id INTEGER PRIMARY KEY, name TEXT, Geburtsdatum DATE, reach TEXT,
    home INTEGER REFERENCES branches (branch_id), shoe_size INTEGER);
CREATE TABLE branches (branch_id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE visits (visit_id INTEGER PRIMARY KEY, member_id INTEGER REFERENCES members, day DATE,
    minutes INTEGER, came_back BOOLEAN, remarks TEXT);
CREATE TABLE answers (consent_id INTEGER PRIMARY KEY, member_id INTEGER REFERENCES members,
    asked_for TEXT, said TEXT, said_at TEXT);
INSERT INTO members VALUES (1, 'Zelda Quist', '1990-01-02', 'zelda@example.org', 1, 40),
    (2, 'Yann Ober', '1980-01-02', 'yann@example.org', 1, 41);
INSERT INTO branches VALUES (1, 'Hill Street');
INSERT INTO visits VALUES
    (1, 1, '2026-01-01', 47, 1, 'Zelda said she wants to come again next week');
INSERT INTO answers VALUES (1, 1, 'win_back', 'yes', '2026-01-01');
"""
VALUES = ("Zelda", "Quist", "1990-01", "zelda@", "Hill", "47", "win_back", "yann")
# No foreign key anywhere: links are guessed by names.
LOOSE = """
CREATE TABLE Customers (ID INTEGER, eMail TEXT);
CREATE TABLE Orders (OrderID INTEGER, CustomerID INTEGER, Total REAL);
INSERT INTO Customers VALUES (1, 'a@b.org'), (2, 'c@d.org');
INSERT INTO Orders VALUES (1, 1, 2.5), (2, 1, 2.5);
"""
COMPOSITE = """
CREATE TABLE patient (clinic TEXT, number INTEGER, full_name TEXT, PRIMARY KEY (clinic, number));
CREATE TABLE stay (stay INTEGER PRIMARY KEY, clinic TEXT, number INTEGER, days INTEGER,
    FOREIGN KEY (clinic, number) REFERENCES patient (clinic, number));
"""
ODD = """
CREATE TABLE "select" ("order" INTEGER PRIMARY KEY, "e-mail" TEXT, "yes" TEXT, "1 # 2" TEXT,
    "a: {b}" TEXT, "quote "" and \\" TEXT, "naïve\u2028\x1b[31m" TEXT, "null" INTEGER);
CREATE TABLE "no" ("a.b" INTEGER REFERENCES "select" ("order"), "x,y" INTEGER, "~" TEXT);
CREATE TABLE "Groß Geschrieben" (ID INTEGER PRIMARY KEY, "Kunden-Nr" INTEGER);
"""
EMPTY = "CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, email TEXT, plan TEXT);"
SEVERAL = """
CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, first_name TEXT);
CREATE TABLE employees (id INTEGER PRIMARY KEY, email TEXT, phone TEXT, last_name TEXT);
CREATE TABLE contacts (id INTEGER PRIMARY KEY, phone TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER, employee_id INTEGER, total REAL);
"""
NOBODY = "CREATE TABLE readings (at TEXT, celsius REAL); CREATE TABLE probes (name TEXT);"
SHAPES = {
    name: value
    for name, value in dict(globals()).items()
    if name.isupper() and isinstance(value, str) and "CREATE" in value
}

Drafted = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def drafted(tmp_path: Path) -> Drafted:
    """Makes a source, and gives the draft of it as text and as YAML reads it."""

    def make(script: str, **how: Any) -> tuple[str, dict[str, Any]]:
        with sqlite3.connect(tmp_path / "source.db") as connection:
            connection.executescript(script)
        connection.close()
        people = how.pop("people", None)
        tables, views = survey(f"sqlite:///{tmp_path / 'source.db'}", root=tmp_path, **how)
        text = draft("sqlite:///source.db", tables, views, guess(tables, people))
        return text, YAML(typ="safe", pure=True).load(text)

    return make


def _roles(raw: dict[str, Any], table: str) -> dict[str, str]:
    return {name: each["role"] for name, each in raw["tables"][table]["columns"].items()}


def test_the_draft_of_a_studio_has_people_links_identifiers_and_answers(drafted: Drafted) -> None:
    text, raw = drafted(STUDIO)
    assert raw["subject"]["table"] == "members"
    assert raw["subject"]["key"] == "member_id"
    assert raw["records"]["table"] == "visits"
    assert _roles(raw, "members") == {
        "member_id": "subject_key",
        "name": "identifier",
        "Geburtsdatum": "identifier",
        "reach": "identifier",  # by its values
        "home": "link",
    }
    assert raw["tables"]["members"]["columns"]["Geburtsdatum"]["type"] == "date"
    assert raw["tables"]["members"]["links"] == {"home": "branches.branch_id"}
    assert raw["tables"]["branches"]["about"] == "nobody"
    assert raw["tables"]["visits"]["unused"] == ["day", "minutes", "came_back", "remarks"]
    assert "remarks # text, sentences, which may name people" in text
    assert raw["consent"]["answer"] == "said"
    assert raw["consent"]["time"] == "said_at"
    assert "guessed: it has" in text
    assert [each.key for each in undecided(raw, text)] == [
        "purpose",
        "training.mechanism.expected_subjects",
    ]


def test_no_value_of_the_source_is_in_a_draft(drafted: Drafted) -> None:
    text, _ = drafted(STUDIO)
    assert not [value for value in VALUES if value in text]
    assert "reach: {role" not in drafted("SELECT 1;", values=False)[0], "no row was looked at"


def test_what_is_decided_makes_declarations_that_hold(drafted: Drafted, tmp_path: Path) -> None:
    text, _ = drafted(STUDIO)
    text = text.replace(f"purpose: {DECIDE}", "purpose: win_back")
    text = text.replace(f"expected_subjects: {DECIDE}", "expected_subjects: 500")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsInvalid, match="exactly one column must have role label"):
        load_params(tmp_path / "params.yaml")
    text = text.replace("      - came_back # boolean\n", "")
    text = text.replace("      - minutes # integer\n", "").replace(
        "      visit_id: {role: link}\n",
        "      visit_id: {role: link}\n"
        "      came_back: {role: label, type: boolean, why: what is predicted}\n"
        "      minutes: {role: feature, type: integer, bounds: [0, 180], why: how long}\n",
    )
    (tmp_path / "params.yaml").write_text(text)
    assert load_params(tmp_path / "params.yaml").label == ("visits", "came_back")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_makes_a_draft_that_the_loader_reads(
    drafted: Drafted, tmp_path: Path, shape: str
) -> None:
    """Or the loader says in one line what to decide next."""
    text, raw = drafted(SHAPES[shape])
    assert "\x1b" not in text
    for name, table in raw["tables"].items():
        assert set(table["columns"]).isdisjoint(table.get("unused", ())), name
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsInvalid) as said:
        load_params(tmp_path / "params.yaml")
    assert "line 5: decide purpose" in str(said.value)
    assert "\n" not in str(said.value)


def test_without_foreign_keys_names_lead_to_people(drafted: Drafted) -> None:
    text, raw = drafted(LOOSE)
    assert raw["subject"]["table"] == "Customers"
    assert raw["subject"]["key"] == "ID"
    assert raw["tables"]["Orders"]["links"] == {"CustomerID": "Customers.ID"}
    assert "CustomerID: Customers.ID # guessed by its name" in text


def test_a_key_of_several_columns_is_for_a_person_to_decide(drafted: Drafted) -> None:
    text, raw = drafted(COMPOSITE)
    key = ["clinic", "number"]
    assert raw["subject"] == {"table": "patient", "key": key, "minimum": 100}
    assert raw["tables"]["stay"]["links"] == {"clinic, number": "patient.clinic, patient.number"}
    assert _roles(raw, "patient") == {
        "clinic": "subject_key",
        "number": "subject_key",
        "full_name": "identifier",
    }
    assert "its primary key, which other tables refer to" in text
    assert "erase" in raw["tables"]["stay"]


def test_answers_name_people_in_the_order_of_their_key(drafted: Drafted) -> None:
    _, raw = drafted(
        COMPOSITE
        + """CREATE TABLE consents (id INTEGER PRIMARY KEY, no INTEGER, house TEXT, purpose TEXT,
        answer TEXT, at TIMESTAMP, FOREIGN KEY (no, house) REFERENCES patient (number, clinic));"""
    )
    assert raw["consent"]["subject"] == ["house", "no"]


def test_tables_that_share_the_shape_of_a_key_are_not_linked_by_it(drafted: Drafted) -> None:
    """Every table of a house's database may have its own (house_id, id)."""
    own = "house_id INTEGER REFERENCES houses, id INTEGER"
    key = "PRIMARY KEY (house_id, id)"
    _, raw = drafted(
        f"""CREATE TABLE houses (house_id INTEGER PRIMARY KEY, plan TEXT);
        CREATE TABLE users ({own}, email TEXT, {key});
        CREATE TABLE prices ({own}, cents INTEGER, {key});
        CREATE TABLE goods ({own}, weight REAL, {key});
        CREATE TABLE orders ({own}, user_id INTEGER, {key},
            FOREIGN KEY (house_id, user_id) REFERENCES users (house_id, id));"""
    )
    to_house = {"house_id": "houses.house_id"}
    assert raw["subject"]["key"] == ["house_id", "id"]
    assert raw["tables"]["goods"].get("links") == raw["tables"]["prices"].get("links") == to_house
    assert raw["tables"]["orders"]["links"] == to_house | {
        "house_id, user_id": "users.house_id, users.id"
    }


def test_a_history_of_people_is_no_table_of_people(drafted: Drafted) -> None:
    for end in ("valid_from DATE", "validFrom TEXT", "version INTEGER", "as_of TIMESTAMP"):
        name = end.split()[0]
        _, raw = drafted(
            f"""DROP TABLE IF EXISTS customers; DROP TABLE IF EXISTS accounts;
            CREATE TABLE customers (id INTEGER, {end}, email TEXT, PRIMARY KEY (id, {name}));
            CREATE TABLE accounts (a INTEGER PRIMARY KEY, id INTEGER, {end},
                FOREIGN KEY (id, {name}) REFERENCES customers);"""
        )
        assert raw["subject"]["table"] != "customers", end
        assert not isinstance(raw["subject"]["key"], list)


def test_odd_names_come_back_as_they_are(drafted: Drafted) -> None:
    text, raw = drafted(ODD)
    assert raw["subject"]["table"] == "select"
    known = {*raw["tables"]["select"]["columns"], *raw["tables"]["select"]["unused"]}
    assert known == {
        *("order", "e-mail", "yes", "1 # 2", "a: {b}", 'quote " and \\', "null"),
        "naïve\u2028\x1b[31m",
    }
    assert "links" not in raw["tables"]["no"], "a dot stands between a table and its column"
    assert "cannot be a link" in text


def test_of_several_tables_of_people_one_is_guessed_and_the_others_named(drafted: Drafted) -> None:
    text, raw = drafted(SEVERAL)
    assert raw["subject"]["table"] == "users"
    line = next(line for line in text.splitlines() if line.startswith("  table: users"))
    assert "employees" in line
    assert "contacts" in line
    _, raw = drafted("SELECT 1;", people="employees")
    assert raw["subject"]["table"] == "employees"
    assert raw["tables"]["orders"]["links"]["employee_id"] == "employees.id"


def test_where_no_table_has_people_that_is_the_question(drafted: Drafted) -> None:
    text, raw = drafted(NOBODY)
    assert raw["subject"]["table"] == DECIDE
    assert {each["about"] for each in raw["tables"].values()} == {DECIDE}
    assert "None looks like it" in text


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        *(("e_mail", "an e-mail address"), ("contactEmailAddr", "an e-mail address")),
        *(("DOB", "a date of birth"), ("birth_date", "a date of birth")),
        *(("SSN", "an official number"), ("pat_mrn", "a record number of a patient")),
        *(
            ("LASTNAME", "a person's name"),
            ("PostCode", "an address"),
            ("tel_no", "a phone number"),
        ),
        *(("filename", None), ("hotel", None), ("discriminator", None), ("cellulose", None)),
    ],
)
def test_signs_of_names(name: str, sign: str | None) -> None:
    assert sign_of_name(name) == sign


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        (["+49 30 1234567", "(030) 123-4567"], "a phone number"),
        (["123-45-6789"], "an official number"),
        (["Ada Lovelace", "Bo van Dyk", "Cy Young"], "a person's name"),
        (["12 High Street", "3a Low Lane", "Hauptstraße 7"], "an address"),
        (["10.0.0.1", "192.168.1.7"], "an address on the internet"),
        (["2020-01-01", "2020-01-02"], None),
        (["12/31/2020"], None),
        (["1200.50", "17.25"], None),
        (["yes", "no"], None),
        ([], None),
    ],
)
def test_signs_of_values(values: list[str], sign: str | None) -> None:
    assert sign_of_values(values) == sign


@pytest.mark.parametrize(
    "name", ["a b", "no", 'x"y', "\\", "\x1b[0m", "1", "", "ü", "a\nb", "\x85"]
)
def test_a_shown_name_is_read_back_and_has_no_control_character(name: str) -> None:
    assert YAML(typ="safe", pure=True).load(f"{shown(name)}: {quoted(name)}") == {name: name}
    assert shown(name).isprintable()


def test_a_file_without_a_header_is_refused_and_not_quoted(tmp_path: Path) -> None:
    for number, row in enumerate(("39, State-gov, 77516", "zoe@example.org,7", "a,2.5,b")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "people.csv").write_text(f"{row}\n{row}\n")
        with pytest.raises(SchemaMismatch, match="looks like a row") as said:
            survey(f"csv:{folder}", root=tmp_path)
        assert row[:5] not in str(said.value)


@pytest.mark.parametrize(
    "lines",
    [
        "Alice Smith,F,1980-02-03,Diabetes Typ II,London",
        "Alice Smith;F;1980-02-03;Diabetes Typ II;London",
        "Alice Smith|F|x",
        "Smith;F,Diabetes;London",
        "Alice Smith,F,Diabetes",
        "alice smith,f,diabetes",
        "alice,f,12 High Street",
        "alice,f,London 5",
        "alice,f,1980-02-03",
        "alice,f,3 Feb 1980",
        "alice,f,alice@clinic",
        "alice,f,says that it hurts when she goes far away",
        "Alice,F,Diabetes\nBob,M,Gout\nEve,F,Asthma",
        "Alice,F,Diabetes\nBob,M,Gout\nEve,U, DIABETES ",
        "Alice Birthwright,x\nBob Flint,y",
    ],
)
@pytest.mark.parametrize("values", [True, False])
def test_what_may_be_a_row_is_never_taken_for_a_header(
    tmp_path: Path, lines: str, values: bool
) -> None:
    if not values and "\n" in lines:
        lines = lines.replace("Alice,", "Alice Smith,")  # without rows nothing else shows it
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "people.csv").write_text(f"{lines}\n")
    with pytest.raises(SchemaMismatch, match=r"people\.csv") as said:
        survey(f"csv:{folder}", root=tmp_path, values=values)
    words = re.findall(r"[^\W_]{3,}", lines.splitlines()[0])
    assert not {each for each in words if each.lower() not in {"that", "when"}} & set(
        re.findall(r"\w+", str(said.value))
    )


@pytest.mark.parametrize(
    ("lines", "separator"),
    [
        (
            "Patient ID,Full Name,Date of Birth,Address Line 1\n7,Ada Quill,1980-02-03,1 Hill Lane",
            ",",
        ),
        ("id,Blood Pressure,24 hour urine,Visit 2\n7,120,3,4", ","),
        ("id,sex\n", ","),
        ("id;sex;said\n7;F;no, thanks", ";"),
        ("id\tsex\n7\tF", "\t"),
    ],
)
def test_a_header_in_words_is_one(tmp_path: Path, lines: str, separator: str) -> None:
    (tmp_path / "people.csv").write_text(f"{lines}\n")
    tables, _ = survey(f"csv:{tmp_path}", root=tmp_path, separator=separator)
    assert [each.name for each in tables[0].columns] == lines.splitlines()[0].split(separator)
    text = draft("csv:.", tables, [], guess(tables), separator=separator)
    said = YAML(typ="safe", pure=True).load(text)["source"].get("csv", {"separator": ","})
    assert said == {"separator": separator}


PLAIN_ROWS = [
    "ada,quill,aby",
    "ada,quill,aby\nbo,larkspur,ely",
    "Alice,F,Gout\nBob,M,Asthma\nEve,U,Measles",
    "ada;widowed\nbo;married",
    "ada,female,primary\nbo,male,emergency",
    "ada",
]


@pytest.mark.parametrize("lines", PLAIN_ROWS)
@pytest.mark.parametrize("values", [True, False])
def test_plain_words_are_a_header_if_somebody_says_so(
    tmp_path: Path, lines: str, values: bool
) -> None:
    separator = ";" if ";" in lines else ","
    (tmp_path / "people.csv").write_text(f"{lines}\n")
    options: dict[str, Any] = {"root": tmp_path, "values": values, "separator": separator}
    with pytest.raises(SchemaMismatch, match="--header") as said:
        survey(f"csv:{tmp_path}", **options)
    assert not {*re.findall(r"\w+", lines.lower())} & {*re.findall(r"\w+", str(said.value).lower())}
    tables, _ = survey(f"csv:{tmp_path}", header=True, **options)
    assert [each.name for each in tables[0].columns] == lines.splitlines()[0].split(separator)


@pytest.mark.parametrize("lines", ["id,fever\n", "fever,gout\n1,2\n", "a,b\n2020-01-01,x\n"])
def test_a_header_is_seen_by_its_words_or_by_the_values_below(tmp_path: Path, lines: str) -> None:
    (tmp_path / "people.csv").write_text(lines)
    assert survey(f"csv:{tmp_path}", root=tmp_path)[0]
    with pytest.raises(SchemaMismatch, match="is not looked at"):
        survey(f"csv:{tmp_path}", root=tmp_path, values=False)


def test_a_folder_a_file_and_a_database_are_addressed(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "people.csv").write_text("id,email\n1,a@b.org\n")
    (tmp_path / "x.db").touch()
    assert source_address("files", tmp_path) == "csv:files"
    assert source_address("files/people.csv", tmp_path) == "csv:files"
    assert source_address("x.db", tmp_path) == "sqlite:///x.db"
    assert source_address("postgresql://h/d", tmp_path) == "postgresql://h/d"
    with pytest.raises(ParamsInvalid, match="neither a file or folder"):
        source_address("nowhere", tmp_path)
    (tmp_path / "files" / "people.parquet").touch()
    with pytest.raises(ParamsInvalid, match="both CSV and Parquet"):
        source_address("files", tmp_path)


def test_an_empty_source_is_said_to_be(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "e.db").close()
    (tmp_path / "e.db").touch()
    with pytest.raises(LetheError, match="no table"):
        survey(f"sqlite:///{tmp_path / 'e.db'}", root=tmp_path)


def test_a_postgresql_of_many_types_and_odd_names_is_drafted(
    postgres_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            """
            CREATE TABLE "User" ("ID" uuid PRIMARY KEY, "100%" text, tags text[], spot point,
                doc jsonb, span daterange, seen inet, raw bytea, "when" timestamptz, born date,
                "naïve ?" numeric);
            INSERT INTO "User" VALUES (gen_random_uuid(), 'zoe@example.org', '{a}', '(1,2)', '{}',
                '[-infinity,infinity]', '10.0.0.1', 'x', 'infinity', '0044-03-15 BC', 'NaN');
            CREATE TABLE "order" (id serial PRIMARY KEY, "UserID" uuid REFERENCES "User");
            CREATE VIEW everybody AS SELECT * FROM "User";
            """
        )
    tables, views = survey(postgres_url, root=tmp_path)
    text = draft("env:X", tables, views, guess(tables))
    raw = YAML(typ="safe", pure=True).load(text)
    assert raw["subject"]["table"] == "User"
    assert raw["tables"]["order"]["links"] == {"UserID": "User.ID"}
    assert _roles(raw, "User") == {"ID": "subject_key", "100%": "identifier", "born": "identifier"}
    assert "tags # text[]" in text
    assert "which may be declared as tables are: everybody" in text
    assert not [value for value in ("zoe", "10.0.0.1", "0044") if value in text]
