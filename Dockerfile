# The daemon on an NVIDIA GPU (or, without one, on the CPU) with the demo model.
#
#   docker build -t lightforced .
#   docker run --rm --gpus all -p 8900:8900 lightforced
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ meson ninja-build pkg-config libmicrohttpd-dev \
    libwebsockets-dev libvpx-dev libjansson-dev libinih-dev libsentencepiece-dev libutf8proc-dev libdnnl-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN meson setup /build /src --prefix=/usr --buildtype=release -Dtests=disabled \
    && ninja -C /build && DESTDIR=/out meson install -C /build --no-rebuild
# The packages that hold what the program links, whatever this release calls them.
RUN ldd /out/usr/sbin/lightforced | awk '$3 ~ /^\// {print $3}' | xargs -n 1 readlink -f | xargs dpkg -S \
    | cut -d: -f1 | sort -u > /packages

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
COPY --from=build /packages /tmp/packages
RUN apt-get update && xargs apt-get install -y --no-install-recommends curl < /tmp/packages \
    && rm -rf /var/lib/apt/lists/* /tmp/packages \
    && useradd --system --home-dir /var/lib/lightforced --create-home lightforced
COPY --from=build /out /
USER lightforced
EXPOSE 8900
VOLUME /var/lib/lightforced
HEALTHCHECK --interval=10s --start-period=600s CMD ["curl", "-fsS", "http://127.0.0.1:8900/healthz"]
# Beyond loopback without keys has to be spelled out; put a proxy with TLS and access rules in front.
ENTRYPOINT ["/usr/sbin/lightforced", "--listen", "0.0.0.0:8900", "--insecure", "--state-dir", "/var/lib/lightforced"]
