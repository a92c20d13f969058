"""A draft of `params.yaml` from what a source was found to have: guesses beside their reasons.

Guarantees: it holds names and types of the schema, and no value of the data. What only a person can
know says `<decide>`, with the question behind it; everything that is not a key, a link, an
identifier or an answer to consent is `unused`, and so never read.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from lethe.config.tables import Link
from lethe.config.undecided import DECIDE
from lethe.stores.source.guess import Consents, Guess, Guesses
from lethe.stores.source.signs import quoted, shown
from lethe.stores.source.survey import SeenColumn, SeenTable

_HEAD = """\
# Drafted by `lethe init` from the names and types of the source; no value of it stands here.
# `{decide}` waits for you, and every other line is a guess to be read. `lethe check` says what is
# next. Every key: `lethe check` names those that it does not know, docs/own-database.md explains.
"""
_TAIL = """\
validation: {max_missing_share: 0.2}

budget: # what one person may lose over all runs together: decide it before anything is trained
  epsilon: 4.0
  delta: 1.0e-5 # below 1 / expected_subjects
  over_budget: refuse # or leave_out

training:
  model: logistic # or mlp, or module:function of your own
  held_out: 0.2 # of the people, to measure on
  mechanism:
    epsilon: 1.0 # for one run; Lethe solves for the noise
    records_per_person: 1 # how many records of one person may be learned from
    expected_subjects: {decide} # how many people will train? A public estimate, never counted here
    sample_rate: 0.1
    steps: 300
    clip_norm: 1.0
  optimizer: {learning_rate: 1.0, momentum: 0.9}

audit: {subjects: 1000}
reporting: {epsilon: 0.25, granularity: 100}
registration: {name: model, promote: manual} # the model's name in the registry; or automatic
"""


def draft(
    url: str,
    tables: Sequence[SeenTable],
    views: Sequence[str],
    guesses: Guesses,
    *,
    separator: str = ",",
) -> str:
    """The text of `params.yaml`.

    Args:
        url: as it may stand in a file: `env:NAME` where it has a password.
        separator: of the fields of CSV files.
    """
    form = "" if separator == "," else f"  csv: {{separator: {quoted(separator)}}}\n"
    parts = [
        _HEAD.replace("{decide}", DECIDE),
        f"purpose: {DECIDE} # what for, in the words that people were asked in?\n",
        f"source:\n  url: {quoted(url)}\n  time_zone: UTC # of times that say none\n{form}",
        _subject(guesses) + "  minimum: 100 # fewer people than this stop the pipeline\n",
        _section("records", [("table", guesses.records)])
        + "  # latest_by: a column that orders a person's records\n",
        "shards: 4\n",
        "tables:\n" + "\n".join(_table(each, guesses) for each in tables),
        *([_views(views)] if views else []),
        _consent(guesses.consent),
        _TAIL.replace("{decide}", DECIDE),
    ]
    return "\n".join(parts)


def _subject(guesses: Guesses) -> str:
    if not guesses.keys:
        return _section("subject", [("table", guesses.people), ("key", guesses.key)])
    why = "its primary key, which other tables refer to; in this order for good"
    return (
        _section("subject", [("table", guesses.people)])
        + f"  key: {_listed(guesses.keys)} # guessed: {why}\n"
    )


def _listed(names: Sequence[str]) -> str:
    """A name as YAML has it, or several as a list."""
    return shown(names[0]) if len(names) == 1 else f"[{', '.join(map(shown, names))}]"


def _section(name: str, guessed: Sequence[tuple[str, Guess]]) -> str:
    lines = [f"{name}:"]
    for key, found in guessed:
        if found.name is None:
            lines.append(f"  {key}: {DECIDE} # {found.why or 'which column distinguishes people?'}")
            continue
        others = f"; or {', '.join(map(shown, found.others))}" if found.others else ""
        lines.append(f"  {key}: {shown(found.name)} # guessed: {found.why}{others}")
    return "\n".join(lines) + "\n"


def _table(table: SeenTable, guesses: Guesses) -> str:
    about = table.name in guesses.about
    links = guesses.links[table.name]
    declared = dict(_columns(table, guesses))
    lines = [f"  {shown(table.name)}:"]
    if about:
        lines.append(
            "    erase: {action: delete} # or anonymize, or retain: by which law, how long?"
        )
    elif guesses.people.name is None:
        lines.append(
            f"    about: {DECIDE} # person (then with links that lead to one), shared or nobody?"
        )
    else:
        signs = sorted({each.sign for each in table.columns if each.sign})
        why = f"; but it has {', '.join(signs)}: whose?" if signs else ""
        lines.append(f"    about: nobody # guessed: no link leads from here to a person{why}")
    if links:
        lines.append("    links:")
        lines += [f"      {_link(link, sure=sure)}" for link, sure in links]
    for link in guesses.unwritten.get(table.name, ()):
        names = ", ".join(map(shown, link.columns))
        lines.append(
            f"    # {names} leads to {shown(link.table)}: a name with a dot or a comma cannot be "
            "a link; a view gives it another"
        )
    if about and any(each.kind in ("date", "timestamp") for each in table.columns):
        lines.append(
            "    # retention: {days: …, by: a column with role timestamp}: how long are rows kept?"
        )
    lines.append("    columns:" if declared else "    columns: {}")
    lines += [f"      {shown(name)}: {text}" for name, text in declared.items()]
    unused = [each for each in table.columns if each.name not in declared]
    if unused:
        lines.append("    unused:" + _label(table, guesses))
        lines += [f"      - {shown(each.name)}{_kind(each)}" for each in unused]
    return "\n".join(lines) + "\n"


def _label(table: SeenTable, guesses: Guesses) -> str:
    if table.name != guesses.records.name:
        return ""
    return " # decide: one of these is the label, some are features; move them to columns"


def _kind(column: SeenColumn) -> str:
    said = [column.kind.lower()] if column.kind else []
    said += (
        ["sentences, which may name people: role text, if an erasure should look"]
        if column.texts
        else []
    )
    said += [f"looks like {column.sign}"] if column.sign else []
    return f" # {', '.join(said)}" if said else ""


def _link(link: Link, *, sure: bool) -> str:
    own = ", ".join(link.columns)
    other = ", ".join(f"{link.table}.{each}" for each in link.references)
    own, other = (quoted(each) if len(link.columns) > 1 else shown(each) for each in (own, other))
    return f"{own}: {other}" + ("" if sure else " # guessed by its name")


def _columns(table: SeenTable, guesses: Guesses) -> Iterator[tuple[str, str]]:
    """What is declared of a table's columns, in the table's own order."""
    linked = {each for link, _ in guesses.links[table.name] for each in link.columns}
    pointed = {
        each
        for link, _ in chain.from_iterable(guesses.links.values())
        if link.table == table.name
        for each in link.references
    }
    consent = guesses.consent
    answers = consent.columns if consent and consent.table == table.name else ()
    for column in table.columns:
        own_key = guesses.keys or (guesses.key.name,)
        if table.name == guesses.people.name and column.name in own_key:
            yield (
                column.name,
                "{role: subject_key, why: joins a person's rows; replaced by a token}",
            )
        elif column.name in linked | pointed | set(table.primary_key):
            yield column.name, "{role: link}"
        elif column.name in answers:
            time = consent is not None and column.name == consent.time
            yield column.name, "{role: consent, type: timestamp}" if time else "{role: consent}"
        elif column.sign is not None and table.name in guesses.about:
            yield column.name, _identifier(column)


def _identifier(column: SeenColumn) -> str:
    """An identifier is never read for training; it is what people are found and erased by."""
    more = ""
    if column.sign == "a date of birth" and column.kind in ("date", "timestamp"):
        more = ", type: date"
    elif column.sign == "a person's name":
        more = ", names_people: true"
    why = f"guessed by its {column.by}"
    return f"{{role: identifier{more}, why: {why}}} # {column.sign}; needed for what?"


def _consent(found: Consents | None) -> str:
    if found is None:
        return (
            f"consent: {DECIDE} # which table has people's answers: who, purpose, answer, time?\n"
            "# consent: {table: …, subject: …, purpose: …, answer: …, time: …}; the last three\n"
            "# have role consent. Only who said yes is used. No table has answers? Make one.\n"
        )
    lines = ["consent: # guessed: by the names of its columns"]
    lines += [f"  table: {shown(found.table)}", f"  subject: {_listed(found.subject)}"]
    lines += [f"  {key}: {shown(getattr(found, key))}" for key in ("purpose", "answer", "time")]
    lines += [
        '  "yes": ["yes"] # the words of a yes, as the table has them',
        '  "no": ["no", withdrawn]',
    ]
    return "\n".join(lines) + "\n"


def _views(views: Sequence[str]) -> str:
    return f"# Views, which may be declared as tables are: {', '.join(map(shown, views))}\n"
