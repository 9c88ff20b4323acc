#!/usr/bin/env bash
# Build an mpv with the VapourSynth filter, which Debian's own has not, and play a clip through it.
#
#     sudo scripts/build_mpv_vapoursynth.sh /opt/mpv-vapoursynth [CLIP]
#
# Needs root, debootstrap, 3 GB and Debian's mirror and PyPI. The folder becomes a Debian 13 of its
# own, with mpv from that release's source package, VapourSynth from PyPI's wheel and this teco:
# nothing of the system outside it is changed. Run again, it goes on where it stopped.
# At the end it plays the clip there without a screen, seeks, and prints what the filter said; a run of
# it is recorded beside this file, build_mpv_vapoursynth.txt.
set -euo pipefail

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
here=$(cd "$(dirname "$0")/.." && pwd)
root=${1:?"usage: $0 FOLDER [CLIP]"}
clip=${2:-$here/examples/city.mp4}

command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt install debootstrap" >&2; exit 3; }
[ "$(id -u)" = 0 ] || { echo "debootstrap needs root: run it with sudo" >&2; exit 3; }

done_marks=$root/var/lib/teco
step() { # NAME COMMAND...: once
    local name=$1
    shift
    [ -e "$done_marks/$name" ] && return
    echo "== $name" >&2
    "$@"
    mkdir -p "$done_marks"
    touch "$done_marks/$name"
}

inside() {
    chroot "$root" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        PIP_CERT=/opt/ca.crt \
        PATH=/opt/python/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

mount_proc() {
    mkdir -p "$root/proc"
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
}
trap '! mountpoint -q "$root/proc" || umount "$root/proc"' EXIT

sources() {
    cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
    printf 'deb %s trixie main\ndeb-src %s trixie main\n' "$mirror" "$mirror" \
        >"$root/etc/apt/sources.list"
    inside apt-get -q update
    inside apt-get -qy --no-install-recommends install \
        build-essential dpkg-dev python3-venv python3-dev libpython3.13 ca-certificates
    inside apt-get -qy --no-install-recommends build-dep mpv
}

vapoursynth() {
    # This machine's certificates: its network may have an authority of its own.
    cp /etc/ssl/certs/ca-certificates.crt "$root/opt/ca.crt"
    inside python3 -m venv /opt/python
    inside pip install -q --disable-pip-version-check vapoursynth==81
    rm -rf "$root/opt/teco"
    mkdir -p "$root/opt/teco"
    tar -C "$here" --exclude-vcs --exclude=.venv -cf - . | tar -C "$root/opt/teco" -xf -
    inside pip install -q --disable-pip-version-check /opt/teco
    inside vapoursynth config
    # The wheel has vapoursynth.pc; mpv also asks for the script library, by its older name.
    cat >"$root/opt/vapoursynth-script.pc" <<'PC'
wheel=/opt/python/lib/python3.13/site-packages/vapoursynth

Name: vapoursynth-script
Description: what evaluates VapourSynth scripts
Version: 81
Cflags: -I${wheel}/include
Libs: -L${wheel} -l:libvsscript.so -Wl,-rpath,${wheel}
PC
    # Its vapoursynth.pc has no library of its own to link: all goes through the script library.
}

build() {
    inside bash -euc '
        cd /opt
        apt-get -q source mpv
        cd mpv-*/
        export PKG_CONFIG_PATH=/opt:$(python -c "import vapoursynth; print(vapoursynth.get_pkgconfig_dir())")
        meson setup build -Dvapoursynth=enabled -Dlibmpv=false -Dmanpage-build=disabled
        ninja -C build
        install build/mpv /usr/local/bin/mpv
        mpv --vf=help | grep -i vapoursynth'
}

trial() {
    cp "$clip" "$root/opt/clip.mp4"
    inside bash -euc '
        cd /opt
        rm -rf emitted
        teco emit mpv -o emitted --model live --runtime onnxruntime
        cd emitted
        mpv --version | head -1
        play() {
            mpv --no-config --include=teco.conf --profile=teco --vo=null --ao=null --no-terminal \
                --log-file=/opt/mpv.log --msg-level=all=v "$@" /opt/clip.mp4
            grep -E "^\[[^]]*\]\[[a-z]\]\[(vapoursynth|vf)\]|VO:" /opt/mpv.log |
                grep -E "concurrent|\[in\]|\[out\]|VO: \[|failed" | sed -E "s/^\[[^]]*\]\[.\]//"
            echo "filter reset $(grep -c "returning error on reset" /opt/mpv.log) times"
        }
        echo "from the beginning:"
        play --frames=20
        echo "from the middle:"
        play --start=1 --frames=10
        # Each turn of the loop is a seek, at which mpv evaluates the script anew.
        echo "0.2 s in a loop of three:"
        play --ab-loop-a=0.5 --ab-loop-b=0.7 --ab-loop-count=3 --end=1'
}

[ -e "$done_marks/bootstrap" ] || step bootstrap debootstrap --variant=minbase trixie "$root" "$mirror"
mount_proc
step sources sources
step vapoursynth vapoursynth
step build build
echo "== trial" >&2
trial
