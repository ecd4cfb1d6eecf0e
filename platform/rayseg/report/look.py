"""How a report looks and moves: its style over the audit page's, and its script, which the page's policy names by hash.

The script sorts the ranking, shows what a mark stands for, lights up a trial wherever it is drawn, and filters trials
by ranges dragged over the axes of the parallel coordinates. Without it the page shows the same.
"""

from __future__ import annotations

import base64
import hashlib

CSS = """
:root { --mark: #0072b2; --top: #d55e00; --loss: #b34700; --over: #fff; }
@media (prefers-color-scheme: dark) { :root { --mark: #56b4e9; --top: #ffa14f; --loss: #ffa14f; --over: #10141a; } }
.verdict { background: var(--wash); border-left: 5px solid var(--mark); border-radius: 0 8px 8px 0; padding: 14px 18px;
  margin: 18px 0; } .verdict b { font-size: 19px; display: block; margin-bottom: 4px; }
.verdict.winner { border-color: var(--good); background: var(--good-wash); } .verdict p { margin: 0; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: left; }
th button::after { content: " \\2195"; opacity: .45; } th[aria-sort=ascending] button::after { content: " \\2191";
  opacity: 1; } th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
th.n { text-align: right; } th.n button { text-align: right; }
.ranking td { white-space: nowrap; } .ranking th { white-space: normal; vertical-align: bottom; }
.ranking td.why { white-space: normal; min-width: 220px; font-size: 13px; }
.wide { overflow-x: auto; } .wide svg { min-width: var(--least, 0); }
tr.best td { font-weight: 600; } tr.lit td { background: var(--wash); } .out { opacity: .06; } tr.out { display: none; }
.line { fill: none; stroke: var(--mark); stroke-width: 1.4; } .line.best { stroke: var(--top); stroke-width: 3; }
.line.rest { stroke: var(--hatch); stroke-opacity: .6; }
.line.lit { stroke: var(--top); stroke-width: 3.5; stroke-opacity: 1; }
.grip { fill: transparent; cursor: ns-resize; touch-action: none; } .grip:hover { fill: rgba(127,127,127,.10); }
.brush { fill: rgba(127,127,127,.30); stroke: var(--soft); pointer-events: none; }
.tick { stroke: var(--line); } svg .name { fill: var(--ink); font-weight: 600; } svg .value { fill: var(--ink); }
svg .halo { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
.cell { fill: var(--mark); } svg .over { fill: var(--over); } 
.frame { fill: none; stroke: var(--top); stroke-width: 3; }
.dot { fill: var(--mark); fill-opacity: .55; } .dot.front, .dot.lit { fill: var(--top); fill-opacity: 1; }
.mean { stroke: var(--top); stroke-width: 3; } .range { stroke: var(--ink); stroke-width: 2; }
.plus { background: var(--mark); } .minus { background: var(--loss); background-image: repeating-linear-gradient(135deg,
  rgba(255,255,255,.35) 0 2px, transparent 2px 6px); }
.apart { display: grid; grid-template-columns: 1fr 1fr; width: 240px; height: 14px; } .apart span { display: flex; }
.apart span:first-child { justify-content: flex-end; border-right: 1px solid var(--soft); }
.warning { color: var(--warn); background: var(--warn-wash); padding: 6px 12px; border-radius: 6px; font-size: 14px; }
pre { background: var(--wash); padding: 12px 14px; border-radius: 8px; overflow: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
details { margin: 8px 0; } summary { cursor: pointer; } 
.sheet { max-width: 100%; margin: 6px 0 18px; border-radius: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 10px 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 14px 36px; }
.panels > * { min-width: 0; } .panels td:first-child { white-space: nowrap; }
.panels h3 { font-size: 15px; margin: 14px 0 2px; }
#say { position: fixed; z-index: 9; max-width: 420px; background: var(--ink); color: var(--paper); font-size: 12.5px;
  padding: 6px 10px; border-radius: 6px; pointer-events: none; display: none; white-space: pre-line; }
#kept button { font: inherit; }
@page { size: A4 landscape; margin: 12mm; }
@media print { #say, #kept { display: none; } th button::after { content: ""; } body { max-width: none; padding: 0;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; } h2 { break-after: avoid; } th { position: static; }
  table, svg, figure, .sheet { break-inside: auto; } tr { break-inside: avoid; } .ranking { font-size: 10px; }
  .ranking td, .ranking th { padding: 3px 6px 3px 0; } .scroll { overflow: visible; }
  .ranking td.why { min-width: 110px; font-size: 10px; }
  .wide { overflow: visible; } }
"""

SCRIPT = """
'use strict';
const all = (css, root = document) => [...root.querySelectorAll(css)];
const say = document.getElementById('say');
const of = new Map();
for (const mark of all('[data-key]')) {
  if (!of.has(mark.dataset.key)) of.set(mark.dataset.key, []);
  of.get(mark.dataset.key).push(mark);
}
const light = (key, on) => (of.get(key) || []).forEach(mark => mark.classList.toggle('lit', on));
let lit = null;
document.addEventListener('pointerover', event => {
  const mark = event.target.closest && event.target.closest('[data-key],[data-say]');
  if (lit !== null) light(lit, false);
  lit = mark ? mark.dataset.key || null : null;
  if (lit !== null) light(lit, true);
  const text = mark && mark.dataset.say;
  say.style.display = text ? 'block' : 'none';
  if (text) say.textContent = text;
});
document.addEventListener('pointermove', event => {
  const x = Math.min(event.clientX + 14, innerWidth - say.offsetWidth - 8);
  say.style.left = x + 'px';
  const below = event.clientY + 16;
  const room = below + say.offsetHeight < innerHeight;
  say.style.top = (room ? below : event.clientY - say.offsetHeight - 10) + 'px';
});
for (const head of all('table.sortable th')) {
  const button = head.querySelector('button');
  if (!button) continue;
  button.addEventListener('click', () => {
    const table = head.closest('table'), column = [...head.parentNode.children].indexOf(head);
    const up = head.getAttribute('aria-sort') === 'descending' ? 1 : -1;
    all('th', table).forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up > 0 ? 'ascending' : 'descending');
    const body = table.tBodies[0];
    const value = row => row.children[column].dataset.v;
    const rows = [...body.rows].sort((a, b) => {
      const one = value(a), other = value(b);
      if (one === '' || other === '') return (one === '') - (other === '');
      const numbers = [Number(one), Number(other)];
      const text = numbers.some(Number.isNaN);
      return up * (text ? one.localeCompare(other) : numbers[0] - numbers[1]);
    });
    body.append(...rows);
  });
}
const chart = document.getElementById('parallel');
if (chart) {
  const ranges = new Map(), lines = all('.line', chart), kept = document.getElementById('kept');
  const at = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse()).y;
  const show = () => {
    let count = 0;
    for (const line of lines) {
      const places = line.dataset.at.split(' ');
      let inside = true;
      for (const [axis, [low, high]] of ranges) {
        const y = Number(places[axis]);
        inside = inside && y >= low && y <= high;
      }
      count += inside;
      (of.get(line.dataset.key) || [line]).forEach(mark => mark.classList.toggle('out', !inside));
    }
    kept.hidden = ranges.size === 0;
    kept.querySelector('span').textContent = count + ' of ' + lines.length + ' trials are in the ranges. ';
  };
  for (const grip of all('.grip', chart)) {
    const axis = Number(grip.dataset.axis), brush = grip.nextElementSibling;
    let from = null;
    const set = (a, b) => {
      const low = Math.min(a, b), high = Math.max(a, b);
      if (high - low < 3) { ranges.delete(axis); brush.setAttribute('height', 0); }
      else { ranges.set(axis, [low, high]); brush.setAttribute('y', low); brush.setAttribute('height', high - low); }
      show();
    };
    grip.addEventListener('pointerdown', event => { from = at(event); grip.setPointerCapture(event.pointerId); });
    grip.addEventListener('pointermove', event => { if (from !== null) set(from, at(event)); });
    grip.addEventListener('pointerup', event => { set(from, at(event)); from = null; });
    grip.addEventListener('pointercancel', () => { from = null; });
  }
  kept.querySelector('button').addEventListener('click', () => {
    ranges.clear();
    all('.brush', chart).forEach(brush => brush.setAttribute('height', 0));
    show();
  });
}
"""

_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'; "
    "base-uri 'none'; form-action 'none'"
)
"""The page fetches nothing, and runs this script alone: should a text become markup after all, it does nothing."""
