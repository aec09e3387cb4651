"""The `roundhouse` command: the group of all its subcommands."""

from dataclasses import fields

import click

from service.cli import adding, catalogue, packing, planning, proving, serving, weights
from service.config.settings import PREFIX, Settings


def _settings_help() -> str:
    rows = (f"  {PREFIX}{row.name.upper():<20} {row.metadata['help']}" for row in fields(Settings))
    return "Settings come from the environment:\n\n\b\n" + "\n".join(rows)


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
):
    main.add_command(command)


if __name__ == "__main__":
    main()
