import assert from "node:assert/strict";
import { test } from "node:test";

import { ClusterSession, connectCell, pathBelow } from "../../concurrent_nb/web/static/cluster_session.js";

class Clusters {
  constructor(...names) {
    this.names = names;
    this.watched = [];
    this.ended = [];
  }

  async list() {
    if (!this.names) throw new Error("the server extension is not enabled");
    return this.names.map((name) => ({ name, host: "h", isAlive: name !== "dead", isEmbedded: false }));
  }

  connect(name) {
    return {
      watch: (listener) => {
        this.watched.push([name, listener]);
        return () => this.ended.push(name);
      },
      call: async (method, params) => [name, method, params],
    };
  }
}
const snapshot = { epoch: 1, seq: 1, time_s: 1 };

test("the first cluster that is alive is chosen, and watched while somebody looks", async () => {
  const clusters = new Clusters("dead", "demo");
  const session = new ClusterSession(/** @type {any} */ (clusters), () => 100);
  await session.refresh();
  assert.equal(session.chosen, "demo");
  assert.deepEqual(clusters.watched, []);
  session.want("sidebar", true);
  session.want("panel", true);
  session.want("sidebar", false);
  assert.equal(clusters.watched.length, 1);
  session.want("panel", false);
  assert.deepEqual(clusters.ended, ["demo"]);
});

test("another cluster has a model of its own, and late messages of the first go nowhere", async () => {
  const clusters = new Clusters("one", "two");
  const session = new ClusterSession(/** @type {any} */ (clusters), () => 100);
  await session.refresh();
  session.want("x", true);
  let messages = 0;
  session.onMessage.add(() => (messages += 1));
  const [[, first]] = clusters.watched;
  first.state("live", "");
  first.message("snapshot", { ...snapshot, name: "one" });
  assert.equal(session.model.name, "one");
  session.choose("two");
  assert.equal(session.model.name, "");
  assert.equal(session.state, "idle");
  first.message("snapshot", { ...snapshot, name: "one" });
  first.state("lost", "");
  assert.equal(session.model.name, "");
  assert.equal(session.state, "idle");
  assert.equal(messages, 1);
  assert.deepEqual(await session.call("stats", {}), ["two", "stats", {}]);
});

test("a cluster that is gone gives way to another, but not while it is live", async () => {
  const clusters = new Clusters("one", "two");
  const session = new ClusterSession(/** @type {any} */ (clusters), () => 100);
  await session.refresh();
  session.want("x", true);
  clusters.watched[0][1].state("live", "");
  clusters.names = ["two"];
  await session.refresh();
  assert.equal(session.chosen, "one");
  clusters.watched[0][1].state("lost", "");
  await session.refresh();
  assert.equal(session.chosen, "two");
  clusters.names = [];
  session.state = "lost";
  await session.refresh();
  assert.equal(session.chosen, "two", "what was seen last of it stays");
});

test("a list that cannot be had is a problem in words", async () => {
  const clusters = new Clusters();
  clusters.names = null;
  const session = new ClusterSession(/** @type {any} */ (clusters));
  await session.refresh();
  assert.match(session.problem, /not enabled/);
});

test("the cell that connects quotes odd names", () => {
  assert.equal(connectCell("demo-1"), "%load_ext concurrent_nb\n%concurrent connect demo-1");
  assert.equal(connectCell("a b"), '%load_ext concurrent_nb\n%concurrent connect "a b"');
});

test("paths of kernels become paths of the server", () => {
  assert.equal(pathBelow("/srv/nb/a/x.ipynb", "/srv/nb/"), "a/x.ipynb");
  assert.equal(pathBelow("/home/me/nb/x.ipynb", "~/nb"), "x.ipynb");
  assert.equal(pathBelow("x.ipynb", "/work"), "x.ipynb");
  assert.equal(pathBelow("/elsewhere/x.ipynb", "/work"), "elsewhere/x.ipynb");
});
