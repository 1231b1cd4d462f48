"""Anchors of index pages: what the standard library's parser takes of honest pages, and time in proportion to any page."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.errors import NetworkError
from lxcbuild.pypi.index.anchors import Anchors
from lxcbuild.pypi.index.pages import parse_page
from tests.support.timing import within


class Reference(HTMLParser):
    """What was used before."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base: str | None = None
        self.links: list[dict[str, str | None]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if attributes.get("href") and tag == "a":
            self.links.append(attributes)
        elif attributes.get("href") and tag == "base" and self.base is None:
            self.base = attributes["href"]


def same(page: str) -> None:
    ours, reference = Anchors(page, limit=1000), Reference(page)
    assert (ours.base, ours.links) == (reference.base, reference.links)


HONEST = """<!DOCTYPE html>
<html><head><meta name='pypi:repository-version' content='1.1'><title>Links</title></head>
<body><h1>Links for x</h1><a href="../x-1.tar.gz#sha256=ab" data-requires-python="&gt;=3.6">x-1.tar.gz</a><br/>
</body></html>"""


def test_an_honest_page_is_read_as_by_the_standard_library() -> None:
    same(HONEST)


@pytest.mark.parametrize(
    ("page", "base", "links"),
    [
        ("<a href='x>y'>", None, [{"href": "x>y"}]),
        ('<a href="a"b=c>', None, [{"href": "a", "b": "c"}]),
        ("<a/href=x>", None, [{"href": "x"}]),
        ("<a href = x >", None, [{"href": "x"}]),
        ("<a href='a' href='b'>", None, [{"href": "b"}]),
        ("<a href=x/>", None, [{"href": "x/"}]),
        ("<a 'q' href=x>", None, [{"'q'": None, "href": "x"}]),
        ("<a href=a&amp;b&#62;&gtx>", None, [{"href": "a&b>>x"}]),
        ("<!doctype a '>' ><a href=3>", None, [{"href": "3"}]),
        ("<?pi ><a href=4>", None, [{"href": "4"}]),
        ('<a href="x\n y">', None, [{"href": "x\n y"}]),
        ("<A HREF=x DATA-Yanked>", None, [{"href": "x", "data-yanked": None}]),
        ("<script><a href=n></script><a href=y>", None, [{"href": "y"}]),
        ("<style><a href=n></style ><a href=y>", None, [{"href": "y"}]),
        ("<title><a href=t></title>", None, [{"href": "t"}]),
        ("<a\nhref=x>", None, [{"href": "x"}]),
        ("</ a><a href=z>", None, [{"href": "z"}]),
        ("<a href='x'>text < <a href=q>", None, [{"href": "x"}, {"href": "q"}]),
        ("<!-- > <a href=c> --><a href=r>", None, [{"href": "r"}]),
        ("<!----><a href=1>", None, [{"href": "1"}]),
        ("<a =x href=y>", None, [{"=x": None, "href": "y"}]),
        ("<a href==y>", None, [{"href": "y"}]),
        ("<a href='x'y>", None, [{"href": "x", "y": None}]),
        ("<!><a href=e>", None, [{"href": "e"}]),
        ("<a href=x data-yanked=''>", None, [{"href": "x", "data-yanked": ""}]),
        ("<img alt='<a href=no>'><a href=yes>", None, [{"href": "yes"}]),
        ("<base href=/b><base href=/c><a href=''><a href><abbr href=x>", "/b", []),
        ("</a href='<a href=x>'>", None, []),
        ("", None, []),
        ("<", None, []),
        ("<a", None, []),
        ("plain", None, []),
    ],
)
def test_odd_pages_are_read_in_one_way(page: str, base: str | None, links: list[dict[str, str | None]]) -> None:
    """Versions of the standard library differ in these."""
    ours = Anchors(page, limit=1000)
    assert (ours.base, ours.links) == (base, links)


NAMES = st.sampled_from(["href", "HREF", "data-yanked", "data-requires-python", "rel", "data-core-metadata"])
VALUES = st.text(st.sampled_from("abc/.-_=#&;<>!~ 0123é\n"), max_size=12)


@st.composite
def attributes(draw: st.DrawFn) -> str:
    name, value = draw(NAMES), draw(VALUES)
    quote = draw(st.sampled_from(['"', "'"]))
    plain = "".join(letter for letter in value if letter.isalnum() or letter in "/.-_#&;").strip("/")
    return draw(
        st.sampled_from(
            [name, f"{name}={quote}{value}{quote}", f"{name} = {quote}{value}{quote}", f"{name}={plain or 'x'}"]
        )
    )


@st.composite
def pieces(draw: st.DrawFn) -> str:
    tag = draw(st.sampled_from(["a", "A", "base", "br", "p", "abbr"]))
    start = f"<{tag} {' '.join(draw(st.lists(attributes(), max_size=4)))}{draw(st.sampled_from(['', ' ', ' /']))}>"
    text = draw(st.text(st.sampled_from("ab &;\n>"), max_size=8))
    return draw(
        st.sampled_from(
            [start, f"{start}{text}</{tag}>", f"<!-- {text} -->", "<!DOCTYPE html>", text, "<script>a<b</script>"]
        )
    )


@given(st.lists(pieces(), max_size=8))
def test_honest_pages_are_read_as_before(parts: list[str]) -> None:
    same("".join(parts))


@given(st.text(st.sampled_from("<>!-a /'\"=href&#;")))
def test_any_page_is_read(page: str) -> None:
    Anchors(page, limit=10)


@pytest.mark.parametrize(
    "text",
    [
        "<a href='x", '<a href="x', "<", "<!--", "<!", "<?", "</", "</a", "<a ", "<a a=", "<![CDATA[", "&#", "<script>", "</scrip",
        "<a/", "<a href=", "<a href=&", "<a href='&#9", " ", "<a", "<a<", "'", '"', "<a '", "--", "<script></script", "<style>",
        "<b>", "\n", "<a\n", "<a = ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("begin", ["", "<a ", "<!--", "<script>", "<a href=x "])
def test_a_hostile_page_costs_no_more_than_its_size(text: str, begin: str) -> None:
    page = (begin + text * (2**18 // len(text))).encode()
    with within(1):
        try:
            parse_page(page, content_type="text/html", url="https://index.lab/simple/x/")
        except NetworkError:
            return


def test_numbers_that_python_does_not_read_are_no_value() -> None:
    assert Anchors(f"<a href='&#{'9' * 5000};'><a href=x>", limit=10).links == [{"href": "x"}]


def test_a_page_of_ten_megabytes_is_read() -> None:
    line = (
        '<a href="../../packages/{0}/x-{0}.tar.gz#sha256='
        + "a" * 64
        + '" data-requires-python="&gt;=3.8">x-{0}.tar.gz</a><br/>\n'
    )
    page = "".join(line.format(number) for number in range(60_000)).encode()
    assert len(page) > 10_000_000
    with within(10):
        assert len(parse_page(page, content_type="text/html", url="https://index.lab/simple/x/")) == 60_000


@pytest.mark.parametrize(("page", "why"), [("<b>" * 2_000_001, "tags"), (f"<a {'b ' * 200}>", "attributes")])
def test_a_page_with_more_than_any_project_needs_is_refused(page: str, why: str) -> None:
    with pytest.raises(NetworkError, match=f"more than .* {why}"):
        parse_page(page.encode(), content_type="text/html", url="https://index.lab/simple/x/")
