import assert from "node:assert/strict";
import { test } from "node:test";

import { SHOWN_MAX, SUMMED, ValueRequests, amount, rowsOf } from "../../concurrent_nb/web/static/measured_values.js";

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

test("all jobs together have no percentiles", () => {
  const value = { jobs: 2, count: 4, total: 44, average: 11, minimum: 1, maximum: 30, p50: null, p90: null, p99: null };
  assert.deepEqual(rowsOf({ rows: value }, SUMMED), [["rows", "2", "4", "11", "1", "30", "44"]]);
});

test("values are asked for when there are new ones, and not too often", async () => {
  const [shown, asked] = [/** @type {any[]} */ ([]), /** @type {number[]} */ ([])];
  let [isThere, now_ms] = [true, 0];
  const requests = new ValueRequests(
    () => {
      asked.push(now_ms);
      return isThere ? Promise.resolve({ values: asked.length }) : Promise.reject(new Error("gone"));
    },
    (values) => shown.push(values),
  );
  const poll = async (/** @type {number} */ version, /** @type {number} */ at_ms) => {
    now_ms = at_ms;
    requests.poll(version, now_ms);
    await Promise.resolve().then(() => {});
  };
  await poll(0, 0);
  await poll(1, 100);
  await poll(1, 9_000);
  await poll(2, 9_100);
  await poll(3, 9_200);
  await poll(4, 13_100);
  assert.deepEqual(
    [asked, shown],
    [
      [100, 9_100, 13_100],
      [1, 2, 3],
    ],
  );
  isThere = false;
  await poll(5, 20_000);
  await poll(5, 45_000);
  isThere = true;
  await poll(5, 50_000);
  assert.deepEqual([asked.slice(3), shown.slice(3)], [[20_000, 50_000], [5]]);
});
