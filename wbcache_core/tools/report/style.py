# SPDX-License-Identifier: BSD-3-Clause
"""How the page looks: one style sheet, for light and dark, wide and narrow, screen and paper."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #5a6676; --rule: #dfe4ea;
  --blue: #1f6fbf; --green: #16856b; --orange: #c25e12; --violet: #7446b8; --grey: #9aa5b1;
  --good: #16794f; --watch: #8a5a00; --act: #b3261e; --good-bg: #e4f4ec; --watch-bg: #fdf1d8; --act-bg: #fce6e4; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --card: #1b212a; --ink: #e6eaf0; --soft: #a2adba; --rule: #313a46;
  --blue: #64a8ee; --green: #4cc0a2; --orange: #f0964a; --violet: #b094ea; --grey: #6f7b89;
  --good: #6fd3a4; --watch: #f0c060; --act: #ff9b92; --good-bg: #16352a; --watch-bg: #3a2f12; --act-bg: #43201e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 40px 0 4px; }
h2 + p { margin-top: 0; }
p, li { max-width: 80ch; }
.soft, .note, .empty, figcaption + .note { color: var(--soft); }
.soft { overflow-wrap: anywhere; margin: 0; max-width: none; }
.note { font-size: .85rem; margin: 8px 0 0; }
.empty { margin: 24px 0; }
.tiles, .charts { display: grid; gap: 12px; margin-top: 12px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(min(100%, 245px), 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.tile, figure, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; margin: 0;
  padding: 14px 16px; min-width: 0; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; font-weight: 600; }
.tile span { font-size: .85rem; color: var(--soft); }
.tile p { font-size: .85rem; margin: 8px 0 0; }
section > figure { margin-top: 12px; }
figcaption { font-weight: 600; margin-bottom: 6px; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .y { text-anchor: end; } svg .x { text-anchor: middle; }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.line.blue { stroke: var(--blue); } .line.green { stroke: var(--green); } .line.orange { stroke: var(--orange); }
.line.violet { stroke: var(--violet); } .line.grey { stroke: var(--grey); }
.bar { fill: var(--blue); }
.blue { background: var(--blue); } .green { background: var(--green); } .orange { background: var(--orange); }
.violet { background: var(--violet); } .grey { background: var(--grey); } .empty-part { background: var(--rule); }
.line { background: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 8px 0 0; font-size: .85rem; color: var(--soft);
  max-width: none; }
.legend b { color: var(--ink); }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
.parts { display: flex; height: 28px; border-radius: 6px; overflow: hidden; gap: 2px; }
.parts span { min-width: 3px; flex-basis: 0; }
.findings { list-style: none; padding: 0; margin: 12px 0 0; display: grid; gap: 8px; }
.findings li { border-radius: 10px; padding: 10px 14px; max-width: none; overflow-wrap: anywhere; }
.findings b { margin-right: 8px; } .findings p { margin: 2px 0 0; }
.good { background: var(--good-bg); } .watch { background: var(--watch-bg); } .act { background: var(--act-bg); }
.good b { color: var(--good); } .watch b { color: var(--watch); } .act b { color: var(--act); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right; }
td { overflow-wrap: anywhere; min-width: 5ch; } tr.changed td { font-weight: 600; }
.wide { overflow-x: auto; } .wide svg { min-width: 640px; }
.density { image-rendering: pixelated; } .frame { fill: none; stroke: var(--rule); }
rect.window { fill: var(--green); } line.tag { stroke: var(--violet); } text.tag { fill: var(--violet); }
line.cursor { stroke: var(--ink); } line.batch_end { stroke-dasharray: 3 3; }
i.window { background: var(--green); } i.tag { background: var(--violet); } i.cursor { background: var(--ink); }
.density-written { background: rgb(31, 111, 191); } .density-cleared { background: rgba(222, 131, 40, .6); }
footer { margin-top: 48px; color: var(--soft); font-size: .85rem; }
@media (max-width: 480px) { body { font-size: 15px; } main { padding: 16px 10px 40px; } svg text { font-size: 15px; } }
@media print { body { background: none; } figure, .tile, .card { break-inside: avoid; } }
"""
