import assert from "node:assert/strict";
import { test } from "node:test";

import { textOf, valueOf } from "../../concurrent_nb/web/static/settings_panel.js";

test("what is typed has the type of what there is", () => {
  assert.equal(valueOf("12", 5), 12);
  assert.equal(valueOf(" 0.5 ", 5), 0.5);
  assert.equal(valueOf("many", 5), null);
  assert.equal(valueOf("", 5), null);
  assert.equal(valueOf("True", false), true);
  assert.equal(valueOf("yes", false), null);
  assert.equal(valueOf("stealing", "pull"), "stealing");
  assert.deepEqual(valueOf("a, b,,", ["x"]), ["a", "b"]);
});

test("what there is can be typed again", () => {
  for (const value of [5, true, "text", ["a", "b"]]) assert.deepEqual(valueOf(textOf(value), value), value);
  assert.equal(textOf(null), "");
});
