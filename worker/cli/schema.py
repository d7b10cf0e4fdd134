"""`dynapod schema`: the JSON Schema of job descriptions."""

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of job descriptions (draft 2020-12), for editors and other tools."""
    from runner_spec.description import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
