"""Tables in a notebook: HTML and text, and nothing in them runs."""

from html.parser import HTMLParser

from concurrent_nb.notebook.tables import ProgressCell, Table

NASTY = "<script>alert(1)</script>\" onload='x' &amp; \u202eabc"


class Reader(HTMLParser):
    """Collects tags and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def table(*rows: list[str | ProgressCell]) -> Table:
    return Table("jobs", ["State", "Name", ">Done"], rows, "the text")


def test_rows_and_titles() -> None:
    read = Reader(table(["running", "fits", ProgressCell(3, 1200)], ["ended", "", "?"]).html())
    assert read.texts == ["State", "Name", "Done", "running", "fits", " 3 of 1,200", "ended", "?"]
    assert read.tags.count("tr") == 3
    assert read.tags.count("progress") == 1
    assert read.attributes["max"] == "1200"


def test_a_progress_of_nothing_is_valid() -> None:
    assert 'max="1"' in table(["ended", "", ProgressCell(0, 0)]).html()


def test_names_are_text() -> None:
    read = Reader(Table(NASTY, [NASTY], [[NASTY]], NASTY).html())
    assert set(read.tags) == {"table", "thead", "tr", "th", "tbody", "td", "bdi"}
    assert read.texts == [NASTY, NASTY]
    assert read.attributes["aria-label"] == NASTY
    assert "onload" not in read.attributes
