import assert from "node:assert/strict";
import { test } from "node:test";

import {
  bytes,
  clock,
  count,
  duration,
  figure,
  finite,
  percent,
  visible,
  visibleLines,
} from "../../concurrent_nb/web/static/text.js";

test("marks that hide, turn or move text are made visible", () => {
  assert.equal(visible("a\u202eb\x1b[2J\n"), "a<U+202E>b\\x1b[2J\\n");
  assert.equal(visible("\u200b\ufeff\u2066x\x7f\x9b"), "<U+200B><U+FEFF><U+2066>x<U+007F><U+009B>");
  assert.equal(visible("<b>äöü 日本 😀</b>"), "<b>äöü 日本 😀</b>");
});

test("a long text is clipped, and no pair of surrogates is torn", () => {
  assert.equal(visible("x".repeat(1_000_000), 10), `${"x".repeat(10)}…`);
  assert.equal(visible("123😀5", 4), "123…");
  assert.equal(visible(null), "");
  assert.equal(visible(7), "7");
});

test("prints keep their lines, and lose what moves, hides or overwrites", () => {
  assert.equal(visibleLines("a\tb\r\n10 %\r20 %\r\nc\u202e\x07"), "a\tb\n20 %\nc<U+202E>\\x07");
  assert.equal(visibleLines("\x1b[1;31mred\x1b[0m\x1b[2J\x1b]0;title\x07\x1b(Bx\x1b"), "redx\\x1b");
  assert.equal(visibleLines("\x1b[1;31mred\x1b[0m\x1b[2J", 99, true), "\x1b[1;31mred\x1b[0m");
  assert.equal(visibleLines("1\n2\n3\n4", 3), "…3\n4");
  assert.equal(visibleLines("x".repeat(1_000_000), 2_000_000).length, 2001);
  assert.equal(visibleLines(undefined), "");
});

test("numbers have the digits that matter", () => {
  assert.deepEqual([0, 999, 9999, 12_345, 1_234_567, 2e9].map(count), ["0", "999", "9,999", "12.3k", "1.23M", "2.00G"]);
  assert.deepEqual([0, 0.5, 12.34, 512.3].map(figure), ["0", "0.50", "12.3", "512"]);
  assert.deepEqual([0, 999, 1024, 10 * 1024 ** 2, 3 * 1024 ** 3].map(bytes), [
    "0 B",
    "999 B",
    "1.0 KiB",
    "10.0 MiB",
    "3.0 GiB",
  ]);
  assert.deepEqual([0, 12e-6, 0.0034, 0.5, 5.6, 123, 3723, 90_000].map(duration), [
    "0 s",
    "12 µs",
    "3.4 ms",
    "500 ms",
    "5.6 s",
    "2:03",
    "1:02:03",
    "1 d 1 h",
  ]);
  assert.deepEqual([0, 0.001, 0.42, 0.999, 1, 7].map(percent), ["0%", "<1%", "42%", "99%", "100%", "100%"]);
  assert.deepEqual([NaN, Infinity, "7", null, 7].map(finite), [0, 0, 0, 0, 7]);
  assert.match(clock(1.25, 2), /^\d\d:\d\d:01\.25$/);
  assert.equal(clock(Infinity), "");
});
