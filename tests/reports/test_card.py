"""The model card says what a reader needs, and nothing in it can break out of its page."""

import pytest
from markdown_it import MarkdownIt

from lethe.reports.card import Card, markdown_text, model_card

FACTS = {
    "model": "readmission",
    "purpose": "readmission_model",
    "subjects": "812",
    "records": "1204",
    "epsilon_pld": "0.91234567",
    "epsilon_rdp": "1.0456789",
    "delta": "1e-05",
    "unit": "person",
    "adjacency": "add or remove one person",
    "sampling": "Poisson over persons",
    "sample_rate": "0.1",
    "records_per_person": "4",
    "noise_multiplier": "3.14159265",
    "noise": "discrete",
    "steps": "20",
    "accountant": "RDP and PLD",
    "manifest_md5": "0123456789abcdef0123456789abcdef",
    "git_commit": "c0ffee",
    "audit": "passed: membership",
}
METRICS = {
    "auc": {"value": 0.654321, "private": False},
    "histogram": {"value": 3.0, "private": True},
}


def test_epsilon_stands_with_delta_unit_adjacency_bound_sampling_and_accountant() -> None:
    text = model_card(FACTS, METRICS, ["age"]).markdown()
    for part in (
        "epsilon 0.9124 at delta 1e-05",
        "add or remove one person",
        "| unit of privacy | person |",
        "| records per person, at most | 4 |",
        "Poisson over persons",
        "RDP and PLD",
    ):
        assert part in text


def test_prices_are_rounded_up_and_noise_down() -> None:
    text = model_card(FACTS, METRICS, ["age"]).markdown()
    assert "| epsilon (PLD) | 0.9124 |" in text
    assert "| noise multiplier (sigma) | 3.1415 |" in text
    assert "| epsilon (RDP, what the budget is held to) | 1.0457 |" in text


def test_the_noise_is_named() -> None:
    text = model_card(FACTS, METRICS, ["age"]).markdown()
    assert "| noise (gaussian in floating point, or discrete on a public grid) | discrete |" in text


def test_every_metric_says_whether_it_is_private() -> None:
    text = model_card(FACTS, METRICS, ["age"]).markdown()
    assert "| auc | 0.6543 (not private: computed from people's records without noise) |" in text
    assert "| histogram | 3 (private: charged to the ledger) |" in text


def test_counts_of_people_are_said_not_to_be_private() -> None:
    text = model_card(FACTS, METRICS, ["age"]).markdown()
    assert "| subjects | about 812 (private: charged to the ledger) |" in text
    assert "| records | about 1204 (private: charged to the ledger) |" in text


def test_unknown_facts_are_left_out_rather_than_shown_empty() -> None:
    text = model_card(
        {k: v for k, v in FACTS.items() if k != "noise_multiplier"}, {}, ["age"]
    ).markdown()
    assert "sigma" not in text


def test_markup_in_a_fact_stays_text() -> None:
    card = Card("<b>x</b>", "<script>1</script>", {"A|B": [("a|b", "<i>c</i>\n# d")]})
    page, text = card.page(), card.markdown()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "<script>" not in text
    assert "| a\\|b | &lt;i&gt;c&lt;/i&gt; # d |" in text


@pytest.mark.parametrize(
    "text",
    [
        "![x](https://x.invalid/a.png)",
        "[x](javascript:alert(1))",
        "[x][1] [1]: https://x.invalid",
        "[1]: https://x.invalid 'title'",
        "https://x.invalid/a www.x.invalid someone@x.invalid mailto:a@x.invalid",
        "<https://x.invalid>",
        "<img src=https://x.invalid/a.png>",
        "&#91;x](https://x.invalid)",
        "\\[x](https://x.invalid)",
        "\\![x](https://x.invalid)",
        "`a` **b** ~~c~~",
        "# title",
        "- item",
        "a\n\n![x](https://x.invalid)",
        "a|b",
        "\\|b",
    ],
)
def test_a_word_of_data_is_no_markup_in_a_card(text: str) -> None:
    card = Card(text, text, {text: [(text, text)]})
    made = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(card.markdown())
    for tag in ("<a", "<img", "<code", "<strong", "<li", "<s>"):
        assert tag not in made
    assert made.count("<td") == 2
    assert made.count("<h1") == made.count("<h2") == 1
    for bare in ("https://", "www.x", "@x", "mailto:"):
        assert bare not in card.markdown().replace("\\" + bare[-2:], "")
    shown = MarkdownIt("commonmark").render(markdown_text(text))
    assert "\\\\" not in shown


def test_what_acts_on_a_terminal_is_spelled_out_in_a_card() -> None:
    card = Card("a", "\x1b[31mb\u202e", {})
    assert "\x1b" not in card.markdown() + card.page()
    assert "\u202e" not in card.markdown() + card.page()
