"""The pipeline's stages, one file each; they never import each other."""

STAGES = (
    "minimize",
    "consent",
    "pseudonymize",
    "validate",
    "budget",
    "train",
    "audit",
    "register",
)
