"""What `lethe erase verify` says to a reader."""

from lethe.core.outcomes import Outcome
from lethe.rights.erasure_service import render_verify


def test_the_first_places_of_what_was_found_are_named() -> None:
    seen = [
        Outcome("vault", "absent"),
        Outcome("workspace", "present", 12, tuple(f"list-{n}.csv" for n in range(12)), "x"),
    ]
    message = render_verify(
        {
            "requests": {"a1": [each.to_data() for each in seen], "b2": None},
            "came_back": {"source": 3, "vault": 0},
            "still_there": 4,
        }
    ).splitlines()
    assert message[:3] == [
        "a1",
        "  vault                  absent",
        "  workspace              12 found (x)",
    ]
    assert message[3:13] == [f"    list-{n}.csv" for n in range(10)]
    assert message[13:] == [
        "b2: not looked up yet",
        "erased people who are back in the source: 3",
        "erased people who are back in the vault: 0",
    ]
