import assert from "node:assert/strict";
import { test } from "node:test";

import { plain } from "../../concurrent_nb/web/static/dom.js";
import { scaledWords, workersOf } from "../../concurrent_nb/web/static/scale_form.js";

test("only a whole number within the limits is a number of workers", () => {
  assert.deepEqual(["1", " 12 ", "1000", 3].map(workersOf), [1, 12, 1000, 3]);
  assert.deepEqual(
    ["", " ", "0", "-1", "1001", "1.5", "x", "1e9", null, undefined, NaN].map(workersOf),
    Array(11).fill(null),
  );
});

test("what the master has answered, in words", () => {
  const words = (asked, before) => scaledWords({ asked, before, slots: 9 }, plain);
  assert.equal(words(4, 1), "3 more come");
  assert.equal(words(1, 4), "3 leave");
  assert.equal(words(4, 4), "it has 4 already");
  assert.equal(scaledWords(null, plain), "it has 0 already");
});
