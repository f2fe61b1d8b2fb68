"""Model files from a server on this machine, which behaves as badly as servers do."""

import hashlib
import http.server
import os
import re
import threading
import time
from pathlib import Path

import pytest

from keras_alexnet import cli, convert
from keras_alexnet.errors import UserError
from keras_alexnet.importers import download
from keras_alexnet.importers.published import PUBLISHED, PublishedModel
from keras_alexnet.model import build_alexnet
from keras_alexnet.model_file import load_model, save_model

CARDS = Path(__file__).parent.parent / "saved_models" / "README.md"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /ok/…, /stalls/… (after half of the file), /page/… (HTML) and 404 to all else."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests += 1
        behavior = self.path.split("/")[1]
        if behavior not in ("ok", "stalls", "page"):
            self.send_error(404)
            return
        content = b"<!DOCTYPE html><html>Sign in</html>" if behavior == "page" else self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if behavior == "stalls":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            time.sleep(1.5)
        else:
            self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    save_model(build_alexnet(3, filters=(2, 2, 2, 2, 2), dense_units=2), path)
    return path


@pytest.fixture
def server(model_file, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.requests = model_file.read_bytes(), 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def cached_files(tmp_path) -> list[str]:
    return [name for _, _, names in os.walk(tmp_path / "cache") for name in names]


def test_convert_downloads_once(server, model_file, tmp_path, capsys):
    arguments = [f"--input={server.url}/ok/tiny.keras?download=1", f"--output={tmp_path}/new.keras"]
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    for more in ([], [f"--sha256={digest.upper()}"]):
        convert.main(*cli.parse(convert.define_flags, [*arguments, *more]))
        assert load_model(f"{tmp_path}/new.keras").count_params() == load_model(model_file).count_params()
    assert server.requests == 1
    assert cached_files(tmp_path) == ["tiny.keras"]
    downloaded, _ = capsys.readouterr().out.split("Using the copy of an earlier download")
    assert downloaded.startswith(f"Downloading {server.url}/ok/tiny.keras?download=1\n")
    assert "\b" not in downloaded


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nothing/tiny.keras", "cannot download {url}: 404 -- Not Found. Check the address"),
        ("stalls/tiny.keras", "cannot download {url}: timed out"),
        ("page/tiny.keras", "{url} is a web page: download the file itself"),
    ],
)
def test_a_failed_download_leaves_nothing(server, tmp_path, monkeypatch, path, problem):
    monkeypatch.setattr(download, "_TIMEOUT", 0.5)
    url = f"{server.url}/{path}"
    with pytest.raises(UserError, match=re.escape(problem.format(url=url))):
        download.local_file(url)
    assert cached_files(tmp_path) == []


def test_checksums(server, model_file, tmp_path):
    """One that is wrong is refused; a damaged copy in the cache is downloaded again."""
    url = f"{server.url}/ok/tiny.keras"
    with pytest.raises(UserError, match=rf"{url} has the SHA256 checksum [0-9a-f]*; expected 0000"):
        download.local_file(url, sha256="0" * 64)
    assert cached_files(tmp_path) == []
    with pytest.raises(UserError, match="SHA256"):
        download.local_file(str(model_file), sha256="0" * 64)
    with pytest.raises(UserError, match=r"sha256 is 'abc'; expected the 64 hexadecimal digits"):
        download.local_file(url, sha256="abc")
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    copy = Path(download.local_file(url, digest))
    copy.write_bytes(copy.read_bytes()[:-1])
    assert download.local_file(url, digest) == str(copy)
    assert copy.read_bytes() == model_file.read_bytes()
    # A file of the same name at another address is another file.
    assert download.local_file(f"{server.url}/ok/other/tiny.keras") != str(copy)


def test_names_of_published_models(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sha1, sha256 = (hashlib.new(name, server.content).hexdigest() for name in ("sha1", "sha256"))
    for name, checksum in (("short", f"sha256:{sha256[:8]}"), ("sha1", f"sha1:{sha1}"), ("none", None)):
        monkeypatch.setitem(PUBLISHED, name, PublishedModel(f"{server.url}/ok/{name}.keras", checksum, "MIT"))
        assert Path(download.local_file(name)).read_bytes() == server.content
        assert f"{name} is {server.url}/ok/{name}.keras, license: MIT" in capsys.readouterr().out
    monkeypatch.setitem(PUBLISHED, "wrong", PublishedModel(f"{server.url}/ok/wrong.keras", "sha1:0000", "MIT"))
    with pytest.raises(UserError, match="SHA1 checksum"):
        download.local_file("wrong")
    Path("sha1").write_bytes(b"a file of that name")
    assert download.local_file("sha1") == "sha1"


def test_addresses_of_other_kinds():
    for address in ("ftp://host/x.onnx", "https://host/", "file:///etc/passwd"):
        with pytest.raises(UserError, match=r"cannot download .*Expected an address of a file, https://"):
            download.local_file(address)


def test_the_table_of_the_model_cards_is_that_of_the_code():
    rows = [line.strip("| ").split(" | ") for line in CARDS.read_text(encoding="utf-8").splitlines() if "| `" in line]
    table = {row[0].strip("`"): row[1:4] for row in rows if row[0].strip("`") in PUBLISHED and len(row) == 5}
    assert table == {
        name: [f"`{url}`", f"`{checksum}`" if checksum else "not published", license_]
        for name, (url, checksum, license_) in PUBLISHED.items()
    }
