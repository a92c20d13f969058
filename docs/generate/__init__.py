"""Reference pages, made from the code: what is not in the code is not in them.

`reference(root)` returns every page by name. Descriptions that the code does not hold stand in
`parameters.yaml` and `fields.yaml` beside this file; tests compare them with the code.
"""

from pathlib import Path

from docs.generate import api, commands, environment, fields, parameters


def reference(root: Path) -> dict[str, str]:
    """Page name → Markdown, of every page that the code decides.

    Args:
        root: the repository.
    """
    return {
        "commands": commands.page(),
        "parameters": parameters.page(),
        "environment": environment.page(root),
        "reports": fields.page("reports"),
        "tags": fields.page("tags"),
        "receipts": fields.page("receipts"),
        "python": api.page(),
    }
