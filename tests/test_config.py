import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgepose import EdgeposeError, config
from edgepose.redact import redact_all


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
        ("[output]\nrecord = 'x'\noverlay = \"a\\u0000.mp4\"", r"edgepose.toml holds a null character \(\\u0000\)"),
        ("[[camera]]\nname = 'x'\n[camera.source]\nuri = \"a\\u0000\"", "edgepose.toml holds a null character"),
        ("x = " + "[" * 3000, "edgepose.toml is not valid TOML"),
        ("max_frames = " + "9" * 5000, "edgepose.toml is not valid TOML"),
        ("[engine]\nthreads = 0x" + "f" * 5000, r"key 'engine.threads' \(it is a very long number\)"),
        ("device = 'a/b'", "key 'device'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_fault(text, sentence):
    write(text)
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        config.load(environ={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["source = 'rtsp://me:hush hush@cam/x'", "mqtt = 'mqtt://me:hush@h/?token=hush'"])
def test_a_secret_in_the_wrong_place_is_not_shown(text):
    write(text)
    with pytest.raises(EdgeposeError, match=r"\(it is '.*://\*\*\*@") as caught:
        config.load(environ={})
    assert "hush" not in str(caught.value)


def test_a_text_that_is_too_long_is_not_shown():
    """Cut off it might end before the @ by which a password is known; whole it would take minutes."""
    write(f"source = 'rtsp://me:hush{'x' * 2000}@cam/x'")
    with pytest.raises(EdgeposeError, match=r"\(it is a text of 2020 characters\)") as caught:
        config.load(environ={})
    assert "hush" not in str(caught.value)


def test_cameras_are_all_shown_without_their_passwords():
    uris = ["rtsp://u:hush@cam1/a", "http://v:hush@cam2/b?token=it's hush&fps=5", "rtsp://cam3/c?keyfile=/etc/k.pem",
            'rtsp://u:hu"sh@cam4/d', "me:hush@cam5"]  # fmt: skip
    shown = redact_all([{"name": f"c{i}", "uri": uri, "gate": {"rate": i}} for i, uri in enumerate(uris)])
    assert [camera["uri"] for camera in shown] == [
        "rtsp://***@cam1/a", "http://***@cam2/b?token=***&fps=5", "rtsp://cam3/c?keyfile=/etc/k.pem",
        "rtsp://***@cam4/d", "***@cam5",
    ]  # fmt: skip
    assert shown[3]["gate"] == {"rate": 3}


def test_what_the_file_gets_wrong_as_a_whole_others_may_put_right():
    file = write("[regions]\nmost = 10\n")
    with pytest.raises(EdgeposeError, match=r"edgepose\.toml: regions\.most 10 is more than the 8 people"):
        config.load(path=file, environ={})
    assert config.load({"people.most": 16}, file, environ={}).settings.people.most == 16
    assert config.load(path=file, environ={"EDGEPOSE_PEOPLE_MOST": "16"}).settings.regions.most == 10


def test_a_byte_order_mark_is_no_fault():
    Path("edgepose.toml").write_bytes(b"\xef\xbb\xbfmax_frames = 3\n")
    assert config.load({}, environ={}).settings.max_frames == 3


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
    config.load(environ={"EDGEPOSE_MQTT_PASSWORD": "x", "EDGEPOSE_RTSP_PASSWORD": "y", "EDGEPOSE_HTTP_USER": "z"})
    assert not any("password" in k and k != "mqtt.password_file" for k in config.keys())


TWO = "[[camera]]\nname = 'Front.Door'\nuri = 'a.mp4'\n[[camera]]\nname = 'hall'\nuri = 'b.mp4'\n"


def test_several_cameras_or_one_source():
    several = config.load(path=write(TWO), environ={})
    assert [c.name for c in config.require_cameras(several.settings)] == ["Front.Door", "hall"]
    assert several.origins["camera"] == "edgepose.toml"
    text = (
        "[source]\nuri = 'a.mp4'\ncamera = 'door'\n[output]\noverlay = 'x.mp4'\n[regions]\nmost = 3\n[gate]\nrate = 2\n"
    )
    (one,) = config.load(path=write(text), environ={}).settings.cameras
    assert (one.name, one.uri, one.overlay, one.regions.most, one.gate.rate) == ("door", "a.mp4", "x.mp4", 3, 2)
    with pytest.raises(EdgeposeError, match="no source was given"):
        config.require_cameras(config.load(path=write(""), environ={}).settings)


def test_several_cameras_do_not_come_from_the_environment():
    with pytest.raises(EdgeposeError, match="EDGEPOSE_CAMERA does not fit into a variable; set it in edgepose.toml"):
        config.load(environ={"EDGEPOSE_CAMERA": "[]"})
    with pytest.raises(EdgeposeError, match="there is both a source and"):
        config.load(path=write(TWO), environ={"EDGEPOSE_SOURCE_URI": "c.mp4"})
    found = config.load(path=write(""), environ={"EDGEPOSE_REGIONS_MOST": "3", "EDGEPOSE_GATE_RATE": "2.5"})
    assert (found.settings.regions.most, found.settings.gate.rate) == (3, 2.5)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            "[[camera]]\nname = 'front-door'\nuri = 'c.mp4'\n",
            "'Front.Door' and 'front-door' are both named 'front-door'",
        ),
        ("[[camera]]\nname = 'hall'\nuri = 'c.mp4'\n", "'hall' and 'hall' are both named 'hall' in topics"),
        ("[source]\ncamera = 'door'\n", "source.camera is of the one camera of"),
        ("[gate]\nrate = 2\n", "overlay, regions and gate belong into each"),
        ("overlya = 'x'\n", r"unknown key 'camera\.1\.overlya'; did you mean 'overlay'"),
        (
            "regions.only = [[[0, 0], [1, 1], [0.5, 0.5]]]\n",
            r"key 'camera\.1\.regions\.only\.0': the corners .* on one line",
        ),
    ],
)
def test_wrong_cameras_are_refused(more, sentence):
    with pytest.raises(EdgeposeError, match=sentence):
        config.load(path=write(TWO + more), environ={})


def test_two_cameras_may_both_have_a_window_but_not_one_file():
    text = TWO.replace("uri", "overlay = '{0}'\nuri")
    assert len(config.load(path=write(text.format("window")), environ={}).settings.camera) == 2
    with pytest.raises(EdgeposeError, match=r"both draw into the overlay x\.mp4"):
        config.load(path=write(text.format("x.mp4")), environ={})


def test_values_are_shown_as_json_has_them():
    settings = config.load(path=write(TWO + "regions.only = [[[0, 0], [1, 0], [1, 1]]]\n"), environ={}).settings
    shown = {key: json.loads(json.dumps(config.value_of(settings, key))) for key in config.keys()}
    assert shown["camera"][1]["regions"]["only"] == [[[0, 0], [1, 0], [1, 1]]]
    assert shown["people.every"] == 5


def test_what_looks_at_one_camera_takes_one_table_but_not_two():
    one = TWO.partition("[[camera]]\nname = 'hall'")[0]
    assert config.require_source(config.load(path=write(one), environ={}).settings) == "a.mp4"
    with pytest.raises(EdgeposeError, match="2 are configured; name a file with one by --config"):
        config.require_source(config.load(path=write(TWO), environ={}).settings)


def test_every_setting_is_documented_with_its_flag_and_default():
    """docs/settings.md: one row a key, in the file's order."""
    text = (Path(__file__).parents[1] / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| `")]
    settings = config.load({}, environ={}).settings
    assert [key for key, _, _ in rows] == config.keys()
    command = [sys.executable, "-m", "edgepose", "run", "--help"]
    help_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for key, flag, default in rows:
        if key != "device":
            assert default == json.dumps(config.value_of(settings, key)), key
        assert not flag or re.search(rf"{flag}\b", help_text), flag
    told = {flag.replace("--no-", "--") for _, flag, _ in rows}
    flags = set(re.findall(r"^ *(--[a-z-]+)", help_text, re.MULTILINE))
    assert flags - told == {"--help", "--explain", "--config"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[camera]\nname = 'a'\nuri = 'x'\n", r"key 'camera': there may be several; write \[\[camera\]\], with two"),
        ("source = 'x.mp4'\n", r"key 'source' \(it is 'x.mp4'\): it is a table; write \[source\], and its keys below"),
        (
            "[regions]\nonly = [[0, 0], [1, 0], [1, 1]]\n",
            r"regions\.only\.0\.0' .*: it must be a list, in one more pair",
        ),
        ("device = 'my pi'\n", r"key 'device' \(it is 'my pi'\): use letters, digits, '_', '\.' and '-' alone"),
        ("[mqtt]\nhost = 'hub'\n", r"unknown key 'mqtt\.host'; known keys: .*, url, version"),
    ],
)
def test_what_is_not_as_toml_wants_it_is_told_in_tomls_words(text, sentence):
    with pytest.raises(EdgeposeError, match=sentence):
        config.load(path=write(text), environ={})
