"""``teco emit web``: a folder that any web server can serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teco.players.base import Emission, EmitRequest
from teco.players.web import onnxruntime_web
from teco.players.web.site import site, web_models
from teco.players.web.trial import browser, trial

TRIAL_SIZE = (16, 24)
"""(h, w) of the trial's frames."""

_NOTES = """\
Neither needs a network. Any other web server does as well. Threads (for WebAssembly) want the
headers `Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp`,
which `teco serve` sends; where a server does not, the page's own service worker adds them from the
second visit on. Browsers give WebGPU, threads and offline use to https and to localhost only.
Opening `index.html` as a file does not work: browsers load no modules that way.

Nothing that is dropped on the page leaves the browser, and the page's policy
(Content-Security-Policy) lets it connect to its own server alone. What was used once is kept and
works offline.

`teco.js` is a module for pages of your own:

```js
import { Upscaler } from "./teco.js";
const upscaler = await Upscaler.open({ model: new URL("MODEL", location.href) });
const { rgba, width, height } = await upscaler.enlarge(imageData);
```

`ort/` is onnxruntime-web by Microsoft, under the MIT licence (`licences/onnxruntime-web.txt`).
"""


@dataclass(frozen=True, kw_only=True)
class Web:
    """See the module.

    Attributes:
        runtime: onnxruntime-web's files; None for :func:`onnxruntime_web.find`'s order.
    """

    name: str = "web"
    summary: str = "a page for browsers, where one drops a video and watches it beside the original"
    runtime: onnxruntime_web.WebRuntime | None = None

    def text(self, request: EmitRequest) -> str | None:
        return None

    def emission(self, request: EmitRequest) -> Emission:
        models = web_models(request.spec)
        runtime = self.runtime or onnxruntime_web.find()
        files = site(models, runtime)
        first = models[0].onnx
        assert first is not None
        return Emission(
            main="index.html",
            files=files,
            commands=("teco serve .", "python -m http.server --bind 127.0.0.1 8000"),
            notes=_NOTES.replace("MODEL", f"models/{first.name}"),
            with_model=False,
        )

    def check(self, folder: Path, request: EmitRequest) -> str:
        program = browser()
        if program is None:
            return "not tried: there is no Chromium or Chrome here"
        trial(program, folder, request.model.static_size or TRIAL_SIZE)
        return f"{Path(program).name} ran its models on three frames"
