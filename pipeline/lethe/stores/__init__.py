"""Everything that keeps personal data or proof about it, each kind in a package of its own."""
