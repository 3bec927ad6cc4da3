# The program in a small image. The default target computes on CPUs:
#
#     docker build -t lumos .
#     docker run --rm -v "$PWD:/work" lumos run configs/quickstart.toml
#
# With NVIDIA GPUs (driver 580 or newer on the host, NVIDIA's container toolkit):
#
#     docker build --target cuda -t lumos:cuda .
#     docker run --rm --gpus all -v "$PWD:/work" lumos:cuda doctor
#
# Kernels are compiled at run time by NVRTC, so that building needs no CUDA.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Without the names of functions the program is a fifth smaller.
RUN CARGO_PROFILE_RELEASE_STRIP=symbols cargo build --release --locked --features https,parquet --bin lumos

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS cuda
COPY --from=build /src/target/release/lumos /usr/local/bin/lumos
COPY --from=build /src/configs /usr/local/share/lumos/configs
RUN useradd --create-home --uid 10001 lumos
USER 10001
WORKDIR /work
ENTRYPOINT ["lumos"]
CMD ["--help"]

FROM debian:bookworm-slim AS cpu
COPY --from=build /src/target/release/lumos /usr/local/bin/lumos
COPY --from=build /src/configs /usr/local/share/lumos/configs
RUN useradd --create-home --uid 10001 lumos
USER 10001
WORKDIR /work
ENTRYPOINT ["lumos"]
CMD ["--help"]
