"""docs/configuration.md, made from the settings' definition: `python -m plugin.reference > docs/configuration.md`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

from plugin.settings import SECTION, Settings

PAGE = """\
# Configuration

<!-- Made from plugin/settings.py by `python -m plugin.reference`; a test compares the two. -->

The plugin reads the section `{section}` of Orthanc's configuration, `orthanc.json`:

```json
{{
  "{section}": {{ "Weights": "densenet121-res224-all", "Workers": 4 }}
}}
```

It is checked when Orthanc starts: an unknown key or a bad value stops Orthanc with the key, the value and what is
allowed. Natively, the file is plain JSON: a comment, which Orthanc itself would take, or a comma too many is refused,
with its line. A variable of the environment overrides the file. The names that begin with `ORTHANC__` are the image's
alone; of the others, `compose.yaml` hands on `OUTPUTS`, and builds the image with `WEIGHTS` and `WEIGHTS_SHA256`.

| key | what it does | allowed | default | variables |
|---|---|---|---|---|
{rows}

## The account, ports and folders

`make serve`, `make demo` and the service take these variables, the service from `/etc/default/orthanc-chest-xray`;
`compose.yaml` takes those whose column says so, from the environment or from a file `.env` beside it.
[operating.md](operating.md) has examples.

| variable | default | compose.yaml | |
|---|---|---|---|
| `CHEST_XRAY_USER` | `chest-xray` | yes | the account's name |
| `CHEST_XRAY_PASSWORD` | made up at the first start | yes | its password |
| `CHEST_XRAY_PASSWORD_FILE` | | yes | a file with the password; the server's user must be able to read it |
| `HTTP_PORT` | `8042` | yes | pages and REST |
| `DICOM_PORT` | `4242` | yes | C-STORE and the rest of DICOM |
| `ADDRESS` | `127.0.0.1` | yes, and there alone | where the image's ports are reached from |
| `MEMORY`, `CPUS` | `8g`, all | yes, and there alone | limits of the container |
| `VARIANT` | `cpu` | yes, and there alone | `servers` builds the image with the client that `Servers` needs |
| `BASE`, `PREPARE_BASE` | in the Dockerfile | yes, and there alone | what the image is built on |
| `POSTGRES_PASSWORD`, `POSTGRES_MEMORY` | none, `2g` | both profiles | of the database, which wants a password |
| `OBJECTS_PASSWORD` | none | profile `cluster` | of the object storage, which wants one too |
| `MODEL_REPOSITORY` | `./model-repository` | profile `cluster` | what `make model-repository` wrote, for Triton |
| `STORAGE` | `~/.local/share/orthanc-chest-xray` | a volume | Orthanc's index and files |

`make serve` and the service answer on the loopback alone. The service's `STORAGE` is `/var/lib/orthanc-chest-xray`: it
may write there alone, and does not see `/home` and `/tmp`. For another folder, `sudo systemctl edit
orthanc-chest-xray` and say there, under `[Service]`, `ReadWritePaths=/the/folder`.

## Orthanc's own settings that matter here

They stand in `orthanc.json`; for the service, in `/etc/orthanc-chest-xray.json`; with Docker, in variables
([how](operating.md#settings)). All are
[Orthanc's own](https://orthanc.uclouvain.be/book/users/configuration.html); these touch the plugin:

| key | |
|---|---|
| `PythonScript` | the path of `plugin/main.py` |
| `UserMetadata` | names the plugin's mark: `"chest-xray": 4750`; without it, the mark has a number alone |
| `LimitFindResults` | must be 0, which it is by default: the limit is on what the plugin asks for, too |
| `HttpServerEnabled` | must be true: the worker processes reach Orthanc over HTTP on its own machine |
| `SslEnabled`, `SslCertificate` | are followed: the workers then check that certificate |
| `AuthenticationEnabled`, `RegisteredUsers` | hold for the plugin's routes too; the workers have a token of their own |
| `OverwriteInstances`, `MaximumStorageSize`, `MaximumPatientCount` | any value; what Orthanc deletes is forgotten |
| `DicomAlwaysAllowStore`, `DicomModalities`, `DicomCheckModalityHost` | who may send over DICOM |
"""


def page() -> str:
    """The whole page, as Markdown."""
    return PAGE.format(section=SECTION, rows="\n".join(row(one) for one in fields(Settings)))


def row(setting: Field[Any]) -> str:
    """One setting's line in the table."""
    default = json.dumps(list(setting.default) if isinstance(setting.default, tuple) else setting.default)
    variables = filter(None, (setting.metadata["variable"], image_variable(setting.name)))
    cells = (
        f"`{setting.name}`",
        setting.metadata["about"],
        allowed(setting),
        f"`{default}`",
        ", ".join(f"`{variable}`" for variable in variables),
    )
    return f"| {' | '.join(cells)} |"


def allowed(setting: Field[Any]) -> str:
    """What the setting's check says of a value that can be no setting."""
    try:
        setting.metadata["check"](object())
    except ValueError as sentence:
        return str(sentence)
    raise AssertionError(f"{setting.name} takes anything")


def image_variable(key: str) -> str:
    """The base image's own variable for a key: `TimeLimit` -> `ORTHANC__CHEST_X_RAY__TIME_LIMIT`."""
    return "__".join(["ORTHANC", *("_".join(words(name)).upper() for name in (SECTION, key))])


def words(name: str) -> Iterator[str]:
    """The words of a name in CamelCase."""
    return (found[0] for found in re.finditer(r"[A-Z][a-z0-9]*", name))


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - this is the command's result
