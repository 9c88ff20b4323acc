# docker build -t teco .                          any machine
# docker build -t teco-nvidia --target nvidia .   NVIDIA GPUs
#
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD":/work teco upscale in.mp4 out.mp4
#
# docs/install.md says more. No CUDA image below: the extra `nvidia` brings CUDA and cuDNN as wheels, and
# the driver comes from the host with --gpus all.

FROM python:3.11.14-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY toolchain toolchain
COPY models models
COPY calibration calibration
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-bookworm AS base
# With --user there may be no name and no home for the number that teco runs as; what it keeps (what a
# step takes, fetched weights) goes to /cache, which a volume can hold.
ENV HOME=/tmp USER=teco TECO_CACHE=/cache PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --no-create-home teco && install -d -m 1777 /cache /work
COPY scripts/docker_entrypoint.sh /usr/local/bin/
WORKDIR /work
ENTRYPOINT ["docker_entrypoint.sh"]
CMD ["--help"]

FROM base AS nvidia
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "teco[nvidia] @ file://$(echo /wheels/teco-*.whl)"
USER 1000

# The last one is what is built without --target.
FROM base AS cpu
ARG EXTRA=cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "teco[${EXTRA}] @ file://$(echo /wheels/teco-*.whl)"
USER 1000
