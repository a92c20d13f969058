"""`lethe.epsilon`: what a training would cost, without data and without a workspace."""

import re

from lethe.core.errors import ParamsInvalid
from lethe.privacy.statement import Statement, from_options

_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")


def epsilon(
    *,
    subjects: int | None = None,
    batch_size: float | None = None,
    noise_multiplier: float | None = None,
    epochs: float | None = None,
    delta: float = 1e-5,
    sample_rate: float | None = None,
    steps: int | None = None,
    target_epsilon: float | None = None,
) -> Statement:
    """What a training with these numbers costs each person, and on what assumptions.

    It is what `lethe epsilon` prints: no data is read and nothing is charged.

    Guarantees: neither epsilon of the result is below the true one.

    >>> import lethe
    >>> price = lethe.epsilon(sample_rate=0.1, steps=300, noise_multiplier=6).claim
    >>> round(price.epsilon_pld, 2), round(price.epsilon_rdp, 2)
    (1.11, 1.22)
    >>> lethe.epsilon(subjects=1000, batch_size=100, epochs=10, target_epsilon=2).steps
    100

    Args:
        subjects: people in the training set; with `batch_size`, instead of `sample_rate`.
        batch_size: people a step, in expectation.
        noise_multiplier: standard deviation of the noise, in clip norms.
        epochs: passes over the people, in expectation; instead of `steps`.
        delta: failure probability, below one over the number of people.
        sample_rate: with what probability a step draws a person, above 0 and at most 1.
        steps: how many steps there are.
        target_epsilon: solves for `noise_multiplier` instead.

    Returns:
        A statement: `claim` with `epsilon_pld` and `epsilon_rdp` at `delta` per person, and
        `noise_multiplier`, `sample_rate`, `steps`; its text, `str(statement)`, says it all.

    Raises:
        LetheError: too much, too little or something impossible was given.
    """
    try:
        return from_options(
            subjects=subjects,
            batch_size=batch_size,
            noise_multiplier=noise_multiplier,
            epochs=epochs,
            delta=delta,
            sample_rate=sample_rate,
            steps=steps,
            target_epsilon=target_epsilon,
        )
    except ParamsInvalid as error:  # as this function's arguments are spelled
        said = _OPTION.sub(lambda found: found[1].replace("-", "_"), str(error))
        raise ParamsInvalid(said) from None
