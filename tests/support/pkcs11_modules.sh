#!/usr/bin/env bash
# Starts a software token and runs a command beside it.
#
#   pkcs11_modules.sh nss|opencryptoki|tpm DIRECTORY COMMAND...
#
# DIRECTORY is empty and holds a file `pin`. The token is called keystay-peer. The command finds
# KEYSTAY_TEST_MODULE, KEYSTAY_TEST_TOKEN and KEYSTAY_TEST_PIN_FILE in its environment.
set -euo pipefail
what=$1 dir=$2
shift 2
PATH=$PATH:/usr/sbin:/sbin
export KEYSTAY_TEST_TOKEN=keystay-peer KEYSTAY_TEST_PIN_FILE=$dir/pin

wait_for() { # COMMAND...: until it succeeds, 10 s at most
    for _ in {1..200}; do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.05
    done
    echo "in vain: $*" >&2
    return 1
}

find_module() { compgen -G "/usr/lib/*/$1" | head -n 1; }

init_token() {
    pkcs11-tool --module "$KEYSTAY_TEST_MODULE" --slot-index 0 --init-token --label "$KEYSTAY_TEST_TOKEN" \
        --so-pin 87654321 >&2
    pkcs11-tool --module "$KEYSTAY_TEST_MODULE" --token-label "$KEYSTAY_TEST_TOKEN" --login \
        --login-type so --so-pin 87654321 --init-pin --new-pin "$(<"$dir/pin")" >&2
}

nss() {
    mkdir "$dir/db"
    certutil -N -d "sql:$dir/db" -f "$dir/pin"
    KEYSTAY_TEST_MODULE=$(find_module libsoftokn3.so)
    KEYSTAY_TEST_INIT_ARGS="configdir='sql:$dir/db' certPrefix='' keyPrefix='' secmod='secmod.db' "
    # shellcheck disable=SC2089  # the quotes go to NSS as they are
    KEYSTAY_TEST_INIT_ARGS+="flags= dbTokenDescription='$KEYSTAY_TEST_TOKEN'"
    # shellcheck disable=SC2090
    export KEYSTAY_TEST_MODULE KEYSTAY_TEST_INIT_ARGS
    exec "$@"
}

# In mount and IPC namespaces of its own: nothing of the machine's changes. Needs root.
opencryptoki() {
    if [[ -z ${KEYSTAY_TEST_UNSHARED-} ]]; then
        KEYSTAY_TEST_UNSHARED=1 exec unshare -m -i "$0" opencryptoki "$dir" "$@"
    fi
    mount --make-rprivate /
    mkdir -p "$dir"/{etc,lock} /var/lock/opencryptoki /var/log/opencryptoki
    cp -a /var/lib/opencryptoki "$dir/lib"
    printf 'version opencryptoki-3.1\n\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n' \
        >"$dir/etc/opencryptoki.conf"
    mount --bind "$dir/etc" /etc/opencryptoki
    mount --bind "$dir/lib" /var/lib/opencryptoki
    mount --bind "$dir/lock" /var/lock/opencryptoki
    mount -t tmpfs tmpfs /dev/shm
    mkdir -p /var/lock/opencryptoki/{swtok,tpm,lite,ccatok,ep11tok,icsf}
    chgrp -R pkcs11 /var/lock/opencryptoki
    chmod -R 770 /var/lock/opencryptoki
    pkcsslotd -f >"$dir/log" 2>&1 &
    trap 'kill $(jobs -p)' EXIT
    KEYSTAY_TEST_MODULE=$(find_module opencryptoki/libopencryptoki.so.0)
    export KEYSTAY_TEST_MODULE
    wait_for pkcs11-tool --module "$KEYSTAY_TEST_MODULE" --list-slots
    init_token
    "$@"
}

listens() { : <>"/dev/tcp/127.0.0.1/$1"; }

on_the_bus() {
    dbus-send --session --print-reply=literal --dest=org.freedesktop.DBus / \
        org.freedesktop.DBus.NameHasOwner "string:$1" | grep -q true
}

# A TPM 2.0 in software, its resource manager on a bus of its own, and tpm2-pkcs11.
tpm() {
    if [[ -z ${KEYSTAY_TEST_BUS-} ]]; then
        KEYSTAY_TEST_BUS=1 exec dbus-run-session -- "$0" tpm "$dir" "$@"
    fi
    mkdir "$dir"/{state,store}
    local port=$((20000 + $$ % 10000 * 2))
    swtpm socket --tpm2 --tpmstate "dir=$dir/state" \
        --server "type=tcp,port=$port,bindaddr=127.0.0.1" \
        --ctrl "type=tcp,port=$((port + 1)),bindaddr=127.0.0.1" \
        --flags not-need-init,startup-clear >"$dir/log" 2>&1 &
    trap 'kill $(jobs -p)' EXIT
    wait_for listens $((port + 1))
    tpm2-abrmd --session --allow-root --tcti="swtpm:host=127.0.0.1,port=$port" >>"$dir/log" 2>&1 &
    wait_for on_the_bus com.intel.tss2.Tabrmd
    export TPM2_PKCS11_TCTI=tabrmd:bus_type=session TPM2_PKCS11_STORE=$dir/store
    export TPM2_PKCS11_LOG_LEVEL=0 TSS2_LOG=all+none
    KEYSTAY_TEST_MODULE=$(find_module pkcs11/libtpm2_pkcs11.so)
    export KEYSTAY_TEST_MODULE
    init_token
    "$@"
}

"$what" "$@"
