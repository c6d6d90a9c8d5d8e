"""The page of a replay: style and script, with @NAME@ where `replay` puts numbers."""

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Replay</title>
<style>
:root { color-scheme: dark; --ground: #1d1f21; --line: #555; --text: #ddd; }
html, body { height: 100%; margin: 0; }
body { display: flex; flex-direction: column; font: 13px system-ui, sans-serif; }
body { color: var(--text); background: var(--ground); }
#still, #field { flex: 1; min-height: 0; width: 100%; box-sizing: border-box; }
#field { object-fit: contain; border-bottom: 1px solid var(--line); }
#bar { display: flex; gap: 4px 8px; align-items: center; padding: 4px 6px; flex-wrap: wrap; }
#turn { flex: 1; min-width: 90px; }
#label { min-width: 8.5em; font-variant-numeric: tabular-nums; }
button, select { font: inherit; }
#play { min-width: 4.5em; }
#scores { position: relative; }
#scores > div { position: absolute; right: 0; bottom: 1.8em; padding: 6px 10px; max-height: 55vh; overflow: auto; }
#scores > div { background: #2b2e31; border: 1px solid var(--line); border-radius: 4px; }
summary { cursor: pointer; white-space: nowrap; }
table { border-collapse: collapse; } td { padding: 0 12px 0 0; white-space: nowrap; }
td + td { padding: 0; text-align: right; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px; }
</style></head><body>
<div id="still">@STILL@</div>
<canvas id="field" width="@WIDTH@" height="@HEIGHT@" hidden role="img" aria-label="the arena"></canvas>
<div id="bar" hidden>
<button id="play">Play</button>
<input id="turn" type="range" min="0" value="0" aria-label="turn">
<span id="label"></span>
<select id="speed" aria-label="speed"><option value="0.5">half speed</option>
<option value="1" selected>normal speed</option><option value="3">3 times</option>
<option value="10">10 times</option></select>
<details id="scores"><summary>Scores</summary><div><table>@ROWS@</table></div></details>
</div>
<script>
"use strict";
const width = @WIDTH@, height = @HEIGHT@, names = @NAMES@, tanks = names.length, turns = @TURNS@;
const bytes = Uint8Array.from(atob("@DATA@"), (c) => c.charCodeAt(0));
const view = new DataView(bytes.buffer);
const at = (place) => view.getUint16(2 * place, true);
const starts = [];
for (let turn = 0, place = 0; turn < turns; turn++) {
  starts.push(place);
  place += 7 * tanks;
  place += 1 + 4 * at(place);
}
const field = document.getElementById("field"), play = document.getElementById("play");
const slider = document.getElementById("turn"), label = document.getElementById("label");
const speed = document.getElementById("speed"), ctx = field.getContext("2d");
const colour = (n) => `hsl(${Math.round((n * 137.508) % 360)} 75% 60%)`;
const radians = (angle) => (-angle / 100) * (Math.PI / 180);
let turn = 0, playing = false, last = 0;

function draw() {
  const now = Math.floor(turn);
  ctx.clearRect(0, 0, width, height);
  const shown = Math.min(field.clientWidth, (field.clientHeight * width) / height);
  const size = Math.min(30, (11 * width) / Math.max(1, shown));
  ctx.font = `${Math.max(11, size)}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  let place = starts[now];
  for (let n = 0; n < tanks; n++, place += 7) {
    if (!at(place)) continue;
    const x = at(place + 1) / 16, y = height - at(place + 2) / 16, energy = at(place + 6) / 16;
    ctx.save();
    ctx.translate(x, y);
    ctx.fillStyle = colour(n);
    ctx.save(); ctx.rotate(radians(at(place + 3))); ctx.fillRect(-16, -14, 32, 28); ctx.restore();
    ctx.save(); ctx.rotate(radians(at(place + 5)));
    ctx.globalAlpha = 0.25; ctx.beginPath(); ctx.moveTo(0, 0); ctx.arc(0, 0, 60, -0.15, 0.15); ctx.fill();
    ctx.restore();
    ctx.save(); ctx.rotate(radians(at(place + 4))); ctx.fillStyle = "#888"; ctx.fillRect(0, -3, 24, 6); ctx.restore();
    ctx.fillStyle = "#888"; ctx.fillRect(-16, -26, 32, 4);
    ctx.fillStyle = energy > 30 ? "#2a9d4a" : "#e43"; ctx.fillRect(-16, -26, Math.min(32, 0.32 * energy), 4);
    ctx.restore();
  }
  ctx.fillStyle = "#ccc";
  for (let n = 0, one = starts[now]; n < tanks && tanks <= 20; n++, one += 7) {  // above all tanks
    if (!at(one)) continue;
    const y = height - at(one + 2) / 16, half = ctx.measureText(names[n]).width / 2 + 2;
    const x = Math.max(half, Math.min(width - half, at(one + 1) / 16));
    ctx.fillText(names[n], x, y > height - 50 ? y - 32 : y + 24 + size);
  }
  const bullets = at(place++);
  for (let n = 0; n < bullets; n++, place += 4) {
    ctx.fillStyle = colour(at(place));
    ctx.beginPath();
    ctx.arc(at(place + 1) / 16, height - at(place + 2) / 16, 2 + at(place + 3) / 16, 0, 2 * Math.PI);
    ctx.fill();
  }
  slider.value = now;
  label.textContent = `turn ${now} of ${turns - 1}`;
}
function go(to) { turn = Math.max(0, Math.min(turns - 1, to)); draw(); }
function set(on) { playing = on; play.textContent = on ? "Pause" : "Play"; }
function tick(time) {
  if (playing) {
    go(turn + ((time - last) / 1000) * 30 * Number(speed.value));
    if (turn >= turns - 1) set(false);
  }
  last = time;
  requestAnimationFrame(tick);
}
play.onclick = () => { if (!playing && turn >= turns - 1) turn = 0; set(!playing); };
slider.max = turns - 1;
slider.oninput = () => { set(false); go(Number(slider.value)); };
document.onkeydown = (event) => {
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 };
  if (event.key === " " && event.target === document.body) { play.onclick(); event.preventDefault(); }
  else if (event.key in steps && event.target !== slider) { set(false); go(Math.floor(turn) + steps[event.key]); }
};
document.getElementById("still").remove();
field.hidden = document.getElementById("bar").hidden = false;
draw();
requestAnimationFrame(tick);
</script></body></html>
"""
