"""The command line: one verb, one short function.

A verb imports what it needs inside its function, so that `--help` and `list` wait for nothing. It raises
`anabranch.Error` for what the user can mend; `main` turns that into one line and an exit status. Click and not typer:
typer validates each argument through pydantic, which alone takes longer than `list` may.
"""

from __future__ import annotations

import sys

import click

from anabranch.errors import Error
from anabranch.version import VERSION

json_option = click.option("--json", is_flag=True, help="Print JSON for machines.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, message="anabranch %(version)s")
def app() -> None:
    """ResNeXt, SE-ResNet, SENet and Res2Net classifiers: from any checkpoint or a folder of photos to fast answers."""


def main() -> None:
    """Entry point. Exit status 0; 1: it failed; 2: it was asked wrongly; 130: interrupted."""
    try:
        sys.exit(app(standalone_mode=False))
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)


@app.command("list")
@click.argument("pattern", required=False)
@click.option(
    "--sort",
    type=click.Choice(["family", "name", "params", "macs", "top1"]),
    default="family",
    show_default=True,
    help="What the lines are sorted by.",
)
@json_option
def list_(pattern: str | None, sort: str, json: bool) -> None:
    """List architectures with counted size and published accuracy.

    PATTERN is part of a name, or a wildcard such as '*_vd_*'. Every zoo's names count.
    """
    from anabranch.catalogue import screens

    screens.print_list(pattern, sort=sort, json=json)


@app.command()
@click.argument("name")
@json_option
def show(name: str, json: bool) -> None:
    """Show what a name means, and what is claimed of it.

    NAME is any zoo's name of an architecture or of weights, its case as printed.
    """
    from anabranch.catalogue import screens

    screens.print_show(name, json=json)


if __name__ == "__main__":
    main()
