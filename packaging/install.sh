#!/bin/sh
# `sudo make install`: the server as a systemd service; again, and it is upgraded. Storage and settings are kept.
set -eu
umask 022
cd "$(dirname "$0")/.."
name=orthanc-chest-xray
program=/opt/chest-xray
settings=/etc/default/$name

[ "$(id -u)" = 0 ] || { echo "This needs root: sudo make install" >&2; exit 1; }
getent passwd $name > /dev/null || useradd --system --home-dir /var/lib/$name --shell /usr/sbin/nologin $name

# What runs does not see its files change; what waits in Orthanc is done afterwards.
if [ -d /run/systemd/system ] && [ -e /etc/systemd/system/$name.service ]; then
    trap 'echo "Not finished: $name stays stopped. When that is mended: sudo make install" >&2' EXIT
    systemctl stop $name
fi

install -d $program
folders="plugin demo docs samples"
files="upload.py pyproject.toml Makefile README.md README.pt-BR.md SECURITY.md CHANGELOG.md LICENSE"
(cd $program && rm -rf $folders)
cp -R $folders $files $program
(cd $program && chmod -R a+rX $folders $files)
[ -e /etc/$name.json ] || install -m 644 orthanc.json /etc/$name.json
ln -sf /etc/$name.json $program/orthanc.json
make --no-print-directory -C $program .venv/bin/.installed
$program/.venv/bin/python -m compileall -q $program/plugin $program/demo

if [ ! -e $settings ]; then
    password=$(python3 -c 'import secrets; print(secrets.token_urlsafe(12))')
    (umask 077 && cat > $settings) << END
# Read by $name.service; see docs/configuration.md for all that may stand here.
CHEST_XRAY_USER=chest-xray
CHEST_XRAY_PASSWORD=$password
#HTTP_PORT=8042
#DICOM_PORT=4242
#WEIGHTS=densenet121-res224-all
#WEIGHTS_SHA256=
#OUTPUTS=sr,secondary-capture,pdf
END
fi

# What the service's own Orthanc says, which it is asked with the file that it was started with.
answer() {
    started_with=$(tr '\0' '\n' < "/proc/$(systemctl show --property MainPID --value $name)/cmdline" | tail -n 1)
    $program/.venv/bin/python docker/healthcheck.py --alive "$started_with"
}

install -m 644 packaging/$name.service /etc/systemd/system/$name.service
trap - EXIT
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --quiet $name
    systemctl restart $name || true
    seconds=0
    until status=$(answer 2> /dev/null); do
        seconds=$((seconds + 1))
        if [ $seconds -gt 60 ] || systemctl is-failed --quiet $name; then
            echo "The service does not run. The end of its log:" >&2
            journalctl --unit $name --lines 10 --output cat --no-pager >&2
            echo "When that is mended, in $settings perhaps: systemctl restart $name" >&2
            exit 1
        fi
        sleep 1
    done
    echo "Started. Its status: $status"
else
    echo "Installed, and not started: systemd does not run here. What is left to do, where it does:"
    echo "  systemctl daemon-reload && systemctl enable --now $name"
    echo "Without systemd, \`make serve\` in this folder is the same server, in the foreground."
fi
echo "The account stands in $settings, Orthanc's settings in /etc/$name.json."
