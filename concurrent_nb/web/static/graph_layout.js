// @ts-check
// Graphs of tasks that need results of others, folded by function: the graph in a message of the feed, and the places
// of functions and edges in its drawing. Pure.

import { count, finite, visible } from "./text.js";

/**
 * @typedef {{name: string, tasks: number, blocked: number, waiting: number, running: number, done: number,
 *   failed: number, cancelled: number}} GraphFunction
 * @typedef {[number, number, number]} GraphEdge position of a function, of one that needs its results, and how many
 * @typedef {{id: string, client: string, mine: boolean, functions: GraphFunction[], edges: GraphEdge[],
 *   other_edges: number, began_s: number, ended_s: number | null}} TaskGraph
 * @typedef {{path: string, head: string, x: number, y: number}} DrawnEdge the line, its arrow's head, and where its
 *   number is
 * @typedef {{width: number, height: number, nodeWidth: number, nodes: {x: number, y: number}[],
 *   edges: DrawnEdge[]}} Drawing
 */

/** as the master counts at most, and what it sums */
const [FUNCTIONS_MAX, EDGES_MAX] = [101, 500];
const NAMED_MAX = 12;
export const NODE_HEIGHT = 62;
/** least and most width of a box, and between columns: as much as there is room for */
const [LEAST, MOST] = [
  { box: 150, gap: 56 },
  { box: 200, gap: 84 },
];
/** between functions of a column, and height of an edge that passes a column */
const [GAP_Y, PASSING] = [18, 16];
/** height of an edge that leads from a function to itself, above it */
const LOOP = 24;
const MARGIN = 8;
const SWEEPS = 4;

const COUNTS = /** @type {const} */ (["tasks", "blocked", "waiting", "running", "done", "failed", "cancelled"]);

/** @param {Record<string, any>} raw @param {string} id @returns {TaskGraph} without what is malformed */
export function graphOf(raw, id) {
  const list = (/** @type {unknown} */ value) => /** @type {any[]} */ (Array.isArray(value) ? value : []);
  const functions = list(raw.functions)
    .slice(0, FUNCTIONS_MAX)
    .map((one) => {
      const [name, ...numbers] = list(one);
      const counts = Object.fromEntries(COUNTS.map((key, at) => [key, Math.max(0, finite(numbers[at]))]));
      return { .../** @type {GraphFunction} */ (/** @type {unknown} */ (counts)), name: String(name ?? "") };
    });
  const isPlace = (/** @type {unknown} */ at) =>
    Number.isInteger(at) && Number(at) >= 0 && Number(at) < functions.length;
  return {
    id,
    client: typeof raw.client === "string" ? raw.client : "",
    mine: raw.mine === true,
    functions,
    edges: list(raw.edges)
      .filter((edge) => Array.isArray(edge) && isPlace(edge[0]) && isPlace(edge[1]) && finite(edge[2]) > 0)
      .slice(0, EDGES_MAX),
    other_edges: finite(raw.other_edges),
    began_s: finite(raw.began_s),
    ended_s: typeof raw.ended_s === "number" ? finite(raw.ended_s) : null,
  };
}

/**
 * Put graphs into the order of lists: those with unfinished tasks first, then the newest.
 * @param {Iterable<TaskGraph>} graphs
 */
export function sortGraphs(graphs) {
  return [...graphs].sort(
    (a, b) =>
      Number(a.ended_s !== null) - Number(b.ended_s !== null) || b.began_s - a.began_s || (a.id < b.id ? 1 : -1),
  );
}

/** @param {TaskGraph} graph @param {"tasks" | "done" | "failed" | "cancelled"} key @returns {number} */
export const sumOf = (graph, key) => graph.functions.reduce((sum, one) => sum + one[key], 0);

/**
 * Choose the column of each function: to the right of all whose results it needs. An edge that closes a circle, as of
 * functions that need each other in turn, is left out. `telemetry/graph_text.py` does the same.
 * @param {number} size number of functions @param {GraphEdge[]} edges @returns {number[]}
 */
export function ranksOf(size, edges) {
  /** @type {number[][]} */
  const following = Array.from({ length: size }, () => []);
  for (const [source, target] of edges) if (source !== target) following[source].push(target);
  /** @type {number[]} */
  const finished = [];
  const seen = new Set();
  for (let root = 0; root < size; root += 1) {
    if (seen.has(root)) continue;
    seen.add(root);
    const path = [{ at: root, next: 0 }];
    while (path.length) {
      const top = path[path.length - 1];
      const target = following[top.at][top.next];
      top.next += 1;
      if (target === undefined) {
        finished.push(top.at);
        path.pop();
      } else if (!seen.has(target)) {
        seen.add(target);
        path.push({ at: target, next: 0 });
      }
    }
  }
  finished.reverse();
  const place = new Map(finished.map((at, number) => [at, number]));
  const ranks = new Array(size).fill(0);
  for (const at of finished) {
    for (const target of following[at]) {
      if (Number(place.get(target)) > Number(place.get(at))) ranks[target] = Math.max(ranks[target], ranks[at] + 1);
    }
  }
  return ranks;
}

/**
 * @param {TaskGraph} graph @param {boolean} [hasCounts]
 * @returns {string} `load 10/10 → clean 4/10 → add 0/9`, or `load → clean → add`
 */
export function graphLine({ functions, edges }, hasCounts = true) {
  const ranks = ranksOf(functions.length, edges);
  /** @type {string[][]} */
  const columns = [];
  const order = [...ranks.keys()].sort((a, b) => ranks[a] - ranks[b] || a - b);
  for (const at of order.slice(0, NAMED_MAX)) {
    const { name, done, tasks } = functions[at];
    (columns[ranks[at]] ??= []).push(visible(name, 40) + (hasCounts ? ` ${count(done)}/${count(tasks)}` : ""));
  }
  const line = columns.map((column) => column.join(", ")).join(" → ");
  return functions.length > NAMED_MAX ? `${line}, …` : line;
}

/**
 * Lay a graph out in columns from left to right. An edge over several columns has a place of its own in those between.
 * @param {number} size number of functions @param {GraphEdge[]} edges @param {number} [room] width that there is
 * @returns {Drawing}
 */
export function layOut(size, edges, room = Infinity) {
  const ranks = ranksOf(size, edges);
  const hasLoops = new Set(edges.filter(([source, target]) => source === target).map(([source]) => source));
  /** @typedef {{rank: number, y: number, height: number, above: number, beside: Item[]}} Item above: room for a loop */
  /** @type {Item[][]} */
  const columns = Array.from({ length: Math.max(0, ...ranks) + 1 }, () => []);
  const put = (/** @type {number} */ rank, /** @type {number} */ height, /** @type {number} */ above) => {
    const item = { rank, y: 0, height, above, beside: [] };
    columns[rank].push(item);
    return /** @type {Item} */ (item);
  };
  const items = ranks.map((rank, at) => put(rank, NODE_HEIGHT, hasLoops.has(at) ? LOOP : 0));
  const routes = edges.map(([source, target]) => {
    if (source === target) return [items[source]];
    const isBack = ranks[source] >= ranks[target];
    const [from, to] = isBack ? [target, source] : [source, target];
    const route = [items[from]];
    for (let rank = ranks[from] + 1; rank < ranks[to]; rank += 1) route.push(put(rank, PASSING, 0));
    route.push(items[to]);
    for (let at = 1; at < route.length; at += 1) {
      route[at - 1].beside.push(route[at]);
      route[at].beside.push(route[at - 1]);
    }
    return route;
  });
  const height = placeIn(columns);
  const widthOf = (/** @type {typeof LEAST} */ { box, gap }) => 2 * MARGIN + columns.length * (box + gap) - gap;
  const share = (room - widthOf(LEAST)) / (widthOf(MOST) - widthOf(LEAST));
  const between = (/** @type {"box" | "gap"} */ name) =>
    Math.floor(LEAST[name] + Math.min(1, Math.max(0, share)) * (MOST[name] - LEAST[name]));
  const [box, gap] = [between("box"), between("gap")];
  const left = (/** @type {Item} */ { rank }) => MARGIN + rank * (box + gap);
  return {
    width: widthOf({ box, gap }),
    height: height + 2 * MARGIN,
    nodeWidth: box,
    nodes: items.map((item) => ({ x: left(item), y: item.y })),
    edges: routes.map((route, at) => {
      if (route.length === 1) return loopOf(left(route[0]) + box, route[0].y);
      const isBack = ranks[edges[at][0]] >= ranks[edges[at][1]];
      const shift = isBack ? 12 : 0; // beside the edge in the other direction
      const middle = (/** @type {Item} */ item) => item.y + item.height / 2 + shift;
      /** @type {[number, number][]} */
      const points = route.flatMap((item, number) => {
        const ends = /** @type {[number, number][]} */ ([
          [left(item), middle(item)],
          [left(item) + box, middle(item)],
        ]);
        return number === 0 ? [ends[1]] : number === route.length - 1 ? [ends[0]] : ends;
      });
      const [first, second] = points;
      const [x, y] = isBack ? first : points[points.length - 1];
      const tip = isBack ? 7 : -7;
      return {
        path: pathOf(points),
        head: `M${x + tip} ${y - 4}L${x} ${y}L${x + tip} ${y + 4}Z`,
        x: (first[0] + second[0]) / 2,
        y: (first[1] + second[1]) / 2 + (isBack ? 14 : -4),
      };
    }),
  };
}

/**
 * Order the items of each column so that few edges cross, and give them their heights.
 * @param {{y: number, height: number, above: number, beside: any[]}[][]} columns @returns {number} the height of all
 */
function placeIn(columns) {
  const room = (/** @type {{height: number, above: number}} */ item) => item.above + item.height + GAP_Y;
  const heights = columns.map((column) => column.reduce((sum, item) => sum + room(item), -GAP_Y));
  const most = Math.max(0, ...heights);
  const stack = (/** @type {typeof columns[0]} */ column) => {
    let y = MARGIN + (most - heights[columns.indexOf(column)]) / 2;
    for (const item of column) {
      item.y = y + item.above;
      y += room(item);
    }
  };
  columns.forEach(stack);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (const column of sweep % 2 ? [...columns].reverse() : columns) {
      const wish = new Map(
        column.map((item) => {
          const middles = item.beside.map((other) => other.y + other.height / 2);
          const own = item.y + item.height / 2;
          return [item, middles.length ? middles.reduce((sum, y) => sum + y, 0) / middles.length : own];
        }),
      );
      column.sort((a, b) => Number(wish.get(a)) - Number(wish.get(b)));
      stack(column);
    }
  }
  return most;
}

/** @param {[number, number][]} points @returns {string} a curve that leaves and arrives horizontally */
function pathOf(points) {
  const [[x, y], ...rest] = points;
  let [x0, y0] = [x, y];
  let path = `M${x} ${y}`;
  for (const [x1, y1] of rest) {
    const half = (x0 + x1) / 2;
    path += y0 === y1 ? `L${x1} ${y1}` : `C${half} ${y0} ${half} ${y1} ${x1} ${y1}`;
    [x0, y0] = [x1, y1];
  }
  return path;
}

/** @param {number} right @param {number} y of a box @returns {DrawnEdge} from the function to itself */
function loopOf(right, y) {
  const [from, to] = [right - 64, right - 24];
  return {
    path: `M${from} ${y}C${from} ${y - LOOP} ${to} ${y - LOOP} ${to} ${y - 2}`,
    head: `M${to - 4} ${y - 7}L${to} ${y}L${to + 4} ${y - 7}Z`,
    x: (from + to) / 2,
    y: y - 8,
  };
}
