"""``turnwise images``: root file systems for sandboxes, made here, without a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from turnwise.cli.group import Commands

if TYPE_CHECKING:
    from turnwise.sandbox.images import Image, Source, Store


@click.group(cls=Commands, invoke_without_command=True, short_help="List, build or remove sandbox images.")
@click.pass_context
def images(context: click.Context) -> None:
    """List images: what sandboxes can stand on instead of this machine's /usr.

    \b
    Examples:
      turnwise images
      turnwise images build tools --apt python3,git
      turnwise images show tools

    In Python: `SandboxSpec(root=images.find("tools"))`, with `images` from `turnwise.sandbox`.
    """
    if context.invoked_subcommand is not None:
        return
    from turnwise.sandbox.images import Store
    from turnwise.viewer.console import grid, make_console

    store = Store()
    table = grid("image", "digest", "MB", "built", "what of", right=["MB"])
    for image in store.images():
        size = f"{image.size / 1e6:,.0f}"
        table.add_row(image.name, image.digest[:12], size, f"{image.built:%Y-%m-%d %H:%M}", image.source)
    make_console().print(table if table.row_count else f"no images in {store.folder}")


@images.command("build", short_help="Make an image.")
@click.argument("name")
@click.option("--from", "dockerfile", type=click.Path(path_type=Path), help="A Dockerfile; needs an Engine.")
@click.option("--apt", metavar="PACKAGE,...", help="Packages of the distribution; needs mmdebstrap.")
@click.option("--host", is_flag=True, help="This machine's sh, python3 and git with all they load.")
@click.option("--python", metavar="REQUIREMENTS", help="The same with these distributions; needs pip.")
def build_image(name: str, dockerfile: Path | None, apt: str | None, host: bool, python: str | None) -> None:
    """Make an image, or make NAME mean another; what runs on the old one keeps it.

    \b
    Examples:
      turnwise images build tools --host
      turnwise images build tools --apt python3,git,ca-certificates
      turnwise images build tools --python 'attrs>=23 idna'
      turnwise images build mine --from path/Dockerfile
    """
    source = chosen(dockerfile, apt, host, python)
    from turnwise.sandbox.images import Store

    store = Store()
    show(store, store.build(name, source))


def chosen(dockerfile: Path | None, apt: str | None, host: bool, python: str | None) -> Source:
    """What to make it of. Raises ``UsageError`` unless one thing is named."""
    from turnwise.envs.errors import UsageError
    from turnwise.sandbox.images import Apt, Dockerfile, Host, Python

    sources: list[Source] = []
    if dockerfile is not None:
        sources.append(Dockerfile(dockerfile))
    if apt is not None:
        sources.append(Apt(tuple(apt.split(","))))
    if host:
        sources.append(Host())
    if python is not None:
        sources.append(Python(tuple(python.split())))
    if len(sources) != 1:
        raise UsageError(
            "images build: name one source: --from Dockerfile, --apt package,package, --host or --python "
            "'requirement requirement'"
        )
    return sources[0]


@images.command("show", short_help="Say what an image is, and check it.")
@click.argument("name")
def show_image(name: str) -> None:
    """Say what an image is, where it is, and whether it is still what was built."""
    from turnwise.sandbox.images import Store
    from turnwise.sandbox.images.tree import measure

    store = Store()
    image = store.image(name)
    show(store, image)
    if measure(store.find(name)).digest != image.digest:
        from turnwise.sandbox.contract import SandboxError

        raise SandboxError(f"image {name!r} was changed since it was built; build it again")


@images.command("remove", short_help="Remove an image.")
@click.argument("name")
def remove_image(name: str) -> None:
    """Remove an image; its files stay while another name means them or a program runs on them."""
    from turnwise.sandbox.images import Store

    Store().remove(name)


def show(store: Store, image: Image) -> None:
    """Print what an image is."""
    from turnwise.viewer.console import make_console, pairs

    lines = [("image", image.name), ("made of", image.source), ("built", f"{image.built:%Y-%m-%d %H:%M} UTC")]
    lines += [("size", f"{image.size / 1e6:,.0f} MB in {image.files:,} files"), ("digest", image.digest)]
    make_console().print(pairs(lines))
    click.echo(store.root(image))
