"""The `roundhouse` command: the group of all its subcommands."""

import click

from service.cli import adding, catalogue, connect, evidence, keys, packing, planning, proving, serving, usage, weights
from service.config.settings import VARIABLES, summary


def _settings_help() -> str:
    width = max(map(len, VARIABLES))
    rows = (f"  {variable:<{width}}  {summary(name)}" for variable, name in VARIABLES.items())
    return "Settings come from the environment; docs/configuration.md explains them:\n\n\b\n" + "\n".join(rows)


@click.group(epilog=_settings_help())
def main() -> None:
    """Serve your own open models behind one OpenAI-compatible address."""


for command in (
    *serving.COMMANDS,
    *catalogue.COMMANDS,
    *adding.COMMANDS,
    *proving.COMMANDS,
    *weights.COMMANDS,
    *packing.COMMANDS,
    *planning.COMMANDS,
    *connect.COMMANDS,
    *keys.COMMANDS,
    *evidence.COMMANDS,
    *usage.COMMANDS,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
