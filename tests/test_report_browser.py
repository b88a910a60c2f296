"""The report as a reader's browser shows it: with scripts and without, in light, dark and print."""

import re

import pytest

from test_report import NASTY, compared, pictures  # noqa: F401 - fixtures

JENKINS = "sandbox allow-same-origin; default-src 'none'; img-src 'self'; style-src 'self';"
"""What Jenkins sends by default with the files of a build: neither scripts nor styles."""

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("report")]


@pytest.fixture
def visit(chromium, compared):  # noqa: F811
    contexts, faults = [], []

    def visit(policy="", **settings):
        context = chromium.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        if policy:
            headers = {"Content-Security-Policy": policy, "Content-Type": "text/html"}
            body = compared[2].read_text()
            page.route("**/*", lambda route: route.fulfill(body=body, headers=headers))
            page.goto("http://report.test/")
        else:
            page.on("console", lambda said: faults.append(said.text))
            page.on(
                "request",
                lambda request: faults.extend(
                    [request.url] * (not request.url.startswith(("file:", "data:")))
                ),
            )
            page.goto(compared[2].as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert faults == []


def numbers(page, column):
    cells = page.locator(f"#table-1-3-1 tbody tr > :nth-child({column})").all_inner_texts()
    return [float(re.sub("−", "-", text.split()[0])) for text in cells]


def test_it_opens_from_disk_and_its_tables_sort(visit):
    page = visit()
    head = page.locator("#table-1-3-1 thead th:nth-child(3) button")
    before = numbers(page, 3)
    head.click()
    assert numbers(page, 3) == sorted(before)
    assert head.locator("..").get_attribute("aria-sort") == "ascending"
    head.press("Enter")  # the keyboard does the same
    assert numbers(page, 3) == sorted(before, reverse=True)


def test_values_are_shown_where_the_pointer_is(visit):
    page = visit()
    mark = page.locator("svg circle.point").nth(2)
    said = mark.evaluate(
        "m => (m.querySelector('title') ?? m.parentElement.querySelector('title')).textContent"
    )
    mark.hover()
    assert page.locator("#hover").inner_text() == said


def test_a_table_is_copied_as_csv(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#table-1-2-1").locator("xpath=..").locator("+ button").click()
    copied = page.locator("textarea[aria-label=CSV]")
    text = (
        copied.input_value() if copied.count() else page.evaluate("navigator.clipboard.readText()")
    )
    assert text.splitlines()[0] == '"figure","A","B","B − A","change","p"'
    assert len(text.splitlines()) == 1 + page.locator("#table-1-2-1 tbody tr").count()


@pytest.mark.parametrize("settings", [{"java_script_enabled": False}, {"policy": JENKINS}])
def test_it_can_be_read_without_scripts(visit, compared, settings):  # noqa: F811
    page = visit(**settings)
    text = page.locator("body").inner_text()
    assert compared[0].verdict in re.sub(r"\s+", " ", text)
    assert NASTY in text
    for chart in page.locator("figure svg").all():
        box = chart.bounding_box()
        assert box["width"] > 100
        assert box["height"] > 50
    assert page.locator("button").count() == 0  # nothing that would do nothing


def test_names_stay_text(visit):
    page = visit()
    assert page.locator("img[src=x]").count() == 0
    assert NASTY in page.locator("body").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_violation_of_accessibility(visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = visit(color_scheme=scheme)
    found = Axe().run(page).response["violations"]
    serious = [x for x in found if x["impact"] in ("serious", "critical")]
    assert [(x["id"], x["nodes"][0]["html"]) for x in serious] == []


def test_a_phone_need_not_be_scrolled_sideways(visit):
    page = visit(viewport={"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_keyboard_reaches_everything(visit):
    page = visit()
    wanted = page.locator("a[href], button, .table").count()
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        )
    places = page.evaluate(
        "[...document.querySelectorAll('a[href], button, .table')]"
        ".map(x => [...document.querySelectorAll('*')].indexOf(x))"
    )
    assert set(places) <= reached


def test_it_prints(visit):
    page = visit()
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    page.emulate_media(media="print")
    assert not page.locator("button.copy").first.is_visible()
