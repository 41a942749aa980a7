"""The page around the pictures: one file, no scripts, nothing fetched."""

from collections.abc import Sequence

from search.report.data import Part, Report, Table
from search.report.figures import draw
from search.report.svg import clean

_LIGHT = "--bg:#fff;--ink:#1b1f24;--soft:#57606a;--grid:#d8dee4;--heat:#0072b2;--below:#d55e00;"
_DARK = "--bg:#14181d;--ink:#e6edf3;--soft:#9aa5b1;--grid:#30363d;--heat:#56b4e9;--below:#f0803c;"
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7a7a7a")
_PALETTE_DARK = ("#56b4e9", "#f0803c", "#2fc49a", "#e39ac4", "#f0e442", "#8ecdf5", "#a8a8a8")
_RULES = """
*{box-sizing:border-box}body{margin:0 auto;padding:16px;max-width:960px;background:var(--bg);
color:var(--ink);font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .3rem}.scroll{overflow-x:auto}
svg{display:block;min-width:320px;max-width:100%;height:auto}
.t{fill:var(--ink);font-size:12px}.grid{stroke:var(--grid)}
.line{fill:none;stroke-width:2.2}.thin{fill:none;stroke:var(--soft);stroke-width:1}
.band{fill:var(--c1);fill-opacity:.15}.dot{stroke:var(--bg);stroke-width:1}.pale{fill-opacity:.6}
.heat{fill:var(--heat)}.below{fill:var(--below)}
.none{fill:var(--grid);stroke:var(--below);stroke-width:1;stroke-dasharray:2 2}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;color:var(--soft);margin:.3rem 0}
.legend i{display:inline-block;width:12px;height:12px;margin-right:5px;border-radius:2px}
i.heat{background:var(--heat)}i.faint{background:var(--heat);opacity:.12}
i.none{background:var(--grid);border:1px dashed var(--below)}
i.band{background:var(--c1);opacity:.25}.legend i[class=""]{display:none}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft)}section>.scroll>table>caption{font-size:1.1rem;
font-weight:bold;color:var(--ink);margin:1rem 0 .3rem}th,td{padding:3px 10px 3px 0;text-align:left;
border-bottom:1px solid var(--grid);white-space:nowrap}summary{cursor:pointer;color:var(--soft)}
@media(max-width:600px){.scroll svg{max-width:none}}
"""


def build_page(title: str, reports: Sequence[Report]) -> str:
    """A whole HTML document of one or several reports."""
    body = "".join(_report(report) for report in reports)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{clean(title)}</title><style>{_style()}</style></head><body>{body}</body></html>\n"
    )


def _report(report: Report) -> str:
    parts = "".join(f"<section>{_heading(p)}{draw(p)}</section>" for p in report.parts)
    return f"<h1>{clean(report.title)}</h1><p>{clean(report.note)}</p>{parts}"


def _heading(part: Part) -> str:
    if isinstance(part, Table):
        return ""  # its caption says it
    return f"<h2>{clean(_title(part))}</h2>"


def _title(part: Part) -> str:
    if hasattr(part, "title"):
        return str(part.title)
    return f"Fitness: {part.name}" if hasattr(part, "name") else "Pareto front and hypervolume"


def _style() -> str:
    def root(base: str, colours: Sequence[str]) -> str:
        named = "".join(f"--c{n}:{colour};" for n, colour in enumerate(colours))
        return f":root{{{base}{named}}}"

    uses = "".join(
        f".line.c{n}{{stroke:var(--c{n})}}.dot.c{n}{{fill:var(--c{n})}}i.c{n}{{background:var(--c{n})}}"
        for n in range(len(_PALETTE))
    )
    dark = f"@media(prefers-color-scheme:dark){{{root(_DARK, _PALETTE_DARK)}}}"
    return root(_LIGHT, _PALETTE) + dark + uses + _RULES
