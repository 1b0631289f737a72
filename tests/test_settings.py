"""Settings: every wrong value is named, with its key and what is allowed."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from plugin import limits
from plugin.settings import IN_FLIGHT, BadSetting, Connection, Settings


def test_defaults_are_valid() -> None:
    settings = Settings.read({}, {})
    assert settings.Weights == "densenet121-res224-all"
    assert settings.workers >= 1
    assert Settings.read(settings.as_json(), {}) == settings


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"Wieghts": "x"}, r"ChestXRay\.Wieghts is not a setting; there are Weights, "),
        ({"Weights": 3}, r"ChestXRay\.Weights is 3; it must be a text"),
        ({"WeightsSha256": "abc"}, r"ChestXRay\.WeightsSha256 is 'abc'; it must be 64 hexadecimal digits"),
        ({"Workers": -1}, r"ChestXRay\.Workers is -1; it must be a whole number from 0 to 256"),
        ({"Workers": True}, r"ChestXRay\.Workers is True; it must be a whole number"),
        ({"TimeLimit": "60"}, r"ChestXRay\.TimeLimit is '60'; it must be a whole number from 1"),
        ({"BodyParts": "HAND"}, r"ChestXRay\.BodyParts is 'HAND'; it must be a list of texts"),
        ({"Engine": "cuda"}, r"ChestXRay\.Engine is 'cuda'; it must be one of onnx, torch-cpu, torch-cuda"),
        ({"Servers": "grpc://a:1"}, r"ChestXRay\.Servers is 'grpc://a:1'; it must be a list of texts"),
        (
            {"Servers": ["a:1"]},
            r"ChestXRay\.Servers is \['a:1'\]; it must be a list of addresses such as grpc://host:8001",
        ),
        ({"LocalFallback": 1}, r"ChestXRay\.LocalFallback is 1; it must be true or false"),
        (
            {"Servers": ["grpc://a:1"], "Engine": "torch-cpu"},
            r"ChestXRay\.Engine is 'torch-cpu'; with ChestXRay\.Servers it must be 'onnx'",
        ),
        ([], r"ChestXRay in orthanc\.json is \[\]; it must be a section"),
    ],
)
def test_a_wrong_setting_is_named(section: Any, sentence: str) -> None:
    with pytest.raises(BadSetting) as refused:
        Settings.read(section, {})
    assert re.match(sentence, str(refused.value))


def test_the_environment_overrides_the_file_and_is_named_when_wrong() -> None:
    assert Settings.read({"Weights": "a"}, {"WEIGHTS": "stand-in"}).Weights == "stand-in"
    assert Settings.read({"Weights": "a"}, {"WEIGHTS": ""}).Weights == "a"
    with pytest.raises(BadSetting, match=r"^WEIGHTS_SHA256 is 'zz'"):
        Settings.read({}, {"WEIGHTS_SHA256": "zz"})


def test_a_list_in_a_variable_has_commas() -> None:
    assert Settings.read({"Outputs": ["pdf"]}, {"OUTPUTS": "sr, secondary-capture"}).Outputs == (
        "sr",
        "secondary-capture",
    )
    assert Settings.read({"Outputs": ["pdf"]}, {"OUTPUTS": ""}).Outputs == ("pdf",)
    with pytest.raises(BadSetting, match=r"^OUTPUTS is 'sr,png'; it must be a list with some of sr, "):
        Settings.read({}, {"OUTPUTS": "sr,png"})


@pytest.mark.parametrize(("cores", "gibibytes", "workers"), [(4, 64, 4), (64, 8, 14), (8, 2, 2), (8, 0.5, 1)])
def test_workers_keep_the_cores_busy_and_fit_into_the_memory(
    cores: int, gibibytes: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "cores", lambda: cores)
    monkeypatch.setattr(limits, "memory", lambda: int(gibibytes * (1 << 30)))
    assert Settings.read({}, {}).workers == workers
    assert Settings.read({"Workers": 100}, {}).workers == 100


@pytest.mark.parametrize(("cores", "workers", "threads"), [(2, 2, 2), (64, 14, 4), (8, 3, 3), (2, 8, 2), (8, 1, 1)])
def test_an_image_that_is_alone_has_the_cores_of_the_other_workers(
    cores: int, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "cores", lambda: cores)
    assert Settings.read({"Workers": workers}, {}).threads == threads


def test_a_worker_that_waits_for_servers_has_several_images_under_way() -> None:
    alone = Settings.read({}, {})
    served = Settings.read({"Servers": ["grpc://a:1", "https://b:8000/v"]}, {})
    assert served.workers == alone.workers
    assert (alone.in_flight, served.in_flight) == (1, IN_FLIGHT)
    assert Settings.read({"Servers": ["grpc://a:1"], "Workers": 3}, {}).workers == 3


def test_every_setting_explains_itself() -> None:
    assert all(setting.metadata["about"].endswith(".") for setting in dataclasses.fields(Settings))


def test_orthanc_is_reached_as_its_configuration_says() -> None:
    assert Connection.to_orthanc({}, "t").url == "http://127.0.0.1:8042"
    secure = Connection.to_orthanc({"HttpPort": 1, "SslEnabled": True, "SslCertificate": "c.pem"}, "t")
    assert (secure.url, secure.certificate) == ("https://127.0.0.1:1", "c.pem")
    for addresses, host in (
        ([], "127.0.0.1"),
        (["0.0.0.0"], "127.0.0.1"),
        (["10.0.0.5", "127.0.0.1"], "127.0.0.1"),
        (["10.0.0.5", "10.0.0.6"], "10.0.0.5"),
        (["::1"], "[::1]"),
        (["[::1]"], "[::1]"),
    ):
        assert Connection.to_orthanc({"HttpBindAddresses": addresses}, "t").url == f"http://{host}:8042"
    assert "secret" not in repr(Connection("u", "secret"))


def test_without_an_http_server_the_setting_is_named() -> None:
    with pytest.raises(BadSetting, match="HttpServerEnabled"):
        Connection.to_orthanc({"HttpServerEnabled": False}, "t")
    with pytest.raises(BadSetting, match="LimitFindResults is 100; "):
        Connection.to_orthanc({"LimitFindResults": 100}, "t")
