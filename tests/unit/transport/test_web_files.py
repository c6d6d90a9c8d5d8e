"""The files of the web page are read once, with their MIME types; nothing else in the folder is served."""

from pathlib import Path

from concurrent_nb.transport.web_files import read_files, shortened


def test_files_are_read_with_their_types(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    for name in ("page.html", "a.js", "vendor/b.css", "c.svg", "d.txt"):
        (tmp_path / name).write_text(name)
    files = read_files(tmp_path)
    assert {name: file.mime_type.partition(";")[0] for name, file in files.items()} == {
        "page.html": "text/html",
        "a.js": "text/javascript",
        "vendor/b.css": "text/css",
        "c.svg": "image/svg+xml",
        "d.txt": "text/plain",
    }
    assert all(file.data == name.encode() for name, file in files.items())


def test_other_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a.py", "b", ".js", "c.js~", "d.exe"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.js").mkdir()
    assert read_files(tmp_path) == {}


def test_an_etag_changes_with_the_content(tmp_path: Path) -> None:
    file = tmp_path / "a.js"
    file.write_text("1")
    first = read_files(tmp_path)["a.js"].etag
    assert read_files(tmp_path)["a.js"].etag == first
    file.write_text("2")
    assert read_files(tmp_path)["a.js"].etag != first


def test_no_folder_is_no_file(tmp_path: Path) -> None:
    assert read_files(tmp_path / "missing") == {}


def test_our_scripts_are_served_without_comments_and_vendored_ones_as_they_are(tmp_path: Path) -> None:
    script = "// a\n/**\n * b\n */\nlet a = 1; // c\n  f(`// d`);\n\tg('/** e */');\n"
    (tmp_path / "vendor").mkdir()
    for name in ("a.js", "vendor/b.js"):
        (tmp_path / name).write_text(script, encoding="utf-8")
    files = read_files(tmp_path)
    assert files["vendor/b.js"].data.decode() == script
    assert files["a.js"].data.decode() == shortened(script) == ("\n\n\n\nlet a = 1; // c\nf(`// d`);\ng('/** e */');\n")
