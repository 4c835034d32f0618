from pathlib import Path

import pytest

from edgepose import EdgeposeError, config


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text, name="edgepose.toml"):
    path = Path(name)
    path.write_text(text)
    return path


def test_flags_over_environment_over_file_over_defaults():
    write('model = "from-file"\n[mqtt]\nurl = "mqtt://file"\nqos = 1\nqueue = 7\n')
    environ = {"EDGEPOSE_MQTT_URL": "mqtt://env", "EDGEPOSE_MQTT_QOS": "0", "PATH": "x"}
    found = config.load({"mqtt.url": "mqtt://flag", "engine.threads": None}, environ=environ)
    s = found.settings
    assert (s.mqtt.url, s.mqtt.qos, s.mqtt.queue, s.model) == ("mqtt://flag", 0, 7, "from-file")
    assert found.origins["mqtt.url"] == "command line"
    assert found.origins["mqtt.qos"] == "EDGEPOSE_MQTT_QOS"
    assert found.origins["mqtt.queue"] == "edgepose.toml"
    assert found.origins["engine.threads"] == "default"
    assert set(found.origins) == set(config.keys())


def test_file_by_flag_and_by_environment():
    other = write('model = "other"', "other.toml")
    assert config.load(path=other, environ={}).settings.model == "other"
    assert config.load(environ={"EDGEPOSE_CONFIG": "other.toml"}).settings.model == "other"


def test_without_a_file_the_defaults_hold():
    settings = config.load(environ={}).settings
    assert settings.mqtt.url == ""
    assert settings.device


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("modle = 'x'", "edgepose.toml: unknown key 'modle'; did you mean 'model'"),
        ("[mqtt]\nulr = 'x'", r"edgepose.toml: unknown key 'mqtt.ulr'; did you mean 'url'"),
        ("[mqqt]\nurl = 'x'", "unknown key 'mqqt'; did you mean 'mqtt'"),
        ("[mqtt]\nqos = 3", r"edgepose.toml: key 'mqtt.qos' \(it is 3\)"),
        ("[engine]\nthreads = 'many'", "key 'engine.threads'"),
        ("[engine\n", "edgepose.toml is not valid TOML"),
        ("device = 'a/b'", "key 'device'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_fault(text, sentence):
    write(text)
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        config.load(environ={})
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(EdgeposeError, match=r"nowhere\.toml does not exist"):
        config.load(path=Path("nowhere.toml"), environ={})


def test_a_misspelt_variable_is_named():
    with pytest.raises(EdgeposeError, match="'EDGEPOSE_MQTT_ULR'; did you mean 'EDGEPOSE_MQTT_URL'"):
        config.load(environ={"EDGEPOSE_MQTT_ULR": "x"})


def test_a_wrong_variable_names_itself():
    with pytest.raises(EdgeposeError, match="EDGEPOSE_ENGINE_THREADS: key 'engine.threads'"):
        config.load(environ={"EDGEPOSE_ENGINE_THREADS": "several"})


def test_secrets_are_not_settings():
    config.load(environ={"EDGEPOSE_MQTT_PASSWORD": "x", "EDGEPOSE_RTSP_PASSWORD": "y"})
    assert not any("password" in k and k != "mqtt.password_file" for k in config.keys())
