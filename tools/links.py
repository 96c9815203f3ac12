"""Finds dead links in a folder of HTML pages: `python tools/links.py FOLDER`."""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    "The anchors of a page, and all that it links to or loads: pairs of tag and address."

    def __init__(self, text):
        super().__init__()
        self.anchors, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("id", "name"): self.anchors.add(value)
            elif name in ("href", "src") and value: self.targets.append((tag, value))


def dead_links(site):
    """Return a line for each link to a page, file or anchor that is not there, and for each
    thing fetched from elsewhere."""
    site = site.resolve()
    pages, dead = (
        {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}, [],
    )
    for path, page in pages.items():
        for tag, address in page.targets:
            parts, place = urlsplit(address), path.relative_to(site)
            if parts.scheme or parts.netloc:
                if tag != "a" and parts.scheme != "data":
                    dead.append(f"{place}: {address} is fetched from elsewhere")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or site not in target.parents:
                dead.append(f"{place}: {address} is not there")
            elif target in pages and unquote(parts.fragment) not in {"", *pages[target].anchors}:
                dead.append(f"{place}: {address} has no such anchor")
    return dead


def main(site):
    "List the dead links; return the exit status."
    dead = dead_links(Path(site))
    if dead: print("\n".join(dead))
    return 1 if dead else 0


if __name__ == "__main__": sys.exit(main(sys.argv[1]))
