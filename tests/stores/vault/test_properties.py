"""A token reveals nothing: neither who, nor when they came."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.stores.vault.draw import distinct, uniform_below
from lethe.stores.vault.vault import CAPACITY, NO_TOKEN, Vault

KEY = b"k" * 32


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Tokens of 40,000 people in the order of their keys, enrolled in two parts."""
    url = f"sqlite:///{tmp_path_factory.mktemp('vault') / 'vault.db'}"
    people = [f"{number:06d}" for number in range(40_000)]
    with Vault.open(url, KEY) as vault:
        return np.concatenate([vault.tokens(people[:25_000]), vault.tokens(people[25_000:])])


def test_tokens_are_distinct_and_within_the_capacity(enrolled: np.ndarray) -> None:
    assert enrolled.dtype == np.uint32
    assert len(np.unique(enrolled)) == 40_000
    assert enrolled.max() < CAPACITY < NO_TOKEN


def test_tokens_are_uniform_over_the_capacity(enrolled: np.ndarray) -> None:
    counts = np.bincount(enrolled // (CAPACITY // 64), minlength=64)
    expected = 40_000 / 64
    # Chi-square with 63 degrees of freedom exceeds 134.3 with probability 5e-7, and is below
    # 19.9 with probability 1e-8 (scipy.stats.chi2): neither uneven nor too even.
    assert 19.0 < ((counts - expected) ** 2 / expected).sum() < 136.0


def test_order_of_tokens_says_nothing_about_the_order_of_keys_or_enrolment(
    enrolled: np.ndarray,
) -> None:
    ranks = enrolled.argsort().argsort()
    correlation = np.corrcoef(np.arange(40_000), ranks)[0, 1]
    assert abs(correlation) < 5 / np.sqrt(40_000)  # five standard errors: 6e-7
    rises = (np.diff(enrolled.astype(np.int64)) > 0).mean()
    assert abs(rises - 0.5) < 5 * np.sqrt(1 / 12 / 40_000)  # variance (n + 1) / 12 of n rises
    late = enrolled[25_000:].mean() - enrolled[:25_000].mean()
    assert abs(late) < 5 * CAPACITY / np.sqrt(12) * np.sqrt(1 / 15_000 + 1 / 25_000)


def test_same_people_under_the_same_key_have_other_tokens_in_another_vault(tmp_path: Path) -> None:
    people = [f"person {number}" for number in range(100)]
    drawn = []
    for name in ("one", "other"):
        with Vault.open(f"sqlite:///{tmp_path / name}.db", KEY) as vault:
            drawn.append(vault.tokens(people))
    assert (drawn[0] == drawn[1]).sum() <= 1  # two agree with probability 2e-11


@given(limit=st.integers(1, 2**31), count=st.integers(0, 50))
def test_uniform_integers_are_below_the_limit_and_as_many_as_asked(limit: int, count: int) -> None:
    drawn = uniform_below(limit, count)
    assert len(drawn) == count
    assert ((drawn >= 0) & (drawn < limit)).all()


def test_uniform_integers_reach_every_number_equally_where_rejection_is_needed() -> None:
    counts = np.bincount(uniform_below(5, 50_000), minlength=5)
    assert (abs(counts - 10_000) < 5.2 * np.sqrt(50_000 * 0.2 * 0.8)).all()  # 5 * 2e-7


@given(st.lists(st.integers(0, 9)))
def test_distinct_values_stay_in_the_order_of_first_occurrence(values: list[int]) -> None:
    assert distinct(np.array(values, dtype=np.int64)).tolist() == list(dict.fromkeys(values))


@settings(max_examples=25, deadline=None)
@given(
    groups=st.lists(st.lists(st.text(min_size=1, max_size=4), max_size=6), max_size=5),
)
def test_whoever_asks_however_often_a_subject_has_one_token(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[str]]
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('vault') / 'vault.db'}"
    seen: dict[str, int] = {}
    with Vault.open(url, KEY) as vault:
        for people in groups:
            for person, token in zip(people, vault.tokens(people).tolist(), strict=True):
                assert seen.setdefault(person, token) == token
            assert vault.lookup(people).tolist() == [seen[person] for person in people]
        assert len(set(seen.values())) == len(seen) == vault.count()
