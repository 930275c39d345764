"""What the READMEs say is there."""

import re

import picture
import pytest

from support.cli import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / ".github" / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "embed").rglob("README.md")) + sorted((ROOT / "tests").rglob("README.md"))
ROOMS = {  # a room and the files that its README names, each
    "embed/engine": "*.py",
    "embed/kernels": "*.[ch]",
    "embed/launcher": "*.[ch]",
    "embed/packing": "*.py",
    "embed/recipe": "*.py",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_s_page_names_its_files(room):
    text = (ROOT / room / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in (ROOT / room).glob(ROOMS[room]) if path.stem != "__init__"]
    assert files and not [name for name in files if f"`{name}`" not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_are_there(page):
    """Recipes name the tests that prove them."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    named = re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not any(f"def {name}(" in source for source in sources)]


def test_make_targets_that_a_page_names_are_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, page


def test_the_picture_is_what_the_model_writes():
    """After a change of the default model: make picture."""
    drawn = picture.draw(picture.screen(picture.story()))
    assert picture.PICTURE.read_text(encoding="utf-8") == drawn
