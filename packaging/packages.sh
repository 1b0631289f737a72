#!/bin/sh
# Installs the Debian packages that are named; as root.
#
# The package orthanc comes with a service of its own, which would be started at once and with every start of the machine,
# on the ports that are wanted here. Where this installs that package, it does neither. A service that was there before
# belongs to somebody, and is left alone.
set -eu

policy=/usr/sbin/policy-rc.d # how an administrator tells Debian which services may be started
others=$policy.before-chest-xray
lock=/run/chest-xray-packages.lock

keep_orthanc_from_starting() {
    # One that stands here already goes on answering for all other services.
    if [ -e $policy ]; then mv $policy $others; fi
    cat > $policy << END
#!/bin/sh
# Made for one installation by packaging/packages.sh, which takes it away again.
case " \$* " in *" orthanc "* | *" orthanc.service "*) exit 101 ;; esac
[ ! -x $others ] || exec $others "\$@"
END
    chmod 755 $policy
}

put_the_policy_back() {
    if [ -e $others ]; then mv -f $others $policy; else rm -f $policy; fi
}

disable_orthanc() {
    is_there orthanc || return 0
    if command -v systemctl > /dev/null; then systemctl disable --quiet orthanc; else update-rc.d orthanc disable; fi
    echo "Debian's own Orthanc service is neither started nor enabled; if you want it: systemctl enable --now orthanc"
}

is_there() {
    case $(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2> /dev/null) in
        installed | triggers-*) ;;
        *) false ;;
    esac
}

apt() {
    # Without the lock, which a service that a package starts would keep.
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=5 -q "$@" 9>&-
}

# One after the other: what stands in the policy's place would be the other one's.
exec 9> $lock
flock --nonblock 9 || { echo "Another one installs packages; waiting for it" >&2; flock 9; }
if grep -qs packaging/packages.sh $policy || { [ -e $others ] && [ ! -e $policy ]; }; then # the last time was cut short
    put_the_policy_back
fi
apt update
if ! is_there orthanc; then
    trap 'put_the_policy_back; disable_orthanc' EXIT
    trap 'exit 1' HUP INT TERM
    keep_orthanc_from_starting
fi
apt install -y --no-install-recommends "$@"
