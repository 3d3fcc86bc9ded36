"""Skeleton, style and parts of a page: light and dark, wide and narrow, by keyboard; one file without foreign parts."""

import html
from collections.abc import Sequence

_STYLE = """:root{color-scheme:light dark;--back:#fff;--text:#1c1e21;--dim:#5a6068;--line:#d5d9de;--good:#e4f3e6;
--bad:#fbe3e1;--doubt:#fdf3d7;--accent:#0b62c4}
@media(prefers-color-scheme:dark){:root{--back:#16181b;--text:#e6e8ea;--dim:#a2a9b1;--line:#3a3f45;--good:#1d3a24;
--bad:#4a2220;--doubt:#453a17;--accent:#7db7ff}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:80em;margin:0 auto;padding:1em;background:var(--back);
color:var(--text)}
h1{font-size:1.6em;line-height:1.2}h2{margin-top:2em;border-bottom:1px solid var(--line)}h3{margin-bottom:.3em}
a{color:var(--accent)}:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.skip{position:absolute;left:-999em}.skip:focus{left:1em}
nav{display:flex;flex-wrap:wrap;gap:.3em 1.2em}nav a{padding:.4em 0}
.wide{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:.5em 0}
td,th{padding:.3em .6em;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.words{text-align:left}
tr.best,tr.pass{background:var(--good)}tr.fail{background:var(--bad)}tr.undecided,tr.skip{background:var(--doubt)}
.dim,figcaption{color:var(--dim);font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21em),1fr));gap:1em}
.cameras{display:grid;grid-template-columns:repeat(3,1fr);gap:3px}
@media(max-width:40em){.cameras{grid-template-columns:repeat(2,1fr)}}
.frame{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,1fr);gap:1em;align-items:start}
@media(max-width:60em){.frame{grid-template-columns:minmax(0,1fr)}}
figure{margin:0}svg,img,video{max-width:100%;height:auto;display:block}.plots svg{width:100%}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
.copy{display:flex;gap:.5em;align-items:start;background:color-mix(in srgb,var(--line) 35%,transparent);padding:.5em;
border-radius:4px}.copy pre{flex:1}
button{font:inherit;padding:.3em .8em;min-height:2.4em;cursor:pointer}"""

_SCRIPT = """document.addEventListener('click',async event=>{const button=event.target.closest('button[data-copy]');
if(!button)return;const text=button.parentElement.querySelector('pre').textContent;
try{await navigator.clipboard.writeText(text)}catch{const range=document.createRange();
range.selectNodeContents(button.parentElement.querySelector('pre'));const chosen=getSelection();
chosen.removeAllRanges();chosen.addRange(range);document.execCommand('copy')}
button.textContent='copied';setTimeout(()=>button.textContent='copy',1500)});
document.addEventListener('keydown',event=>{if(event.ctrlKey||event.metaKey||event.altKey)return;
const step={j:1,k:-1}[event.key];if(!step)return;const stops=[...document.querySelectorAll('[data-stop]')];
if(!stops.length)return;const at=stops.indexOf(document.activeElement.closest('[data-stop]'));
const next=stops[at<0?(step>0?0:stops.length-1):Math.min(Math.max(at+step,0),stops.length-1)];
next.focus();next.scrollIntoView({block:'start'})});"""


def page(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: In words.
        body: HTML below the heading.
    """
    name = html.escape(title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{name}</title><style>{_STYLE}</style></head><body><a class="skip" href="#content">to '
        f'the content</a><header><h1>{name}</h1></header><main id="content">{body}</main><script>{_SCRIPT}</script>'
        "</body></html>\n"
    )


def sections(parts: Sequence[tuple[str, str]]) -> str:
    """Sections under headings, with links to them in front; empty ones are left out.

    Args:
        parts: Heading in words, and HTML.
    """
    there = [(title, content) for title, content in parts if content]
    links = "".join(f'<a href="#{_anchor(title)}">{html.escape(title)}</a>' for title, _ in there)
    bodies = "".join(
        f'<section id="{_anchor(title)}"><h2>{html.escape(title)}</h2>{content}</section>' for title, content in there
    )
    return f'<nav aria-label="sections">{links}</nav>{bodies}'


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", kinds: Sequence[str] | None = None
) -> str:
    """A table that scrolls where it is too wide.

    Args:
        header: Names of the columns.
        rows: Text of the cells.
        caption: Above it, in words.
        kinds: Class of each row, such as `best` or `fail`.
    """
    wordy = [place == 0 or any(_is_words(row[place]) for row in rows) for place in range(len(header))]

    def line(cells: Sequence[str], tag: str, kind: str = "") -> str:
        of_class = f' class="{kind}"' if kind else ""
        sides = (' class="words"' if is_words else "" for is_words in wordy)
        filled = (f"<{tag}{side}>{html.escape(cell)}</{tag}>" for cell, side in zip(cells, sides, strict=True))
        return f"<tr{of_class}>{''.join(filled)}</tr>"

    body = "".join(line(row, "td", kind) for row, kind in zip(rows, kinds or [""] * len(rows), strict=True))
    above = f'<p class="dim">{html.escape(caption)}</p>' if caption else ""
    name = html.escape(caption or header[0] or "table", quote=True)
    return (
        f'{above}<div class="wide" tabindex="0" role="region" aria-label="{name}"><table>{line(header, "th")}{body}'
        "</table></div>"
    )


def _is_words(cell: str) -> bool:
    return any(letter.isalpha() for letter in cell)


def command(text: str) -> str:
    """A command with a button that copies it."""
    return f'<div class="copy"><pre>{html.escape(text)}</pre><button type="button" data-copy>copy</button></div>'


def picture(path: str, words: str) -> str:
    """A picture that opens at full size.

    Args:
        path: Relative to the page.
        words: What it shows.
    """
    source, shown = html.escape(path, quote=True), html.escape(words, quote=True)
    return f'<a href="{source}"><img src="{source}" alt="{shown}" loading="lazy"></a>'
