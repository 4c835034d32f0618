#!/usr/bin/env bash
# Makes .venv and installs what is missing; quick and silent when nothing is.
# usage: deploy/setup.sh run|dev      run: the device and the demo; dev: also trainer, tests and lint
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-run}
case $profile in run | dev) ;; *) echo "usage: deploy/setup.sh run|dev" >&2; exit 2 ;; esac

# GStreamer with its Python binding and the decoders; a broker and its clients.
apt_packages=(
  python3-venv python3-gi python3-gst-1.0 gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-libav gstreamer1.0-x
  mosquitto mosquitto-clients
)
if [ "$profile" = dev ]; then # for the tests: an RTSP server, an H.264 encoder, a virtual display
  apt_packages+=(gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly gstreamer1.0-tools openssl xvfb xauth)
fi

say() { printf 'setup: %s\n' "$*"; }

install_apt() {
  local missing=() package
  for package in "${apt_packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      root=(sudo)
    else
      say "not root and no sudo: cannot install ${missing[*]}; going on without them (video through PyAV)"
      return
    fi
  fi
  say "installing ${missing[*]}"
  "${root[@]}" apt-get update -qq >.setup.log 2>&1 || say "apt-get update failed; going on with the lists at hand"
  local known=()
  for package in "${missing[@]}"; do # one that this release lacks must not keep the others out
    if apt-cache show "$package" >/dev/null 2>&1; then known+=("$package"); else say "apt has no $package here"; fi
  done
  [ ${#known[@]} -eq 0 ] && return
  if ! "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${known[@]}" \
    >>.setup.log 2>&1; then
    tail -n 5 .setup.log >&2
    say "apt could not install ${known[*]} (see .setup.log); going on without them (video through PyAV)"
  else
    rm -f .setup.log
  fi
}

if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
  install_apt
elif [ ! -e .venv ]; then
  say "no apt here: video goes through PyAV unless GStreamer's Python binding is installed by other means"
fi

# The distribution's own Python sees the distribution's GStreamer binding (and a Jetson's TensorRT).
python=python3
if [ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  python=/usr/bin/python3
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  say "$("$python" --version) is too old; install Python 3.10 or newer and type the command again" >&2
  exit 1
fi
if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  say "making .venv from $python"
  "$python" -m venv --clear --system-site-packages .venv || {
    say "$python cannot make a virtual environment; install python3-venv and type the command again" >&2
    exit 1
  }
fi

stamp=.venv/.installed-$profile-$(cat pyproject.toml deploy/constraints.txt | sha256sum | cut -c1-16)
if [ ! -e "$stamp" ]; then
  extras='openvino,onnxruntime,pyav,demo-broker'
  [ "$profile" = dev ] && extras="$extras,trainer,calibration,test"
  say "installing edgepose[$extras] into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e ".[$extras]" \
    2> >(grep -v -e WARNING -e '^$' >&2)
  touch "$stamp"
fi

# A Jetson: TensorRT comes with JetPack, the GPU's memory by cuda-python of its CUDA.
if [ -e /etc/nv_tegra_release ] && [ ! -e "$stamp-cuda" ]; then
  cuda=$(readlink -f /usr/local/cuda | sed -n 's/.*cuda-\([0-9]*\.[0-9]*\).*/\1/p')
  say "installing cuda-python for CUDA ${cuda:-unknown}"
  pip=(.venv/bin/python -m pip --quiet --disable-pip-version-check)
  "${pip[@]}" install -c deploy/constraints.txt -e '.[jetson]' || say "no converter to float16: TensorRT 11 wants one (docs/jetson.md)"
  # torch brings cuda-bindings of its own CUDA; the two hold files of the same names, so both go before one comes.
  wheels=$(mktemp -d)
  trap 'rm -rf "$wheels"' EXIT
  if [ -n "$cuda" ] && "${pip[@]}" download --dest "$wheels" "cuda-python==$cuda.*" &&
    "${pip[@]}" uninstall --yes cuda-python cuda-bindings cuda-core &&
    "${pip[@]}" install --no-index --find-links "$wheels" "cuda-python==$cuda.*"
  then
    touch "$stamp-cuda"
  else
    say "cuda-python is left as it is; without one of that CUDA TensorRT is left aside (docs/jetson.md, step 3). The next set-up tries again"
  fi
fi
