"""What a remote model's settings may say, and that what is refused is not shown."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cai.errors import InputError
from cai.models.remote.key import Key, read_key
from cai.models.remote.spec import RemoteSpec


def spec(**settings: object) -> RemoteSpec:
    return RemoteSpec.model_validate({"url": "https://host/v1", "model": "m", **settings})


def refusal(**settings: object) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(**settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host/v1", "must begin with http:// or https://"),
        ("host/v1", "must begin with http:// or https://"),
        ("https:///v1", "name a host"),
        ("https://ho st/v1", "name a host"),
        ("https://host:99999/v1", "is no URL"),
        ("https://[::1/v1", "is no URL"),
        ("https://me:hunter22@host/v1", "holds a user or password"),
        ("https://hunter22@host/v1", "holds a user or password"),
        ("https://host/v1?api_key=hunter22", "holds a query or fragment"),
        ("https://host/v1#hunter22", "holds a query or fragment"),
        ("http://169.254.169.254/latest", "link-local"),
        ("http://[fe80::1%25eth0]/v1", "link-local"),
    ],
)
def test_a_wrong_url_is_refused_and_what_it_holds_is_not_shown(url: str, told: str) -> None:
    message = refusal(url=url)
    assert told in message
    assert "hunter22" not in message


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://localhost:8000/v1", "http://[::1]:1/v1"])
def test_a_key_goes_unencrypted_to_this_machine_only(url: str) -> None:
    assert spec(url=url, key_env="KEY").host
    assert "use https, or remove the key" in refusal(url="http://host/v1", key_env="KEY")
    assert "use https, or remove the key" in refusal(url="http://10.0.0.1/v1", key_file="key.txt")
    assert spec(url="http://10.0.0.1/v1").host == "10.0.0.1"


@pytest.mark.parametrize("key", ["sk-hunter22", "gsk_hunter22", "hunter22", "Bearer hunter22"])
def test_a_key_in_the_place_of_its_variable_is_refused_and_not_shown(key: str) -> None:
    message = refusal(key_env=key)
    assert "must be the name of an environment variable in capitals" in message
    assert "hunter22" not in message


def test_settings_that_do_not_fit_together_are_refused() -> None:
    assert "keep one" in refusal(key_env="A", key_file="b")
    assert "limits.cost needs prices" in refusal(limits={"cost": 1})
    assert "extra.seed is set by the program" in refusal(extra={"seed": 1})


def test_numbers_in_extra_are_numbers() -> None:
    """Every plain scalar of our YAML but true, false and null is text."""
    extra = {"top_k": "20", "min_p": "0.05", "chat_template_kwargs": {"enable_thinking": False}, "mode": "fast"}
    assert spec(extra=extra).extra == {**extra, "top_k": 20, "min_p": 0.05}


def test_the_fingerprint_is_about_what_answers_and_not_about_how_it_is_asked() -> None:
    same = spec(url="https://host/v1/", key_env="KEY", concurrency=3, limits={"tokens": 5}, stream=True)
    assert same.fingerprint == spec().fingerprint
    others = [spec(model="n"), spec(url="https://other/v1"), spec(extra={"top_k": 1})]
    assert len({spec().fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_key_is_read_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEY", " secret-of-mine\n")
    (tmp_path / "key").write_text("secret-of-mine\n")
    for settings in ({"key_env": "KEY"}, {"key_file": str(tmp_path / "key")}):
        assert read_key(spec(**settings), "here").headers() == {"Authorization": "Bearer secret-of-mine"}
    assert read_key(spec(), "here").headers() == {}


def test_a_key_that_is_not_there_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KEY", raising=False)
    with pytest.raises(InputError, match="here: the environment variable KEY is not set; set it to the key"):
        read_key(spec(key_env="KEY"), "here")
    with pytest.raises(InputError, match=r"here: the key file .*nowhere cannot be read"):
        read_key(spec(key_file=str(tmp_path / "nowhere")), "here")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_key(spec(key_file=str(tmp_path / "empty")), "here")
    (tmp_path / "image").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match="is not text"):
        read_key(spec(key_file=str(tmp_path / "image")), "here")
    monkeypatch.setenv("KEY", "two secrets")
    with pytest.raises(InputError, match="is no key: it holds a space") as caught:
        read_key(spec(key_env="KEY"), "here")
    assert "two secrets" not in repr(caught.value)


def test_a_key_shows_itself_nowhere() -> None:
    key = Key("secret-of-mine", "$KEY")
    assert repr(key) == str(key) == f"{key}" == "<the key in $KEY>"
    assert key.redact("you sent secret-of-mine!") == "you sent [key]!"
    assert Key("no", "$KEY").redact("no, none") == "no, none"
