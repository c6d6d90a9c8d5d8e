import assert from "node:assert/strict";
import { test } from "node:test";

import { SHOWN_MAX, amount, rowsOf } from "../../concurrent_nb/web/static/measured_values.js";

test("numbers have the digits that matter", () => {
  assert.deepEqual([0, 1, 0.123456, 1234.5, 123456.7, 1e7, 1.5e-7, -2.5, 1e300].map(amount), [
    "0",
    "1",
    "0.1235",
    "1234.5",
    "123456.7",
    "1e+7",
    "1.5e-7",
    "-2.5",
    "1e+300",
  ]);
  assert.deepEqual([null, undefined, "x", NaN, Infinity].map(amount), Array(5).fill("0"));
});

test("a row for each value, and not for too many", () => {
  const value = { count: 2, total: 40, average: 20, minimum: 10, maximum: 30, p50: 10, p90: 30, p99: 30 };
  assert.deepEqual(rowsOf({ rows: value }), [["rows", "2", "20", "10", "10", "30", "30", "40"]]);
  const many = Object.fromEntries(Array.from({ length: 100 }, (_, at) => [`value ${at}`, value]));
  assert.equal(rowsOf(many).length, SHOWN_MAX);
  assert.deepEqual([null, undefined, 3, "x", []].map(rowsOf), [[], [], [], [], []]);
  assert.equal(rowsOf({ odd: null })[0][0], "odd");
});
