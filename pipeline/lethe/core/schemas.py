"""Names of PostgreSQL's tables: `table` in the source's own schema, `schema.table` in another.

Everywhere else such a name is one word, with a dot in it or not. Other databases and folders of
files have no schemas here: what is before a dot belongs to the table's name.
"""

POSTGRESQL = "postgresql"


def schema_and_table(name: str, dialect: str) -> tuple[str | None, str]:
    """Where a declared table is: its schema (None for the source's own), and its name there.

    The first dot ends the schema. So a table whose own name has a dot is declared with its
    schema, whichever that is.
    """
    schema, dot, table = name.partition(".")
    return (schema, table) if dot and dialect == POSTGRESQL else (None, name)


def quoted(name: str, dialect: str = POSTGRESQL) -> str:
    """A declared table for a statement that is put together as text."""
    parts = (part for part in schema_and_table(name, dialect) if part is not None)
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def name_in(relation: str, namespace: str) -> str:
    """SQL for the name by which a table is declared; see `schema_and_table`.

    The source's own schema is what a bare name leads to: all that is visible by the search path.

    Args:
        relation, namespace: the aliases of its rows of `pg_class` and of `pg_namespace`. A schema
            with a dot in its own name cannot be declared: quoted, it is nobody's.
    """
    table, schema = f"{relation}.relname", f"{namespace}.nspname"
    return (
        f"(CASE WHEN pg_table_is_visible({relation}.oid) AND strpos({table}, '.') = 0 "
        f"THEN {table}::text "
        f"WHEN strpos({schema}, '.') > 0 THEN quote_ident({schema}) || '.' || {table} "
        f"ELSE {schema} || '.' || {table} END)"
    )
