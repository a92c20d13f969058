"""Plans that tests of several packages share."""

from lethe.privacy.plan import Plan

# Of the ledger's tests: by RDP three come to 1.98, four to 2.32, five to 2.63.
CHARGED = Plan(
    sample_rate=0.1,
    steps=300,
    records_per_person=4,
    clip_norm=1.0,
    noise_multiplier=6.6,
    expected_batch_size=100.0,
    delta=1e-5,
)
# What a small workspace trains by.
SMALL = Plan(
    sample_rate=0.1,
    steps=20,
    records_per_person=4,
    clip_norm=1.0,
    noise_multiplier=3.0,
    expected_batch_size=100.0,
    delta=1e-5,
)
