// @ts-check
// The way to a master: its feed, which is found again when it is lost, and its methods.

/**
 * @typedef {'connecting' | 'live' | 'lost' | 'refused'} LinkState
 *   lost: trying again; refused: the login has ended, trying again is useless
 * @typedef {{
 *   watch: (listener: FeedListener) => () => void,
 *   call: (method: string, params?: Record<string, unknown>) => Promise<any>,
 * }} Connection what panels need of a master; `watch` gives what ends it
 * @typedef {{
 *   since: () => [number, number] | null,
 *   message: (method: string, params: unknown) => boolean,
 *   state: (state: LinkState, reason: string) => void,
 * }} FeedListener `message` gives whether it followed; if not, the feed is asked for what is missing
 * @typedef {{onopen: any, onmessage: any, onclose: any, onerror: any, send: (text: string) => void,
 *   close: () => void}} Socket
 * @typedef {{name: string, host: string, isAlive: boolean, isEmbedded: boolean}} LocalCluster
 *   `isEmbedded`: it belongs to a notebook or program, and ends with it
 * @typedef {{now: () => number, set: (action: () => void, wait_ms: number) => any, clear: (timer: any) => void,
 *   random: () => number}} Timers
 */

/** The master sends a heartbeat every two seconds. */
export const SILENT_MS = 4500;
const FIRST_WAIT_MS = 300;
const MOST_WAIT_MS = 4000;
const OPEN_WITHIN_MS = 8000;

/** @type {Timers} */
const REAL_TIMERS = {
  now: () => performance.now(),
  set: (action, wait_ms) => setTimeout(action, wait_ms),
  clear: (timer) => clearTimeout(timer),
  random: () => Math.random(),
};

/** An answer of a master that is an error: `code` is JSON-RPC's. */
export class CallError extends Error {
  /** @param {string} message @param {number} [code] */
  constructor(message, code = 0) {
    super(message);
    this.code = code;
  }
}

/** A feed that is watched for as long as it is wanted: opened again when it ends or is silent. */
export class FeedLink {
  /**
   * @param {() => Socket} open @param {FeedListener} listener
   * @param {{check?: () => Promise<string>, timers?: Timers}} [options]
   *   check: asked when a socket does not open; gives why it is refused for good, or ''
   */
  constructor(open, listener, options = {}) {
    this.open = open;
    this.listener = listener;
    this.check = options.check;
    this.timers = options.timers ?? REAL_TIMERS;
    /** @type {Socket | null} */
    this.socket = null;
    this.wait_ms = FIRST_WAIT_MS;
    this.isEnded = false;
    this.isLive = false;
    this.calls = 0;
    /** @type {any} */
    this.timer = null;
    /** @type {any} */
    this.silence = null;
    listener.state("connecting", "");
    this.#begin();
  }

  #begin() {
    this.timer = null;
    if (this.isEnded) return;
    /** @type {Socket} */
    let socket;
    try {
      socket = this.open();
    } catch (error) {
      this.#lose(String(error));
      return;
    }
    this.socket = socket;
    this.#expect(OPEN_WITHIN_MS);
    socket.onopen = () => this.#ask();
    socket.onmessage = (/** @type {{data: unknown}} */ event) => this.socket === socket && this.#take(event.data);
    socket.onclose = (/** @type {{code?: number, reason?: string}} */ event) => {
      if (this.socket === socket) this.#lose(event.reason || "");
    };
    socket.onerror = () => {};
  }

  #ask() {
    this.calls += 1;
    const params = { since: this.listener.since(), session: "", secret: "" };
    this.socket?.send(JSON.stringify({ jsonrpc: "2.0", id: this.calls, method: "watch", params }));
  }

  /** @param {unknown} data */
  #take(data) {
    /** @type {any} */
    let message = null;
    try {
      message = JSON.parse(String(data));
    } catch {
      // Answered as every other message without a meaning.
    }
    this.#expect(SILENT_MS);
    if (message?.method === "snapshot" || message?.method === "delta") {
      this.wait_ms = FIRST_WAIT_MS;
      if (!this.isLive) {
        this.isLive = true;
        this.listener.state("live", "");
      }
      if (!this.listener.message(message.method, message.params)) this.#ask();
    } else if (message?.error) {
      this.#lose(String(message.error.message ?? "the master refuses to be watched"));
    } else if (!message) this.#lose("the master sends what is no JSON");
  }

  /** @param {number} within_ms */
  #expect(within_ms) {
    this.timers.clear(this.silence);
    this.silence = this.timers.set(() => this.#lose(""), within_ms);
  }

  /** @param {string} reason */
  #lose(reason) {
    this.#drop();
    if (this.isEnded) return;
    this.isLive = false;
    this.listener.state("lost", reason);
    const wait_ms = this.wait_ms * (0.75 + 0.5 * this.timers.random());
    this.wait_ms = Math.min(MOST_WAIT_MS, this.wait_ms * 1.8);
    this.timer = this.timers.set(() => this.#begin(), wait_ms);
    this.check?.().then(
      (refused) => {
        if (!refused || this.isEnded || this.isLive) return;
        this.listener.state("refused", refused);
        this.end();
      },
      () => {},
    );
  }

  #drop() {
    this.timers.clear(this.silence);
    this.timers.clear(this.timer);
    const { socket } = this;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  end() {
    this.isEnded = true;
    this.#drop();
  }
}

/** @param {any} answer of a JSON-RPC call @returns {any} its result */
export function resultOf(answer) {
  if (answer?.error) {
    throw new CallError(String(answer.error.message ?? "the call failed"), Number(answer.error.code) || 0);
  }
  if (!answer || !("result" in answer)) throw new CallError("the answer is no JSON-RPC");
  return answer.result;
}

/** The master that has served this page: its session cookie is the login. @implements {Connection} */
export class MasterConnection {
  /** @param {string} [base] where the page is */
  constructor(base = document.baseURI) {
    this.base = base;
    this.calls = 0;
  }

  /** @param {FeedListener} listener */
  watch(listener) {
    const url = new URL("feed", this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.search = url.hash = "";
    const link = new FeedLink(() => /** @type {any} */ (new WebSocket(url.href)), listener, {
      check: () => this.#whyRefused(),
    });
    return () => link.end();
  }

  /** @param {string} method @param {Record<string, unknown>} [params] */
  async call(method, params = {}) {
    const response = await this.#post(method, params);
    if (response.status === 401 || response.status === 403) {
      throw new CallError(
        "your login has ended: open the dashboard again with `concurrent-nb dashboard`",
        response.status,
      );
    }
    const answer = await response.json().catch(() => null);
    if (!answer && !response.ok) throw new CallError(`the master answers with HTTP ${response.status}`);
    return resultOf(answer);
  }

  /** @param {string} method @param {Record<string, unknown>} params */
  #post(method, params) {
    this.calls += 1;
    return fetch(new URL("api/1", this.base), {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ jsonrpc: "2.0", id: this.calls, method, params }),
    });
  }

  async #whyRefused() {
    const { status } = await this.#post("status", {});
    return status === 401 || status === 403
      ? "Your login has ended. Open the dashboard again with: concurrent-nb dashboard"
      : "";
  }
}

/**
 * Clusters through the Jupyter server, with its login, its base URL and its check of origins.
 * `services`: the module @jupyterlab/services.
 */
export class JupyterClusters {
  /** @param {any} services @param {any} [settings] */
  constructor(services, settings = services.ServerConnection.makeSettings()) {
    this.services = services;
    this.settings = settings;
    this.root = `${settings.baseUrl.replace(/\/*$/, "/")}concurrent-nb/`;
  }

  /** @param {string} path @param {string} [method] @param {unknown} [body] */
  async request(path, method = "GET", body = undefined) {
    const { ServerConnection } = this.services;
    const init = { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
    const response = await ServerConnection.makeRequest(this.root + path, init, this.settings);
    const text = await response.text();
    /** @type {any} */
    let answer = null;
    try {
      answer = text ? JSON.parse(text) : null;
    } catch {
      // A proxy's page; the status says enough.
    }
    if (response.ok) return answer;
    const isMissing = response.status === 404 && !answer?.message;
    throw new CallError(
      isMissing
        ? "the server extension concurrent_nb is not enabled: see `jupyter server extension list`"
        : String(
            answer?.message ?? answer?.error?.message ?? `the Jupyter server answers with HTTP ${response.status}`,
          ),
      response.status,
    );
  }

  /** @returns {Promise<LocalCluster[]>} */
  async list() {
    const answer = await this.request("clusters");
    const clusters = /** @type {any[]} */ (Array.isArray(answer) ? answer : []);
    return clusters
      .filter((one) => typeof one?.name === "string")
      .map((one) => ({
        name: one.name,
        host: String(one.host ?? ""),
        isAlive: one.is_alive !== false,
        isEmbedded: one.is_embedded === true,
      }));
  }

  /** @param {string} name @param {number} workers 0: one for each core */
  start(name, workers) {
    return this.request("clusters", "POST", workers > 0 ? { name, workers } : { name });
  }

  /** @param {string} name */
  stop(name) {
    return this.request(`clusters/${encodeURIComponent(name)}`, "DELETE");
  }

  /** @param {string} name @returns {JupyterConnection} */
  connect(name) {
    return new JupyterConnection(this, name);
  }
}

/** A master through the Jupyter server, which relays its feed unchanged. @implements {Connection} */
export class JupyterConnection {
  /** @param {JupyterClusters} clusters @param {string} name */
  constructor(clusters, name) {
    this.clusters = clusters;
    this.name = name;
  }

  /** @param {FeedListener} listener */
  watch(listener) {
    const { settings } = this.clusters;
    const root = `${settings.wsUrl.replace(/\/*$/, "/")}concurrent-nb/clusters/${encodeURIComponent(this.name)}/feed`;
    const url = settings.appendToken && settings.token ? `${root}?token=${encodeURIComponent(settings.token)}` : root;
    const link = new FeedLink(() => new settings.WebSocket(url), listener);
    return () => link.end();
  }

  /** @param {string} method @param {Record<string, unknown>} [params] */
  async call(method, params = {}) {
    const answer = await this.clusters.request(`clusters/${encodeURIComponent(this.name)}/call`, "POST", {
      method,
      params,
    });
    return answer && typeof answer === "object" && ("error" in answer || ("jsonrpc" in answer && "result" in answer))
      ? resultOf(answer)
      : answer;
  }
}
