import assert from "node:assert/strict";
import { test } from "node:test";

import { handToPerfetto, traceName } from "../../concurrent_nb/web/static/trace_files.js";

const PERFETTO = "https://ui.perfetto.dev";

/** A page, its timers, and a tab that answers when it is told to. */
function browser() {
  const listeners = new Set();
  let timer = null;
  const tab = { closed: false, sent: [], postMessage: (...message) => tab.sent.push(message) };
  return {
    tab,
    page: {
      setInterval: (action) => (timer = action),
      clearInterval: () => (timer = null),
      addEventListener: (_, listener) => listeners.add(listener),
      removeEventListener: (_, listener) => listeners.delete(listener),
    },
    tick: () => timer?.(),
    say: (event) => [...listeners].forEach((listener) => listener(event)),
    isQuiet: () => timer === null && listeners.size === 0,
  };
}
const TRACE = Promise.resolve({ text: '{"a": "é"}', title: "trace-f" });

test("Perfetto gets the trace when it listens, and nobody else does", async () => {
  const { tab, page, tick, say, isQuiet } = browser();
  const handed = handToPerfetto(tab, TRACE, page);
  tick();
  tick();
  assert.deepEqual(tab.sent, Array(2).fill(["PING", PERFETTO]));
  say({ source: {}, origin: PERFETTO, data: "PONG" });
  say({ source: tab, origin: "https://evil.example", data: "PONG" });
  say({ source: tab, origin: PERFETTO, data: "PING" });
  assert.ok(!isQuiet());
  say({ source: tab, origin: PERFETTO, data: "PONG" });
  await handed;
  assert.ok(isQuiet());
  const [message, target, moved] = tab.sent.at(-1);
  assert.equal(target, PERFETTO);
  assert.equal(new TextDecoder().decode(message.perfetto.buffer), '{"a": "é"}');
  assert.deepEqual([message.perfetto.title, message.perfetto.fileName], ["trace-f", "trace-f.json"]);
  assert.deepEqual(moved, [message.perfetto.buffer]);
});

test("a tab that is closed, or never answers, ends the waiting", async () => {
  const closed = browser();
  const handed = handToPerfetto(closed.tab, TRACE, closed.page);
  closed.tab.closed = true;
  closed.tick();
  await assert.rejects(handed, /closed/);
  const silent = browser();
  const waiting = handToPerfetto(silent.tab, TRACE, silent.page);
  for (let at = 0; at < 1200; at += 1) silent.tick();
  await assert.rejects(waiting, /does not answer/);
  assert.ok(closed.isQuiet() && silent.isQuiet());
});

test("a trace that cannot be read ends the waiting", async () => {
  const { tab, page, isQuiet } = browser();
  await assert.rejects(handToPerfetto(tab, Promise.reject(new Error("it has no such job")), page), /no such job/);
  assert.ok(isQuiet());
});

test("a file is named after its job, whatever that is called", () => {
  const named = (name) => traceName(/** @type {any} */ ({ name, id: "0123456789abcdef" }));
  assert.equal(named("cell 3"), "trace-cell-3-01234567");
  assert.equal(named("../../etc/passwd"), "trace-etc-passwd-01234567");
  assert.equal(named("<script>\u202e\n"), "trace-script-01234567");
  assert.equal(named(""), "trace-job-01234567");
  assert.ok(named("x".repeat(1e6)).length < 100);
});
