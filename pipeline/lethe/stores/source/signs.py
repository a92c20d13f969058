"""Signs that a column points at a person: in its name, and in what a few of its values look like.

They are hints for a draft that a person reads, and never decide whether anything may be read.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address

from lethe.core.values import number_of

_WORD = re.compile(r"[^\W\d_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

PEOPLE = frozenset(
    {
        *("patient", "customer", "client", "member", "person", "people", "user", "subject"),
        *("student", "pupil", "citizen", "resident", "participant", "donor", "voter", "applicant"),
        *("borrower", "subscriber", "passenger", "guest", "contact", "player", "holder", "buyer"),
        *("consumer", "insured", "tenant", "respondent", "individual", "human", "visitor"),
        *("kunde", "mitglied", "cliente", "paciente", "personne", "utilisateur"),
    }
)
STAFF = frozenset(
    {
        *("employee", "staff", "worker", "doctor", "physician", "provider", "nurse", "teacher"),
        *("clinician", "driver", "agent", "seller", "author", "artist", "actor", "owner"),
    }
)
NAME, ADDRESS = "a person's name", "an address"
_KINDS_OF_NAME = r"first|last|full|given|family|middle|maiden|sur|fore|nick|display"
_WHOSE_NAME = r"patient|customer|client|member|person|student|employee|contact|holder|user"
_WHOSE_ADDRESS = r"home|billing|shipping|postal|mailing"
_PARTS = (
    r"address|addr|street|streetname|postcode|postalcode|zip|zipcode|strasse|straße|plz|adresse"
)
# Of a name's letters and digits together, whatever stands between them.
_BY_NAME = (
    ("an e-mail address", r"e?mails?(?!ing)|mailaddress"),
    ("a phone number", r"phone|telefon|^(mobile|tel|fax|cell|handy)(no|num|number)?$"),
    ("a date of birth", r"birth|^dob$|^born$|dateofb|geburt|naissance|nacimiento|bday"),
    (
        "an official number",
        r"ssn|socialsec|nationalid|nino$|^nhs|passport|licen[cs]e(no|num|$)|tax(id|num)|iban"
        r"|personnummer|steuer(id|num)|creditcard|cardnum|accountnum|^sin$",
    ),
    ("a record number of a patient", r"^mrn|mrn$|medicalrec|chartnum|hospitalnum"),
    (
        NAME,
        rf"({_KINDS_OF_NAME})names?$|({_WHOSE_NAME})name$|^names?$"
        r"|^(vorname|nachname|nom|prenom|apellidos?|nombre|initials)$",
    ),
    (ADDRESS, rf"^({_WHOSE_ADDRESS})?({_PARTS})(line)?(\d+|one|two)?$|addressline"),
    ("an address on the internet", r"^(ip|ipaddr|ipaddress|macaddress|deviceid|username|login)$"),
)
_TOWN = re.compile(rf"({_WHOSE_ADDRESS})?(city|town|village|ort|stadt)")
_DATE = re.compile(r"(\d{4}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2})[-./](\d{4}|\d{1,2})(\D.*)?")
_PHONE = r"(?=(?:\D*\d){7,15}\D*$)(?:\+|\(|0)?[\d()]+(?:[ ().\-/]+\d+)+|\+\d{7,15}"
_OFFICIAL = r"\d{3}-\d{2}-\d{4}|[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}.{0,3}"
_BY_VALUE = (
    ("an e-mail address", re.compile(r"[^@\s]+@[^@\s]+\.\w{2,}")),
    ("an official number", re.compile(_OFFICIAL)),
    ("a phone number", re.compile(_PHONE)),
)
_NAMES = re.compile(r"[^\W\d_a-z][\w'’-]*\.?(?:,? [^\W\d_][\w'’-]*\.?){1,3}")
_ADDRESS = re.compile(r"\d+[\w/-]{0,4},? [^\W\d_].{3,}|[^\W\d_][^\d]{3,} \d+\s?\w?")
# Words of headers: a name of a column that is made of these alone is no person's.
_HEADER = """
    a account address adm admission age alternative amount and annual answer area at average birth
    blood body care cause city class clinic code comment condition consent contact count country
    created current daily date day days death degree department description diagnosis discharge
    district dose drug duration e education email emergency employment end ethnic ethnicity event
    family fax file first flag for from full gender given group heart height highest home hospital
    hour hours house id identifier in income index insurance is job key kind known label last
    latest length level line lab location maiden main male female marital mail max maximum mean
    measure medical medication method middle min minimum mobile month name names national new nhs
    no note notes number nr of on order origin other outcome paid parent patient payment per person
    phone place plan postal postcode pressure previous price primary procedure product province
    purpose quantity race rate reason record reference region relation relationship remarks result
    results risk role room score secondary sex size smoking social source specialty stage start
    state status stay street subject sum surname systolic diastolic telephone temperature test time
    title to total town treatment type unit updated user value version visit ward weight work year
    years zip
"""
_HEADER_WORDS = frozenset(_HEADER.split())
# Of these, what is hardly ever a value (a state, a place, an answer).
_KNOWN_HEADER = """
    address age birth code comment date email gender id identifier key name nr number phone postcode
    purpose quantity sex size subject surname telephone timestamp title type uuid year zip
"""
_OF_HEADERS = frozenset(_KNOWN_HEADER.split())
_LONGEST_HEADER = 6  # blanks in a name of a column
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_MOST, _FEW = 0.6, 0.5


def words(name: str) -> list[str]:
    """The words of a name in lower case, however they are put together."""
    return [each.lower() for each in _WORD.findall(_HUMP.sub(" ", name))]


def singular(word: str) -> str:
    """A plural of English as one of them; a word that is none may lose its end."""
    if word in ("people", "persons"):
        return "person"
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def plain_name(name: str) -> str:
    """A name without case and without what stands between its words; digits stay."""
    return "".join(each for each in name.casefold() if each.isalnum())


def shown(name: str) -> str:
    """A name of the source as YAML has it, and as it may be on a terminal."""
    return name if _PLAIN.fullmatch(name) and name.lower() not in _YAML_WORDS else quoted(name)


def quoted(text: str) -> str:
    """A text in YAML's double quotes; no control character is left in it."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def sign_of_name(name: str) -> str | None:
    """What a column would be by its name; None where that is no sign."""
    whole = plain_name(name)
    return next((sign for sign, form in _BY_NAME if re.search(form, whole)), None)


def is_town(name: str) -> bool:
    """Whether a column is part of an address, where there is one beside it."""
    return _TOWN.fullmatch(plain_name(name)) is not None


def sign_of_values(values: Sequence[str]) -> str | None:
    """What most of a few values look like; None where that is no sign."""
    kept = [value.strip() for value in values if value.strip()]
    if not kept:
        return None
    if sum(map(_is_internet, kept)) >= _FEW * len(kept):
        return "an address on the internet"
    undated = [value for value in kept if not _DATE.fullmatch(value)]
    for sign, form in _BY_VALUE:
        if sum(bool(form.fullmatch(each)) for each in undated) >= _FEW * len(kept):
            return sign
    if len(kept) > 2 and len(set(kept)) >= 0.8 * len(kept):
        for sign, form in ((ADDRESS, _ADDRESS), (NAME, _NAMES)):
            if sum(bool(form.fullmatch(each)) for each in undated) >= _MOST * len(kept):
                return sign
    return None


def may_be_value(name: str, below: Sequence[str]) -> bool:
    """Whether what stands for a column's name may be a value: in doubt it may.

    Args:
        below: some values of the column; where there are none, the name alone decides.
    """
    text = name.strip()
    if number_of(text) is not None or "@" in text or _DATE.fullmatch(text):
        return True
    if sign_of_values([text]) or text.count(" ") > _LONGEST_HEADER:
        return True
    kept = [value.strip() for value in below if value.strip()]
    if text and text.casefold() in {value.casefold() for value in kept}:
        return True
    if not _is_name_or_address(text) or set(words(text)) <= _HEADER_WORDS:
        return False
    return not kept or any(map(_is_name_or_address, kept))


def is_header(name: str, below: Sequence[str]) -> bool:
    """Whether a name that may be a value (see `may_be_value`) is none; in doubt it is not.

    Args:
        below: some values of the column.
    """
    kept = [value.strip() for value in below if value.strip()]
    other = kept and all(number_of(each) is not None or _DATE.fullmatch(each) for each in kept)
    return bool(other or sign_of_name(name) or set(words(name)) & _OF_HEADERS)


def _is_name_or_address(text: str) -> bool:
    return any(form.fullmatch(text.title()) for form in (_NAMES, _ADDRESS))


def are_texts(values: Sequence[str]) -> bool:
    """Whether values read like sentences: whatever is written there may name somebody."""
    kept = [value for value in values if value.strip()]
    return bool(kept) and sum(value.count(" ") for value in kept) > 6 * len(kept)


def _is_internet(value: str) -> bool:
    try:
        return value.count(".") == 3 and bool(ip_address(value))
    except ValueError:
        return False
