"""The `roundhouse` command: the group of all its subcommands."""

import click

from service.cli import (
    adding,
    catalogue,
    connect,
    engine,
    evaluating,
    evidence,
    keys,
    packing,
    planning,
    proving,
    serving,
    simulating,
    upgrading,
    usage,
    weights,
)
from service.config.release import release
from service.config.settings import VARIABLES, summary


def _settings_help() -> str:
    width = max(map(len, VARIABLES))
    rows = (f"  {variable:<{width}}  {summary(name)}" for variable, name in VARIABLES.items())
    return "Settings come from the environment; docs/configuration.md explains them:\n\n\b\n" + "\n".join(rows)


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"roundhouse {release()}")
        context.exit()


@click.group(epilog=_settings_help())
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version,
    help="Show the version.",
)  # fmt: skip
def main() -> None:
    """Serve your own open models behind one OpenAI-compatible address."""


for command in (
    *serving.COMMANDS,
    *engine.COMMANDS,
    *catalogue.COMMANDS,
    *adding.COMMANDS,
    *proving.COMMANDS,
    *weights.COMMANDS,
    *packing.COMMANDS,
    *planning.COMMANDS,
    *simulating.COMMANDS,
    *evaluating.COMMANDS,
    *connect.COMMANDS,
    *keys.COMMANDS,
    *evidence.COMMANDS,
    *usage.COMMANDS,
    *upgrading.COMMANDS,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
