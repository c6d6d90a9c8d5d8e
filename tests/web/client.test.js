import assert from "node:assert/strict";
import { test } from "node:test";

import { CallError, FeedLink, JupyterClusters, SILENT_MS, resultOf } from "../../concurrent_nb/web/static/client.js";

/** A world of one link: its sockets, its time, and what its listener got. */
class World {
  constructor({ follows = true, check = undefined } = {}) {
    this.now_ms = 0;
    this.due = [];
    this.sockets = [];
    this.states = [];
    this.messages = [];
    this.follows = follows;
    const timers = {
      now: () => this.now_ms,
      set: (action, wait_ms) => {
        const timer = { action, at_ms: this.now_ms + wait_ms };
        this.due.push(timer);
        return timer;
      },
      clear: (timer) => {
        this.due = this.due.filter((one) => one !== timer);
      },
      random: () => 0.5,
    };
    const open = () => {
      const socket = {
        sent: [],
        closed: false,
        send: (text) => socket.sent.push(JSON.parse(text)),
        close: () => {
          socket.closed = true;
        },
      };
      this.sockets.push(socket);
      return socket;
    };
    const listener = {
      since: () => (this.messages.length ? [7, this.messages.length] : null),
      message: (method) => {
        this.messages.push(method);
        return this.follows;
      },
      state: (state, reason) => this.states.push([state, reason]),
    };
    this.link = new FeedLink(open, listener, { timers, check });
  }

  pass(wait_ms) {
    const until = this.now_ms + wait_ms;
    for (;;) {
      const [next] = this.due.filter((one) => one.at_ms <= until).sort((a, b) => a.at_ms - b.at_ms);
      if (!next) break;
      this.due = this.due.filter((one) => one !== next);
      this.now_ms = next.at_ms;
      next.action();
    }
    this.now_ms = until;
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get state() {
    return this.states.at(-1)[0];
  }

  answer(method = "snapshot") {
    this.socket.onmessage({ data: JSON.stringify({ jsonrpc: "2.0", method, params: {} }) });
  }

  connect() {
    this.socket.onopen();
    this.answer();
  }
}

test("a feed asks for what it lacks, and is live with the first state", () => {
  const world = new World();
  world.socket.onopen();
  assert.deepEqual(world.socket.sent[0].params.since, null);
  assert.equal(world.state, "connecting");
  world.socket.onmessage({ data: '{"jsonrpc":"2.0","id":1,"result":{"interval_s":0.25}}' });
  assert.equal(world.state, "connecting");
  world.answer();
  assert.equal(world.state, "live");
});

test("a silent feed is lost within five seconds, opened again, and resumes", () => {
  const world = new World();
  world.connect();
  world.pass(SILENT_MS - 1);
  assert.equal(world.state, "live");
  world.pass(2);
  assert.equal(world.state, "lost");
  assert.ok(world.sockets[0].closed);
  world.pass(1000);
  assert.equal(world.sockets.length, 2);
  world.socket.onopen();
  assert.deepEqual(world.socket.sent[0].params.since, [7, 1]);
  world.answer("delta");
  assert.equal(world.state, "live");
});

test("heartbeats keep it alive", () => {
  const world = new World();
  world.connect();
  for (let at = 0; at < 20; at += 1) {
    world.pass(2000);
    world.answer("delta");
  }
  assert.equal(world.sockets.length, 1);
});

test("waits between attempts grow to a limit", () => {
  const world = new World();
  const opened = [];
  for (let at = 0; at < 12; at += 1) {
    opened.push(world.now_ms);
    const before = world.sockets.length;
    world.socket.onclose({});
    while (world.sockets.length === before) world.pass(50);
  }
  const waits = opened.slice(1).map((at, index) => at - opened[index]);
  assert.ok(waits[0] <= 400 && waits.at(-1) >= 3900 && waits.at(-1) <= 4100, waits.join());
});

test("a delta that does not follow asks again", () => {
  const world = new World({ follows: false });
  world.connect();
  assert.equal(world.socket.sent.length, 2);
});

test("an error or nonsense closes the socket, with the reason", () => {
  const world = new World();
  world.socket.onopen();
  world.socket.onmessage({
    data: '{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"no session of that name"}}',
  });
  assert.deepEqual(world.states.at(-1), ["lost", "no session of that name"]);
  world.pass(1000);
  world.socket.onmessage({ data: "no json" });
  assert.equal(world.state, "lost");
});

test("a login that has ended is not tried again", async () => {
  const world = new World({ check: async () => "log in again" });
  world.socket.onclose({});
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(world.states.at(-1), ["refused", "log in again"]);
  world.pass(60_000);
  assert.equal(world.sockets.length, 1);
});

test("an ended link opens nothing and leaves no timer", () => {
  const world = new World();
  world.connect();
  world.link.end();
  world.pass(60_000);
  assert.equal(world.sockets.length, 1);
  assert.ok(world.socket.closed);
  assert.deepEqual(world.due, []);
});

test("results and errors of calls", () => {
  assert.equal(resultOf({ jsonrpc: "2.0", result: null }), null);
  assert.throws(
    () => resultOf({ error: { code: -32000, message: "not yours" } }),
    (error) => error instanceof CallError && error.code === -32000,
  );
  assert.throws(() => resultOf(null), CallError);
});

test("through Jupyter: paths below its base URL, names escaped, refusals in words", async () => {
  const asked = [];
  let answer = new Response('[{"name":"demo","host":"here","is_alive":true,"is_embedded":false,"pid":1},{"odd":1}]');
  const settings = {
    baseUrl: "http://host/hub/user/x%20y/",
    wsUrl: "ws://host/hub/user/x%20y/",
    token: "a+b",
    appendToken: true,
    WebSocket: class {
      constructor(url) {
        asked.push(url);
      }

      close() {}
    },
  };
  const services = {
    ServerConnection: {
      makeRequest: async (url, init) => {
        asked.push(`${init.method} ${url}`);
        return answer;
      },
    },
  };
  const clusters = new JupyterClusters(services, settings);
  assert.deepEqual(await clusters.list(), [{ name: "demo", host: "here", isAlive: true, isEmbedded: false }]);
  assert.equal(asked[0], "GET http://host/hub/user/x%20y/concurrent-nb/clusters");
  answer = new Response('{"jsonrpc":"2.0","result":5}');
  assert.equal(await clusters.connect("a/b <c>").call("cancel_job", { job: "aa" }), 5);
  assert.equal(asked[1], "POST http://host/hub/user/x%20y/concurrent-nb/clusters/a%2Fb%20%3Cc%3E/call");
  answer = new Response('{"message":"no cluster of that name"}', { status: 404 });
  await assert.rejects(clusters.stop("x"), /no cluster of that name/);
  answer = new Response("<html>", { status: 404 });
  await assert.rejects(clusters.list(), /server extension/);
  answer = new Response(null, { status: 204 });
  assert.equal(await clusters.stop("x"), null);
  const end = clusters.connect("demo").watch({ since: () => null, message: () => true, state: () => {} });
  assert.equal(asked.at(-1), "ws://host/hub/user/x%20y/concurrent-nb/clusters/demo/feed?token=a%2Bb");
  end();
});
