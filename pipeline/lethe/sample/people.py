"""Invented people: Faker's words in pools, combined by a seeded generator.

Faker makes about ten thousand values a second; a pool of some thousand of each kind, made
once, combines into as many people as there are rows in an instant.
"""

import functools
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from faker import Faker

LOCALES = ("en_US", "en_GB", "de_DE", "es_ES")  # names with and without accents
_DRAWS = 2_000
# Exchange 555 is not given to subscribers; 112 area codes of it are 1.12 million numbers.
_AREAS = (
    *range(201, 211),
    *range(212, 220),
    *range(301, 311),
    *range(312, 322),
    *range(401, 411),
    *range(412, 420),
    *range(501, 506),
    *range(507, 511),
    *range(512, 518),
    *range(601, 604),
    *range(605, 611),
    *range(612, 621),
    *range(701, 705),
    *range(706, 710),
    *range(712, 721),
    *range(801, 807),
)
MOST_PEOPLE = 10_000 * len(_AREAS)


@dataclass(frozen=True, kw_only=True)
class Pools:
    """Distinct words to combine; the same seed gives the same words."""

    women: np.ndarray
    men: np.ndarray
    last: np.ndarray
    streets: np.ndarray
    cities: np.ndarray


@functools.lru_cache(maxsize=2)
def make_pools(seed: int) -> Pools:
    """Draws each pool from Faker once."""
    fakers = [Faker(locale) for locale in LOCALES]
    for fake in fakers:
        fake.seed_instance(seed)

    def pool(draw: Callable[[Faker], str], *, of: list[Faker]) -> np.ndarray:
        words = {draw(fake) for fake in of for _ in range(_DRAWS)}
        return np.array(sorted(words), dtype=object)

    english = fakers[:2]
    return Pools(
        women=pool(lambda fake: fake.first_name_female(), of=fakers),
        men=pool(lambda fake: fake.first_name_male(), of=fakers),
        last=pool(lambda fake: fake.last_name(), of=fakers),
        streets=pool(lambda fake: fake.street_name(), of=english),
        cities=pool(lambda fake: fake.city(), of=english),
    )


def distinct_numbers(rng: np.random.Generator, count: int, *, below: int) -> np.ndarray:
    """`count` different integers in [1, below), in random order."""
    found = np.zeros(0, dtype=np.int64)
    while len(found) < count:
        more = rng.integers(1, below, size=count - len(found) + 16)
        found = np.unique(np.concatenate([found, more]))
    return rng.permutation(found)[:count]


def make_names(pools: Pools, gender: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A first and a last name each, the first by gender (`Female`, or anything else)."""
    count = len(gender)
    first = np.where(
        gender == "Female",
        pools.women[rng.integers(len(pools.women), size=count)],
        pools.men[rng.integers(len(pools.men), size=count)],
    )
    return np.asarray(first + " " + pools.last[rng.integers(len(pools.last), size=count)])


def make_people(
    keys: list[str], gender: np.ndarray, pools: Pools, rng: np.random.Generator
) -> pd.DataFrame:
    """One row a person: who they are and how they are reached, all of it invented.

    Guarantees: no two have the same e-mail or phone; addresses lie under example.org,
        example.net and example.com, which nobody can register (RFC 2606).
    Shapes: `patient_id, full_name, email, phone, street, city, postcode`, by `keys`' order.
    """
    count = len(keys)
    if count > MOST_PEOPLE:
        raise ValueError(f"{count} people, but only {MOST_PEOPLE} phone numbers")
    names = make_names(pools, gender, rng)
    tails = distinct_numbers(rng, count, below=max(10_000, 8 * count))
    hosts = np.array(["example.org", "example.net", "example.com"], dtype=object)
    host = hosts[rng.integers(3, size=count)]
    lines = rng.permutation(MOST_PEOPLE)[:count]
    houses = rng.integers(1, 400, size=count)
    streets = pools.streets[rng.integers(len(pools.streets), size=count)]
    letters = np.array(list("ABCDEFGHJKLMNPRSTUVWXY"), dtype=object)
    return pd.DataFrame(
        {
            "patient_id": keys,
            "full_name": names,
            "email": [
                f"{_plain(name)}{tail}@{at}"
                for name, tail, at in zip(names, tails.tolist(), host, strict=True)
            ],
            "phone": [
                f"({_AREAS[line // 10_000]}) 555-{line % 10_000:04d}" for line in lines.tolist()
            ],
            "street": [f"{h} {s}" for h, s in zip(houses.tolist(), streets, strict=True)],
            "city": pools.cities[rng.integers(len(pools.cities), size=count)],
            "postcode": [
                f"{a}{b}{number // 100} {number % 10}{c}{d}"
                for a, b, c, d, number in zip(
                    *(letters[rng.integers(len(letters), size=count)] for _ in range(4)),
                    rng.integers(100, 10_000, size=count).tolist(),
                    strict=True,
                )
            ],
        }
    )


def _plain(name: str) -> str:
    """`Zoë O'Brien` → `zoe.obrien`."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "".join(c for c in ascii_name.lower().replace(" ", ".") if c.isalnum() or c in ".-")
