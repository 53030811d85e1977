"""`cde serve` without keys: pages of other sites reach it neither by a name of theirs nor by a form."""

import http.client
import json

import pytest

from tests.serving.conftest import serving

BODY = json.dumps({"documents": ["ron lak", "baron kolak"]})
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def keyless(headed_folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("names") / "store"
    with serving("--null", "--store", store, "--allow-host", "Box.lan", "--model", headed_folder) as said:
        yield said | {"store": store}


def ask(said, path, body=None, **headers):
    """Return the status and the JSON of an answer, with headers as given and no others but the usual host."""
    connection = http.client.HTTPConnection(said["url"].removeprefix("http://"), timeout=30)
    connection.request("POST" if body else "GET", path, body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("name", ["evil.example", "localhost.evil.example", "x{y.evil.example:80", "127.0.0.2", ""])
@pytest.mark.parametrize(("path", "body"), [("/v1/contexts", BODY), ("/v1/models", None), ("/health", None)])
def test_a_name_that_is_not_this_machines_is_refused(keyless, name, path, body):
    status, answer = ask(keyless, path, body, Host=name, **JSON)
    assert status == 421
    said = answer["error"]["message"]
    assert said.startswith(f"this server is called {name!r}, expected localhost, 127.0.0.1, [::1], box.lan; start it")
    assert list(keyless["store"].iterdir()) == []


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "box.lan", "Box.Lan:80"])
def test_names_of_this_machine_and_those_allowed_are_answered(keyless, name):
    assert ask(keyless, "/v1/models", Host=name)[0] == 200


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {}])
def test_a_page_of_another_site_sends_no_form(keyless, headers):
    """These are the types of content that a browser sends to anybody without asking the server first."""
    status, answer = ask(keyless, "/v1/contexts", BODY, **headers)
    assert (status, "send one with Content-Type" in answer["error"]["message"]) == (400, True)
    assert list(keyless["store"].iterdir()) == []


@pytest.mark.parametrize(("arguments", "environment"), [(["--open"], {}), ([], {"CDE_API_KEYS": "a-key"})])
def test_a_key_or_open_is_enough_under_any_name(headed_folder, arguments, environment):
    with serving("--null", "--model", headed_folder, *arguments, **environment) as said:
        assert ask(said, "/v1/models", Host="search.example", Authorization="Bearer a-key")[0] == 200
