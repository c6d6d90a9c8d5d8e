// @ts-check
// The clusters that the Jupyter server can reach, and the one that is shown: its feed is watched while somebody looks.

import { FeedModel } from "./feed_model.js";

/** @typedef {import("./client.js").JupyterClusters} JupyterClusters */
/** @typedef {import("./client.js").LocalCluster} LocalCluster */
/** @typedef {import("./client.js").LinkState} LinkState */

/** One cluster for all panels: which one, its state, and who wants to see it. */
export class ClusterSession {
  /**
   * @param {JupyterClusters} clusters
   * @param {() => number} [now] seconds since 1970
   */
  constructor(clusters, now = () => Date.now() / 1000) {
    this.clusters = clusters;
    this.now = now;
    /** @type {LocalCluster[]} */
    this.list = [];
    /** why there is no list, or '' */
    this.problem = "";
    this.chosen = "";
    this.model = new FeedModel();
    /** @type {LinkState | 'idle'} */
    this.state = "idle";
    this.reason = "";
    /** @type {Set<unknown>} */
    this.viewers = new Set();
    /** @type {Set<() => void>} called when the chosen cluster is another one: everything about it is new */
    this.onChosen = new Set();
    /** @type {Set<() => void>} called when the list or the state of the link is another one */
    this.onChanged = new Set();
    /** @type {Set<() => void>} called after each message of the feed */
    this.onMessage = new Set();
    /** @type {(() => void) | null} */
    this.unwatch = null;
  }

  /** Ask for the list of clusters. If none is chosen, or the chosen one has ended, take the first that is alive. */
  async refresh() {
    try {
      this.list = await this.clusters.list();
      this.problem = "";
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error);
    }
    const isThere = this.list.some((one) => one.name === this.chosen);
    if (!this.chosen || (!isThere && this.state !== "live")) {
      // Without another one, what was seen last of a cluster that has ended stays.
      this.choose(this.list.find((one) => one.isAlive)?.name ?? this.chosen);
    }
    emit(this.onChanged);
  }

  /** @param {string} name '' for none */
  choose(name) {
    if (name === this.chosen) return;
    this.#stop();
    this.chosen = name;
    this.model = new FeedModel();
    emit(this.onChosen);
    this.#follow();
    emit(this.onChanged);
  }

  /**
   * Note whether somebody looks; without anybody the feed is not watched, which costs the master nothing.
   * @param {unknown} viewer @param {boolean} wants
   */
  want(viewer, wants) {
    if (wants) this.viewers.add(viewer);
    else this.viewers.delete(viewer);
    this.#follow();
  }

  /** @param {string} method @param {Record<string, unknown>} params */
  call(method, params) {
    return this.clusters.connect(this.chosen).call(method, params);
  }

  #follow() {
    const isWanted = this.viewers.size > 0 && this.chosen !== "";
    if (!isWanted) this.#stop();
    else this.unwatch ??= this.clusters.connect(this.chosen).watch(this.#listener(this.model));
  }

  /** @param {FeedModel} model */
  #listener(model) {
    return {
      since: () => model.since,
      message: (/** @type {string} */ method, /** @type {unknown} */ params) => {
        const isFollowing = model.apply(method, params, this.now());
        if (isFollowing && model === this.model) emit(this.onMessage);
        return isFollowing;
      },
      state: (/** @type {LinkState} */ state, /** @type {string} */ reason) => {
        if (model !== this.model) return;
        this.state = state;
        this.reason = reason;
        emit(this.onChanged);
      },
    };
  }

  #stop() {
    this.unwatch?.();
    this.unwatch = null;
    if (this.state === "idle") return;
    this.state = "idle";
    emit(this.onChanged);
  }

  dispose() {
    this.viewers.clear();
    this.#stop();
  }
}

/** @param {Set<() => void>} listeners */
function emit(listeners) {
  for (const listener of [...listeners]) listener();
}

/**
 * Give the line that connects a notebook to a cluster.
 * @param {string} name
 */
export function connectCell(name) {
  const word = /^[\w.-]+$/.test(name) ? name : JSON.stringify(name);
  return `%load_ext concurrent_nb\n%concurrent connect ${word}`;
}

/**
 * Give the path of a notebook below the folder that a Jupyter server shows.
 * @param {string} path as a kernel has it, which is absolute @param {string} root that folder @returns {string}
 */
export function pathBelow(path, root) {
  const base = root.replace(/\/+$/, "");
  if (base && !base.startsWith("~") && path.startsWith(`${base}/`)) return path.slice(base.length + 1);
  // Jupyter abbreviates the home folder, which only the server knows: what follows it must do.
  const below = base.startsWith("~") ? base.slice(1) : "";
  const at = below ? path.indexOf(`${below}/`) : -1;
  return at > 0 ? path.slice(at + below.length + 1) : path.replace(/^\/+/, "");
}
