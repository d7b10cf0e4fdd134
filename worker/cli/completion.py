"""`dynapod completion`: the script that teaches a shell to complete."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: source <(dynapod completion bash)
    zsh:  source <(dynapod completion zsh)
    fish: dynapod completion fish | source
    """  # noqa: D301 - click's mark for "do not rewrap" is the character, not its escape
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root()
    click.echo(kind(root.command, {}, "dynapod", "_DYNAPOD_COMPLETE").source())
