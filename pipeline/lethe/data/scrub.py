"""Free text without what points at a person: Microsoft Presidio's recognizers and a few more.

Works offline: patterns, checksums, and the names that the source itself knows. There is no
language model, so the name or place of somebody the source does not know is found only
where a title, a label or a street number gives it away. `docs` and the tests say how often.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import spacy
from presidio_analyzer import (
    AnalyzerEngine,
    EntityRecognizer,
    Pattern,
    PatternRecognizer,
    RecognizerRegistry,
    RecognizerResult,
)
from presidio_analyzer import predefined_recognizers as presidio
from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine
from tldextract import TLDExtract

from lethe.core.text import plain
from lethe.data.names import Finder

THRESHOLD = 0.35  # Presidio gives telephone numbers 0.4, weak patterns 0.05 to 0.3
_SCORES = {"US_SSN": 0.8}  # its form is a telephone number's too, and says more
# A capital letter, or one of a script that has no capitals.
_CAP = r"[^\W\d_a-zß-öø-ÿα-ωа-џ][\w'’.-]*\w"
_JOINING = r"(?:(?:van|von|der|den|de|del|della|da|di|la|le|el|bin|al)\s+)*"
_CAPS = rf"(?:{_CAP}|[A-Z]\.)(?:\s+{_JOINING}(?:{_CAP}|[A-Z]\.)){{0,3}}"
# Of titles in capitals that are findings and methods too (MR LUMBAR SPINE, SR CREATININE): not in a
# text, or stretch of it, that is in capitals as a whole.
_NOT_ALL_CAPITALS = r"(?:(?<=[a-z][^\n]{0,200})|(?=[^\n]{0,200}?[a-z]))"
# Titles that are no other word, in any case of letters; and those that are, written as titles.
_TITLES = (
    r"(?:(?i:Dr|Dra|Drs|Mrs|Prof|Profa|Herrn?|Frau|Fräulein|Fru|Frøken|Fröken|Herra|Rouva|"
    r"Mme|Mlle|Monsieur|Madame|Mademoiselle|Docteur|Doktor|Sra|Srta|Señora?|Señorita|Doña|Dona|"
    r"Senhora?|Signora?|Signorina|Dott|Dottore?|Dottoressa|Dhr|Mevr|Mevrouw|Meneer|Pani|Sayın|"
    r"господин|госпожа|доктор)|Mr|Ms|Mx|(?<!\d)(?<!\d\s)Hr|"
    rf"(?:MR|MS|SR|DON)(?=\.?\s+[^\W\d_a-z]{{3,}}\b)(?:(?=\.)|{_NOT_ALL_CAPITALS})|"
    r"(?:Miss|MISS|Professor|PROFESSOR|Doctor|DOCTOR|Nurse|NURSE|Sister|SISTER|Sir|SIR|Madam|MADAM|"
    r"Rev|REV|Sr|Don)|M(?=\.)|Sig(?=\.))"
)
_AT = r"(?:\(\s*(?:at|a|@)\s*\)|\[\s*(?:at|a|@)\s*\]|\{\s*at\s*\}|<\s*at\s*>)"
_DOT = r"(?:\s*(?:\(\s*dot\s*\)|\[\s*dot\s*\]|\{\s*dot\s*\}|\.)\s*|\s+(?:dot|punkt|punto|point)\s+)"
_LAST = r"(?:com|org|net|edu|gov|info|io|eu|uk|de|fr|es|nl|se|dk|fi|ch|ca|au|nz|jp|pl|pt|ie|br|mx)"
_RECORD = (
    r"(?:mrn|m\.r\.n\.|(?:medical|health)\s+record|nhs|account|acct|urn?|pid|dossier|historia)"
)
_ORDINARY = r"(?:patient|patienten|chart|record|hospital|case|unit|fall)"  # has a number, or any
_NUMBER = r"(?:number|nummer|num|nr|no|id|#)"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_STREET = (
    r"(?:street|st|road|rd|avenue|ave|av|boulevard|blvd|lane|ln|drive|dr|court|ct|square|sq|"
    r"terrace|ter|place|pl|way|highway|hwy|parkway|pkwy|circle|cir|crescent|close|row|alley|"
    r"trail|loop|route|mews|gardens|rue|via|calle|strasse|straße|weg|platz|allee|plein|straat|"
    r"laan|gade|gatan|utca|rua|avenida|camino)"
)
_SUFFIX_STREET = (
    r"[^\W\d_]+(?:strasse|straße|str\.|weg|platz|allee|gasse|straat|plein|plaats|laan|gatan|vej|"
    r"gade|gata|vägen|veien|utca)"
)
_UNIT = (
    r"(?:apt|apartment|suite|ste|unit|flat|floor|room|psc|p\.?\s?o\.?\s?box|box)\.?\s*#?\s*"
    r"\d+[a-z]?"
)


def _patterns() -> dict[str, list[str]]:
    """Entity type → regular expressions, beside those of Presidio."""
    return {
        "PERSON": [
            rf"\b(?:{_TITLES}\b\.?\s+)+{_CAPS}",
            rf"\b(?i:name is|named|name:?|patient:|signed:?|signature:|sincerely,|regards,)\s+"
            rf"{_CAPS}",
        ],
        "DATE_TIME": [
            r"\b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?Z?)?\b",
            r"\b\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})\b",
            rf"(?i)\b\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{4}})?\b",
            rf"(?i)\b{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b",
            rf"(?i)\b{_MONTH},?\s+\d{{4}}\b",
            r"(?i)\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b",
        ],
        "PHONE_NUMBER": [
            r"(?<![\w.])(?=(?:[ ()./+-]{0,3}\d){7})(?:\+|00)?"
            r"(?:\(\d{1,4}\)|\d{1,4})(?:[ ./-]?(?:\(\d{1,4}\)|\d{2,4})){2,5}"
            r"(?:\s?(?:x|ext\.?)\s?\d{1,6})?(?![\w])",
        ],
        "ADDRESS": [
            rf"(?i)\b\d{{1,5}}[a-z]?,?\s+(?:[\w'.’-]+\s+){{0,4}}?{_STREET}\b\.?(?:,?\s+{_UNIT})?",
            rf"(?i)\b{_STREET}\s+(?:[\w'’-]+\s+){{0,4}}?\d{{1,5}}[a-z]?\b",
            rf"(?i)\b{_SUFFIX_STREET}\s+\d{{1,5}}[a-z]?\b",
            rf"(?i)\b\d{{1,5}}\s+{_SUFFIX_STREET}\b",
            rf"(?i)\b{_UNIT}",
            rf"\b(?!MRN\b){_CAP},?\s+\d{{5}}(?:-\d{{4}})?\b",
            r"\b[AFD]PO\s+A[APE]\b",
            r"\b[A-Z][\w'’-]+(?:\s[A-Z][\w'’-]+)?,?\s+[A-Z]{2}[\s,]+\d{5}(?:-\d{4})?\b",
            r"\b[A-Z]{2}\s+\d{5}(?:-\d{4})?\b",
            r"\b[A-Z]{1,2}\d[A-Z\d]?\s\d[A-Z]{2}\b",  # British postcodes
            # In small letters: no letter that their end never has, and after a single letter no
            # unit (vitamin b12 5ug).
            r"(?i)\b[a-z]{2}\d[a-z\d]?\s?\d[abd-hjlnp-uw-z]{2}\b",
            r"(?i)\b[beglmnsw]\d[a-z\d]?\s\d(?!(?:ug|ng|pg|dl|lb|gr|hr|wk|yr|st|nd|rd|th)\b)"
            r"[abd-hjlnp-uw-z]{2}\b",
            r"\b[A-Z]\d[A-Z]\s\d[A-Z]\d\b",  # Canadian ones
        ],
        "URL": [r"(?i)\b(?:https?://|www\.)[^\s<>\"']+"],
        **_of_contact_and_record(),
        "US_SSN": [r"\b\d{3}-\d{2}-\d{4}\b"],
    }


def _of_contact_and_record() -> dict[str, list[str]]:
    return {
        "EMAIL_ADDRESS": [
            r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+",
            # Spelled so that machines do not find it.
            rf"(?i)(?<![\w+-])[\w+-]{{1,64}}(?:{_DOT}[\w+-]{{1,64}}){{0,3}}\s*{_AT}\s*"
            rf"[\w-]+(?:{_DOT}[\w-]+){{1,4}}",
            r"(?i)(?<![\w+-])[\w+-]{1,64}(?:(?:\.|\s+dot\s+)[\w+-]{1,64}){0,3}\s+"
            r"(?:at|arroba|arobase)\s+"
            rf"[\w-]+(?:{_DOT}[\w-]+){{0,3}}\s+(?:dot|punto|point)\s+{_LAST}\b",
        ],
        "ID": [
            rf"(?i)\b(?:{_RECORD}(?:\s*{_NUMBER})?|{_ORDINARY}\s*{_NUMBER})\.?\s*[:#=]\s*"
            r"[a-z]{0,4}[-/ ]?\d[\w/-]*(?:[ -]\d{2,})*",
            rf"(?i)\b(?:mrn|(?:{_RECORD}|{_ORDINARY})\s*{_NUMBER})\.?\s*"
            r"[a-z]{0,4}[-/]?\d[\w/-]*(?:[ -]\d{2,})*",
            # Of an ordinary word: letters before the digits, or four digits (Patient: 45yo).
            rf"(?i)\b{_ORDINARY}\s*[:#=]\s*"
            r"(?:[a-z]{1,4}[-/]?\d|(?=(?:\d[/-]?){4})\d)[\w/-]*(?:[ -]\d{2,})*",
            r"(?i)\b[a-z]{0,3}-?\d{6,}[a-z]?\b",
            r"(?i)\b[a-z]{2}\d{2}(?: ?[a-z\d]{4}){3,7}(?: ?[a-z\d]{1,3})?\b",
        ],
    }


class KnownNames(EntityRecognizer):
    """Words that are in the names of people whom the source knows."""

    def __init__(self, names: frozenset[str]) -> None:
        self._finder = Finder(names)
        super().__init__(supported_entities=["PERSON"], name="KnownNames")

    def load(self) -> None:
        """Nothing to load."""

    def analyze(
        self, text: str, entities: Sequence[str], nlp_artifacts: NlpArtifacts | None = None
    ) -> list[RecognizerResult]:
        """Every word of the text that is one of the names; see `Finder.find`."""
        return [
            RecognizerResult("PERSON", start, end, 0.9) for start, end in self._finder.find(text)
        ]


class OfflineEmail(presidio.EmailRecognizer):
    """Presidio's recognizer without the suffix list that it would fetch."""

    _extract = TLDExtract(suffix_list_urls=(), cache_dir=None)

    def validate_result(self, pattern_text: str) -> bool:
        return bool(self._extract(pattern_text).fqdn)


class _BlankEngine(SpacyNlpEngine):
    """spaCy's English tokenizer alone: the models that know people and places are downloads."""

    def __init__(self) -> None:
        super().__init__(models=[{"lang_code": "en", "model_name": "blank"}])
        self.nlp = {"en": spacy.blank("en")}

    def load(self) -> None:
        """Made in the constructor."""


class ColumnScrubber:
    """Replaces what points at a person by its type, e.g. `<PHONE_NUMBER>`.

    Guarantees: a word of a known name is absent from the result, whatever its normal form (everyday
        words and those of two letters excepted as in `Finder.find`); needs no network.
    """

    def __init__(self, known_names: frozenset[str]) -> None:
        registry = RecognizerRegistry(supported_languages=["en"])
        for recognizer in (
            presidio.CreditCardRecognizer(),
            presidio.CryptoRecognizer(),
            presidio.DateRecognizer(),
            OfflineEmail(),
            presidio.IbanRecognizer(),
            presidio.IpRecognizer(),
            presidio.MacAddressRecognizer(),
            presidio.MedicalLicenseRecognizer(),
            presidio.PhoneRecognizer(),
            presidio.UkNinoRecognizer(),
            presidio.UrlRecognizer(),
            presidio.UsItinRecognizer(),
            presidio.UsSsnRecognizer(),
            KnownNames(known_names),
            *(
                PatternRecognizer(
                    supported_entity=entity,
                    name=f"Lethe{entity}",
                    patterns=[
                        Pattern(entity, regex, _SCORES.get(entity, 0.6)) for regex in regexes
                    ],
                    global_regex_flags=re.UNICODE,
                )
                for entity, regexes in _patterns().items()
            ),
        ):
            registry.add_recognizer(recognizer)
        self._analyzer = AnalyzerEngine(
            registry=registry,
            nlp_engine=_BlankEngine(),
            supported_languages=["en"],
            default_score_threshold=THRESHOLD,
        )

    def found(self, text: str) -> list[RecognizerResult]:
        """What would be replaced: disjoint spans in order, each of the type that covers most."""
        results = sorted(
            self._analyzer.analyze(text=text, language="en"),
            key=lambda r: (r.start, -r.end, -r.score),
        )
        spans: list[RecognizerResult] = []
        widest = 0
        for result in results:
            if spans and result.start < spans[-1].end:
                if result.end - result.start > widest:
                    widest = result.end - result.start
                    spans[-1].entity_type = result.entity_type
                spans[-1].end = max(spans[-1].end, result.end)
            else:
                spans.append(RecognizerResult(result.entity_type, result.start, result.end, 1.0))
                widest = result.end - result.start
        return spans

    def scrub(self, texts: pd.Series) -> tuple[pd.Series, Counter[str]]:
        """Every text with what points at a person replaced, and how often per entity type.

        Shapes: texts (n,) -> (n,) of dtype `str`, same index; null stays null.
        """
        counts: Counter[str] = Counter()
        codes, distinct = pd.factorize(texts)
        made: list[str | None] = []
        for text, repeats in zip(
            distinct, np.bincount(codes[codes >= 0], minlength=len(distinct)), strict=True
        ):
            text = plain(str(text))
            spans = self.found(text)
            for span in spans:
                counts[span.entity_type] += int(repeats)
            made.append(_replaced(text, spans))
        scrubbed = np.array([*made, None], dtype=object)[codes]
        return pd.Series(scrubbed, index=texts.index, name=texts.name, dtype="str"), counts


def _replaced(text: str, spans: Sequence[RecognizerResult]) -> str:
    pieces, position = [], 0
    for span in spans:
        pieces += [text[position : span.start], f"<{span.entity_type}>"]
        position = span.end
    return "".join([*pieces, text[position:]])


@lru_cache(maxsize=1)
def scrubber(known_names: frozenset[str]) -> ColumnScrubber:
    """The scrubber for these names, made once a process."""
    return ColumnScrubber(known_names)
