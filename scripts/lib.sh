# shellcheck shell=bash
# What scripts/up, test, check, bench and soak share: system packages, virtual environment, native builds. Sourced.
# Rules: quick when there is nothing to do; a line before anything that takes time; a failure is a sentence that says
# what to do, with the log's path; nothing of the machine changes but packages and, as root, the users `hsmsim` and
# `hsmsim-gateway`.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
logs="$root/build/logs"
jobs="${JOBS:-$(nproc)}"

fail() {
    printf '\n%s\n' "$*" >&2
    exit 1
}

# step TEXT COMMAND...: says what goes on and how long it took; the output goes to a log that a failure shows.
# The command must hand failures on itself: bash ignores `set -e` in it.
step() {
    local text="$1" log started=$SECONDS
    shift
    mkdir -p "$logs"
    log="$logs/$(tr -cs 'a-zA-Z0-9\n' '-' <<<"${text%)}").log"
    printf '%s ...' "$text"
    if "$@" >"$log" 2>&1 </dev/null; then
        printf ' done (%d s)\n' $((SECONDS - started))
    else
        printf ' failed\n'
        tail -n 30 "$log" >&2
        fail "$text did not work. The lines above are the end of $log."
    fi
}

# ---- system packages ---------------------------------------------------------------------------------------------

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python3.12 python3.13; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "Python 3.11 or newer is needed and was not found. On Debian 12: apt-get install python3. Another one: PYTHON=/path/to/python3 $0"
}

# package_there NAME: whether what the package is needed for is there, wherever it came from.
package_there() {
    case $1 in
    gcc) command -v gcc ;;
    libc6-dev) [[ -e /usr/include/stdio.h ]] ;;
    pkgconf) command -v pkg-config ;;
    libssl-dev) command -v pkg-config && pkg-config --exists 'libcrypto >= 3.0' ;;
    softhsm2) ls /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | grep -q . ;;
    python3-venv) "$python" -c 'import venv, ensurepip' ;;
    python3-dev) [[ -e $("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]] ;;
    nginx-light) [[ -x /usr/sbin/nginx ]] || command -v nginx ;;
    haproxy) [[ -x /usr/sbin/haproxy ]] || command -v haproxy ;;
    p11-kit-modules) ls /usr/lib/*/pkcs11/p11-kit-client.so ;;
    opensc) command -v pkcs11-tool ;;
    gnutls-bin) command -v p11tool && command -v certtool ;;
    libengine-pkcs11-openssl) ls /usr/lib/*/engines-3/pkcs11.so ;;
    openssh-server) [[ -x /usr/sbin/sshd ]] ;;
    openssh-client) command -v ssh-keygen && command -v ssh-agent ;;
    openjdk-17-jdk-headless) command -v keytool && command -v javac ;;
    iproute2) command -v ip ;;
    postgresql) ls /usr/lib/postgresql/*/bin/initdb ;;
    libclang-rt-14-dev) ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

apt_install() {
    local -a as_root=()
    if ((EUID != 0)); then
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -q || return
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

need_packages() {
    local -a missing=()
    local name
    for name in "$@"; do
        package_there "$name" || missing+=("$name")
    done
    if ((${#missing[@]} == 0)); then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        fail "These are missing and this machine has no apt-get: install what Debian calls ${missing[*]}, then run $0 again."
    fi
    if ((EUID != 0)) && ! { command -v sudo >/dev/null && sudo -v; }; then
        fail "These Debian packages are missing: ${missing[*]}
Ask an administrator to run: apt-get install --no-install-recommends ${missing[*]}
Then run $0 again."
    fi
    step "Installing ${missing[*]}" apt_install "${missing[@]}"
    for name in "${missing[@]}"; do
        package_there "$name" || fail "Debian's $name is installed, but what it is needed for is not there. Is PYTHON one of your own? It needs its headers and ensurepip."
    done
}

# ---- virtual environment -----------------------------------------------------------------------------------------

make_command() { # NAME MODULE
    printf '#!/bin/sh\nexec "$(dirname "$(readlink -f "$0")")/python" -P -m %s "$@"\n' "$2" >"$venv/bin/$1"
    chmod +x "$venv/bin/$1"
}

create_venv() { # $1: lock file
    if [[ ! -x $venv/bin/python || $("$venv/bin/python" -c 'import sys; print(sys._base_executable)') != "$("$python" -c 'import sys; print(sys._base_executable)')" ]]; then
        "$python" -m venv --clear "$venv" || return
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$1" || return
    # No editable install: its import hook runs ninja at every import. A path file and a script do the same at no cost.
    echo "$root" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hsmsim.pth"
    make_command hsmsim hsmsim.cli
    make_command cloudhsm-cli hsmsim.cli.cloudhsm
}

need_venv() { # $1: requirements.lock or requirements-dev.lock
    local stamp
    stamp="$root $python $(cat "$root/requirements.lock" "$root/$1" "${BASH_SOURCE[0]}" | sha256sum)"
    # The larger set serves for the smaller one, too.
    if [[ -x $venv/bin/hsmsim ]] && grep -qxF "$stamp" "$venv/.stamp" 2>/dev/null; then
        return
    fi
    step "Making the virtual environment .venv from $1" create_venv "$root/$1"
    if [[ $1 == requirements.lock ]]; then
        echo "$stamp" >"$venv/.stamp"
    else
        printf '%s\n' "$stamp" "$root $python $(cat "$root/requirements.lock" "$root/requirements.lock" "${BASH_SOURCE[0]}" | sha256sum)" >"$venv/.stamp"
    fi
}

# ---- native builds -----------------------------------------------------------------------------------------------

run_meson() { # $1: folder; rest: arguments of meson setup
    local folder="$1" stamp
    shift
    stamp="$python $(sha256sum <"$root/meson.options") ${CC:-cc} $*"
    if [[ ! -e $folder/build.ninja || $(cat "$folder/.arguments" 2>/dev/null) != "$stamp" ]]; then
        rm -rf "$folder/meson-private" "$folder/meson-info" "$folder/build.ninja"
        meson setup "$folder" "$root" "$@" || return
        echo "$stamp" >"$folder/.arguments"
    fi
    ninja -C "$folder" -k 0 -j "$jobs"
}

# native_build NAME ARGUMENTS...: build/ (NAME plain) or build-NAME/; quiet when nothing changed.
native_build() {
    local name="$1" folder
    folder="$(folder_of "$1")"
    shift
    PATH="$venv/bin:$PATH"
    if [[ -e $folder/build.ninja && $(ninja -C "$folder" -n 2>/dev/null | tail -n 1) == *"no work to do"* ]] &&
        [[ $(cat "$folder/.arguments" 2>/dev/null) == "$python $(sha256sum <"$root/meson.options") ${CC:-cc} $*" ]]; then
        return
    fi
    step "Building the native half ($name)" run_meson "$folder" "$@"
}

build_sanitized() {
    native_build asan -Db_sanitize=address,undefined -Dpython=false
    native_build tsan -Db_sanitize=thread -Dpython=false
}

folder_of() { # $1: plain, asan, tsan, fuzz
    if [[ $1 == plain ]]; then
        echo "$root/build"
    else
        echo "$root/build-$1"
    fi
}

# native_tests NAME...: the programs of tests/native in these builds.
native_tests() {
    local name
    # ThreadSanitizer of this gcc does not know the addresses that newer kernels hand out at random.
    local -a fixed_addresses=()
    if setarch "$(uname -m)" -R true 2>/dev/null; then
        fixed_addresses=(setarch "$(uname -m)" -R)
    fi
    for name in "$@"; do
        printf '\nNative tests (%s)\n' "$name"
        ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
            TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
            "${fixed_addresses[@]}" meson test -C "$(folder_of "$name")" --print-errorlogs --quiet </dev/null ||
            fail "Native tests failed in the $name build."
    done
}

# run_fuzzers SECONDS: each target of native/fuzz on its seed corpus and on what it found in earlier runs, then on with
# mutations for so long. An input that is a finding stays in build-fuzz/found; mended, it moves to the corpus as found-*.
run_fuzzers() {
    local target name found
    compgen -G "$root/native/fuzz/fuzz_*.c" >/dev/null || return 0
    need_packages "${fuzz_packages[@]}"
    CC=clang native_build fuzz -Dfuzzers=true -Dpython=false -Db_sanitize=address,undefined -Db_lundef=false
    found="$root/build-fuzz/found"
    for target in "$root"/build-fuzz/native/fuzz/fuzz_*; do
        if [[ -f $target && -x $target ]]; then
            name="$(basename "$target")"
            mkdir -p "$found/$name" "$root/native/fuzz/corpus/$name"
            echo "$name"
        fi
    done | xargs -r -P "$jobs" -I{} bash -c '
        options=(-max_total_time="$1" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$0/found/{}.")
        [[ ! -e $2/../{}.dict ]] || options+=(-dict="$2/../{}.dict")
        "$0/native/fuzz/{}" "${options[@]}" "$0/found/{}" "$2/{}" >"$0/{}.log" 2>&1 </dev/null ||
            { echo "{} found something:"; tail -n 40 "$0/{}.log"; exit 255; }
        echo "{}: $(grep -o "stat::number_of_executed_units: *[0-9]*" "$0/{}.log" | grep -o "[0-9]*$") inputs, nothing found"
    ' "$root/build-fuzz" "$1" "$root/native/fuzz/corpus" || fail "A fuzz target failed; its input is in $found."
}

# In a checkout the libraries stand where a wheel has them.
link_native() {
    local suffix
    suffix="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"
    mkdir -p "$root/hsmsim/hsm"
    ln -sfn ../build/native/module/libhsmsim_pkcs11.so "$root/hsmsim/libhsmsim_pkcs11.so"
    ln -sfn ../build/native/provider/hsmsim-provider.so "$root/hsmsim/hsmsim-provider.so"
    ln -sfn "../../build/native/engine/_engine$suffix" "$root/hsmsim/hsm/_engine$suffix"
    ln -sfn "../../build/native/binding/_signer$suffix" "$root/hsmsim/native/_signer$suffix"
}

# ---- all of it ---------------------------------------------------------------------------------------------------

# Where PYTHONDONTWRITEBYTECODE is set, or the HSMs' account may not write here, every process would compile anew.
compile_python() {
    "$venv/bin/python" -m compileall -q -j 0 "$root/hsmsim"
}

make_user() {
    if ((EUID == 0)) && ! getent passwd hsmsim >/dev/null; then
        useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin hsmsim 2>/dev/null ||
            echo "The system user hsmsim cannot be made here; the HSMs will run as root." >&2
    fi
    if ((EUID == 0)) && getent passwd hsmsim >/dev/null && ! getent passwd hsmsim-gateway >/dev/null; then
        # In hsmsim's group, which may pass through the state folder to the gateway's own part of it.
        useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --groups hsmsim hsmsim-gateway 2>/dev/null ||
            echo "The system user hsmsim-gateway cannot be made here; the gateway will run as root." >&2
    fi
}

up_packages=(gcc libc6-dev pkgconf libssl-dev softhsm2 python3-venv python3-dev)
test_packages=(gdb nginx-light haproxy p11-kit p11-kit-modules postgresql opensc gnutls-bin iproute2 libengine-pkcs11-openssl openssh-server openssh-client openjdk-17-jdk-headless curl wrk openssl)
fuzz_packages=(clang libclang-rt-14-dev)

# set_up LOCK PACKAGES...: one at a time in this checkout; the lock is not inherited by what runs afterwards.
set_up() {
    local lock="$1"
    shift
    python="$(find_python)"
    mkdir -p "$root/build"
    {
        flock -n 9 || { echo "Another set-up of this checkout is running; waiting for it." && flock 9; }
        need_packages "${up_packages[@]}" "$@"
        need_venv "$lock"
        native_build plain
        link_native
        compile_python
        make_user
    } 9>"$root/build/.lock"
    PATH="$venv/bin:$PATH"
}
