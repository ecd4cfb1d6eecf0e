"""How the audit page looks: one style sheet, light or dark as the reader's system is; no script at all."""

CSS = """
:root { --ink: #1c1f23; --soft: #5b626b; --line: #dfe3e8; --paper: #fff; --wash: #f5f6f8; --warn: #9a4b00;
  --warn-wash: #fff4e5;
  --good: #0b6b44; --good-wash: #e8f6ef; --hatch: #b8bec6; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa3ad; --line: #333a42; --paper: #14171a;
  --wash: #1d2125;
  --warn: #ffb866; --warn-wash: #33261a; --good: #6fd3a5; --good-wash: #15291f; --hatch: #596069; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 28px 60px; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 28px; margin: 0 0 2px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 4px; }
p { margin: 0 0 12px; } .soft { color: var(--soft); } .soft, td, li { overflow-wrap: anywhere; }
a { color: inherit; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--wash); border-radius: 10px; padding: 14px 16px; border-top: 4px solid var(--hue); }
.tile b { display: block; font-size: 30px; line-height: 1.15; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile small { display: block; color: var(--soft); font-size: 13px; }
.findings { list-style: none; margin: 0; padding: 0; }
.findings li { background: var(--warn-wash); border-left: 4px solid var(--warn); padding: 8px 12px; margin: 0 0 6px;
  border-radius: 0 6px 6px 0; }
.findings li.good { background: var(--good-wash); border-color: var(--good); }
.swatch { display: inline-block; width: 13px; height: 13px; border-radius: 3px; vertical-align: -1px; margin-right:
  7px;
  box-shadow: inset 0 0 0 1px rgba(127,127,127,.55); flex: none; }
.ignored { background: repeating-linear-gradient(135deg, var(--hatch) 0 2px, transparent 2px 6px); }
.strips { display: grid; grid-template-columns: max-content 1fr; gap: 8px 14px; align-items: center; margin: 10px 0
  20px; }
.strip { display: flex; height: 30px; border-radius: 6px; overflow: hidden; background: var(--wash); }
.strip i { display: block; }
.scroll { max-height: 900px; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--soft); padding: 6px 10px 6px 0; border-bottom: 1px solid
  var(--line); white-space: nowrap;
  position: sticky; top: 0; background: var(--paper); z-index: 1; }
th small { font-weight: 400; }
td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; width: 1%; }
td.name { width: 22%; min-width: 130px; } td.never { color: var(--warn); font-weight: 600; }
.bar { display: block; height: 14px; min-width: 120px; background: repeating-linear-gradient(90deg, var(--hatch) 0
  1px, transparent 1px 20%); }
.bar i { display: block; height: 100%; border-radius: 0 3px 3px 0; box-shadow: inset 0 0 0 1px
  rgba(127,127,127,.45); }
.legend, .key { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; color: var(--soft); margin: 6px 0
  12px; }
.look { position: fixed; opacity: 0; pointer-events: none; }
.switch { position: sticky; top: 8px; z-index: 5; float: right; display: flex; background: var(--wash); border: 1px
  solid var(--line);
  border-radius: 8px; overflow: hidden; font-size: 13px; margin-top: -34px; }
.switch label { padding: 5px 12px; cursor: pointer; }
#look-picture:checked ~ main [for=look-picture], #look-both:checked ~ main [for=look-both], #look-mask:checked ~ main
  [for=look-mask] {
  background: var(--ink); color: var(--paper); }
#look-picture:focus-visible ~ main .switch, #look-both:focus-visible ~ main .switch, #look-mask:focus-visible ~ main
  .switch { outline: 2px solid #0072b2; }
.gallery { --tall: 200px; display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; clear: both;
  margin-top: 10px; }
.gallery.small { --tall: 132px; }
figure { margin: 0; flex: var(--aspect) 1 calc(var(--aspect) * var(--tall)); min-width: 88px;
  max-width: max(88px, calc(var(--aspect) * var(--tall) * 1.3)); }
figcaption { font-size: 12.5px; color: var(--soft); padding-top: 4px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
.shot { position: relative; display: block; border-radius: 6px; overflow: hidden; background: var(--wash); }
.shot img { display: block; width: 100%; height: auto; }
.shot .mask { position: absolute; inset: 0; height: 100%; image-rendering: pixelated; opacity: .62; }
.only .mask { opacity: .74; }
.shot:hover .mask { opacity: 0; }
#look-picture:checked ~ main .mask { opacity: 0; }
#look-mask:checked ~ main :not(.only) > figure .mask { opacity: 1; }
#look-mask:checked ~ main :not(.only) > figure .image { visibility: hidden; }
#look-mask:checked ~ main :not(.only) > figure .shot {
  background: repeating-linear-gradient(135deg, var(--hatch) 0 2px, var(--wash) 2px 7px); }
.none { display: grid; place-items: center; aspect-ratio: 1; border: 1px dashed var(--warn); border-radius: 6px;
  color: var(--warn); font-size: 13px; }
.side { display: flex; flex-wrap: wrap; gap: 30px; align-items: flex-start; } .side > * { flex: 1 1 300px;
  min-width: 0; }
svg { width: 100%; height: auto; overflow: visible; display: block; } svg text { font-size: 12px; fill: var(--soft); }
.axis { stroke: var(--line); fill: none; } .bubble { fill-opacity: .55; stroke: var(--paper); }
.group { border-top: 1px solid var(--line); padding: 12px 0; }
.group .gallery { margin-top: 6px; }
footer { margin-top: 44px; color: var(--soft); font-size: 12.5px; border-top: 1px solid var(--line); padding-top:
  12px; overflow-wrap: anywhere; }
@media print { .switch { display: none; } .scroll { max-height: none; } }
"""
