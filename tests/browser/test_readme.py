"""The two pictures of the README: the demo's study at a desk and on a phone."""

import pytest
from playwright.sync_api import expect

from evomerge.cli import main


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_pictures_for_the_readme(tmp_path, dashboard, visit, keep):
    assert main(["search", "experiment=demo", f"runs_dir={tmp_path}"]) == 0
    served = dashboard(tmp_path)
    for name, width, height, scheme in (("readme-desk", 1440, 1000, "light"), ("readme-phone", 390, 844, "dark")):
        page = visit(served, width=width, scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"{served.origin}/studies/demo")
        expect(page.locator("[data-figure] .main-svg").first).to_be_visible(timeout=60_000)
        page.wait_for_load_state("networkidle")
        keep(page, name, whole=False)
