"""packaging/packages.sh, with other programs and places in those of the system."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from demo.serve import ROOT

SAYS_SO = """\
#!/bin/sh
echo "$@ policy: $(test -x "$POLICY" && echo yes || echo no)" >> "$HERE/said"
case $* in *"$FAILS"*) exit 100 ;; *install*) sleep 0.5; echo installed > "$HERE/status" ;; esac
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy that touches nothing but this folder."""
    text = (ROOT / "packaging/packages.sh").read_text()
    for place in ("/usr/sbin/policy-rc.d", "/run/chest-xray-packages.lock"):
        assert text.count(place) == 1
        text = text.replace(place, str(tmp_path / Path(place).name))
    (tmp_path / "packages.sh").write_text(text)
    (tmp_path / "bin").mkdir()
    programs = {
        "apt-get": SAYS_SO,
        "dpkg-query": '#!/bin/sh\ncat "$HERE/status"\n',
        "systemctl": "#!/bin/sh\n",
    }
    for name, program in programs.items():
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path / "packages.sh"


def begin(script: Path, fails: str = "nothing") -> subprocess.Popen[str]:
    here = script.parent
    environ = {"PATH": f"{here}/bin:{os.environ['PATH']}", "HERE": str(here), "POLICY": str(here / "policy-rc.d")}
    command = ["sh", str(script), "orthanc"]
    return subprocess.Popen(command, env=environ | {"FAILS": fails}, stderr=subprocess.PIPE, text=True)


def said(script: Path) -> list[str]:
    """What apt-get was asked for, and whether a policy stood there."""
    lines = (script.parent / "said").read_text().splitlines()
    return [" ".join(word for word in line.split() if word in ("update", "install", "yes", "no")) for line in lines]


def test_two_at_once_go_one_after_the_other(script: Path) -> None:
    """Each would else take the other's policy for one that was left behind, and remove it before its time."""
    both = [begin(script), begin(script)]
    errors = [one.communicate(timeout=30)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], errors
    assert sum("waiting" in error for error in errors) == 1
    assert said(script) == ["update no", "install yes", "update no", "install no"]
    assert not (script.parent / "policy-rc.d").exists()


@pytest.mark.parametrize("fails", ["update", "install"])
def test_the_policy_of_before_is_put_back_whatever_fails(script: Path, fails: str) -> None:
    """One of an administrator's, whether this time is cut short or the last one was."""
    policy, others = script.parent / "policy-rc.d", script.parent / "policy-rc.d.before-chest-xray"
    others.write_text("an administrator's")
    policy.write_text("# Made for one installation by packaging/packages.sh")
    one = begin(script, fails)
    one.communicate(timeout=30)
    assert one.returncode
    assert policy.read_text() == "an administrator's" and not others.exists()
