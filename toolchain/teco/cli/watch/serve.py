"""``teco serve``."""

from __future__ import annotations

from pathlib import Path

import click

from teco.cli.options import put, say


@click.command("serve")
@click.argument("folder", required=False, type=click.Path(path_type=Path), metavar="[DIR]")
@click.option(
    "--model",
    metavar="NAME|FILE",
    help="What the page begins with: a shipped model, or a file of `teco export --for web`. "
    "[default: real-cpu]",
)
@click.option(
    "--ort-web",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="onnxruntime-web's files. [default: TECO_ORT_WEB, else npm's, kept]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8360,
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--open/--no-open", "show", default=False, help="Open a browser. [default: no]")
def command(
    folder: Path | None,
    model: str | None,
    ort_web: Path | None,
    host: str,
    port: int,
    show: bool,
) -> None:
    """Serve the player for browsers: drop a video, watch it enlarged beside the original.

    DIR is a folder of `teco emit web`; without it one is made for as long as this runs. Only this
    machine can reach the page unless --host says otherwise, and no video ever leaves the browser.
    """
    import tempfile

    from teco.core.errors import USAGE, TecoError

    if folder is not None:
        if model is not None or ort_web is not None:
            given = "--model" if model is not None else "--ort-web"
            raise TecoError(
                f"{given} says what a page is made of, and {folder} is made already",
                hint=f"leave {given} out, or leave {folder} out",
                exit_code=USAGE,
            )
        _serve(folder, host, port, show)
        return
    from teco.model.opening import open_model
    from teco.players.base import EmitRequest
    from teco.players.emit import write
    from teco.players.web import onnxruntime_web
    from teco.players.web.site import DEFAULT_MODEL
    from teco.players.web.target import Web

    spec = DEFAULT_MODEL if model is None else model
    request = EmitRequest(model=open_model(spec), spec=spec)
    runtime = onnxruntime_web.find(ort_web)
    with tempfile.TemporaryDirectory(prefix="teco-serve-") as scratch:
        made = Path(scratch) / "page"
        write(Web(runtime=runtime), request, made, force=False, check=False)
        _serve(made, host, port, show)


def _serve(folder: Path, host: str, port: int, show: bool) -> None:
    import webbrowser

    from teco.players.web.server import Server

    with Server(folder, host, port) as server:
        put(server.url)
        if not server.is_local:
            say(
                f"note: others can reach this page at port {server.server_address[1]}; without "
                "https their browsers give it neither WebGPU nor threads"
            )
        say("Ctrl-C ends it")
        if show:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
