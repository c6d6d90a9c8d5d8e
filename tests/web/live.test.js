import assert from "node:assert/strict";
import { test } from "node:test";

const GONE = "the kernel was restarted, or is gone";
const LEFT = "5 s left";

// What the program needs of a browser: one page, whose head is the pace alone.
const pace = { textContent: "" };
const head = {
  querySelector: () => null,
  querySelectorAll: () => [],
  set innerHTML(html) {
    pace.textContent = html;
  },
};
const page = {
  style: {},
  querySelector: (selector) => ({ ".cnb-pace": pace, ":scope > .cnb-head": head })[selector] ?? null,
};
globalThis.window = globalThis;
globalThis.document = { body: null, getElementsByClassName: () => [page] };
globalThis.MutationObserver = class {
  observe() {}
  disconnect() {}
};
const { default: program } = await import("../../concurrent_nb/notebook/static/live.js");

class Model {
  constructor(name) {
    this.state = { page_class: name, head: LEFT, last: "" };
    this.handlers = new Map();
    this.close = program().initialize({ model: this });
  }
  get(key) {
    return this.state[key];
  }
  on(event, handler) {
    this.handlers.set(event, handler);
  }
  off(event) {
    this.handlers.delete(event);
  }
  beat(head = LEFT) {
    this.state.head = head;
    this.handlers.get("change:beat")();
  }
  disconnect() {
    this.handlers.get("comm_live_update")();
  }
}

/** The kernel is reported as gone after some seconds. */
function isGoneAfter(wait, seconds) {
  wait(seconds);
  assert.equal(pace.textContent, GONE);
}

/** A job that is shown, at a time that the test moves. */
function shown(t) {
  t.mock.timers.enable({ apis: ["Date", "setInterval"], now: 1e9 });
  const model = new Model(t.name);
  model.beat();
  assert.equal(pace.textContent, LEFT);
  t.after(() => globalThis.concurrentNbJobs.get(t.name)?.close());
  return { model, wait: (seconds) => t.mock.timers.tick(1000 * seconds) };
}

test("a kernel that sends nothing is called silent after ten seconds, until it sends again", (t) => {
  const { model, wait } = shown(t);
  wait(9);
  assert.equal(pace.textContent, LEFT);
  wait(3);
  assert.equal(pace.textContent, "no message from the kernel for 12 s");
  model.beat("4 s left");
  assert.equal(pace.textContent, "4 s left");
});

test("a restarted kernel is reported within seconds", (t) => {
  const { model, wait } = shown(t);
  model.disconnect();
  wait(2);
  assert.equal(pace.textContent, LEFT);
  wait(2);
  assert.equal(pace.textContent, GONE);
  model.disconnect(); // another restart
  wait(1);
  assert.equal(page.style.opacity, 0.6);
  wait(60);
  assert.equal(pace.textContent, GONE);
});

test("a silent kernel that is found dead is reported as gone", (t) => {
  const { model, wait } = shown(t);
  wait(12);
  model.disconnect();
  isGoneAfter(wait, 4);
});

test("a kernel that opens a widget while it ends is reported as soon as it is gone", (t) => {
  const { model, wait } = shown(t);
  model.disconnect();
  wait(2);
  const next = new Model(t.name);
  for (let second = 0; second < 8; second++) {
    next.beat(`${second} s`);
    wait(1);
    assert.equal(pace.textContent, `${second} s`);
  }
  isGoneAfter(wait, 4);
});

test("the widget that is closed may be one that the page does not follow yet", (t) => {
  const { model, wait } = shown(t);
  const next = new Model(t.name);
  model.close();
  next.disconnect();
  isGoneAfter(wait, 4);
});

test("a kernel whose restart has failed is one that sends", (t) => {
  const { model, wait } = shown(t);
  model.disconnect();
  for (let second = 0; second < 40; second++) {
    model.beat();
    wait(1);
  }
  wait(4);
  assert.equal(pace.textContent, LEFT);
  wait(6);
  assert.match(pace.textContent, /^no message from the kernel for \d+ s$/);
});
