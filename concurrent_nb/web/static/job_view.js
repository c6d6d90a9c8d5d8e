// @ts-check
// What a cell shows of its job, from the document that its application shares: progress, results, errors, prints.
// The document is foreign: its texts are shown as text, and of everything there is a limit.

import { element, plain, setAttribute, setForeign, setText } from "./dom.js";
import { bytes, count, finite, percent, visible, visibleLines } from "./text.js";

/** @typedef {import('./dom.js').Translate} Translate */
/** @typedef {import('./feed_model.js').Job} Job */
/** @typedef {{version: number, view: any}} Answer of the method `job_view`; view: null if it has not changed */

/** how often the master is asked at most and at least (asking makes the application share), and after an error */
const [SOONEST_MS, LATEST_MS, RETRY_MS] = [900, 5000, 15_000];
const [BARS_MAX, KINDS_MAX, ROWS_MAX, COLUMNS_MAX, CELLS_MAX, DISPLAYS_MAX] = [20, 20, 60, 40, 400, 24];
const [TEXT_MAX, DATA_MAX] = [250_000, 1_500_000];
/** states of a task: their words and colours are those of the display in the cell */
const STATES = ["waiting", "running", "done", "failed", "cancelled", "hit"];
const COLOURS = ["#9a9a9a3c", "#e0a030", "#3a8f6f", "#d1495b", "#8a8fa078", "#7b5cd6"];
const [RUNNING, DONE] = [1, 2];
const PICTURES = ["image/png", "image/jpeg", "image/svg+xml"];

const list = (/** @type {any} */ value) => /** @type {any[]} */ (Array.isArray(value) ? value : []);
const text = (/** @type {any} */ value) => (typeof value === "string" ? value : "");

/** Asks for the view of one job: when the feed says that it is new, and every few seconds, so that it is shared. */
export class ViewRequests {
  /** @param {(job: Job, since: number) => Promise<Answer>} ask @param {(view: any) => void} show */
  constructor(ask, show) {
    this.ask = ask;
    this.show = show;
    this.id = "";
    this.version = 0;
    this.askedAt_ms = -Infinity;
    this.isAsking = false;
    this.hasFailed = false;
    /** whether the job has ended, and the view is the one of its end */
    this.isLast = false;
  }

  /** @param {string} [id] of a job whose view is not known yet; '' for none */
  begin(id = "") {
    this.id = id;
    this.version = 0;
    this.askedAt_ms = -Infinity;
    this.isAsking = this.hasFailed = this.isLast = false;
  }

  get isAnswered() {
    return !this.isAsking && this.askedAt_ms > -Infinity;
  }

  /** @param {Job} job @param {number} now_ms */
  poll(job, now_ms) {
    if (job.id !== this.id) this.begin(job.id);
    const isNew = job.view_version !== this.version;
    const wait_ms = this.hasFailed ? RETRY_MS : isNew ? SOONEST_MS : LATEST_MS;
    if (this.isAsking || (this.isLast && !isNew) || now_ms - this.askedAt_ms < wait_ms) return;
    this.askedAt_ms = now_ms;
    this.isAsking = true;
    this.ask(job, this.version).then(
      (answer) => this.#take(job, answer),
      () => {
        // A master without views, or a job that it has forgotten: what was seen last stays.
        if (job.id === this.id) [this.isAsking, this.hasFailed] = [false, true];
      },
    );
  }

  /** @param {Job} job @param {Answer} answer */
  #take(job, answer) {
    if (job.id !== this.id) return;
    this.isAsking = this.hasFailed = false;
    this.version = finite(answer?.version);
    if (answer?.view && typeof answer.view === "object") {
      this.show(answer.view);
      this.isLast = answer.view.is_over === true;
    }
  }
}

/** @param {any} kind of errors @returns {string} `12 times: tasks 1, 5, 9, 11, 14 and 7 more` */
export function errorTasks(kind, t = plain) {
  const tasks = list(kind?.tasks).slice(0, 10).map(finite);
  if (finite(kind?.count) <= 1) return t("task %1", tasks.join(", "));
  const more = finite(kind.count) - tasks.length;
  const named = t("%1 times: tasks %2", count(kind.count), tasks.join(", "));
  return more > 0 ? t("%1 and %2 more", named, count(more)) : named;
}

/** @param {any} view of kind "search" @returns {string} */
export function searchLine(view, t = plain) {
  const hit = view.hit && typeof view.hit === "object" ? view.hit : null;
  const answer = hit
    ? t("hit: %1 · task %2", visible(hit.value), finite(hit.index)) + (hit.label ? ` (${visible(hit.label)})` : "")
    : view.over === true
      ? t("not found")
      : t("no hit yet");
  const searched = t("%1 of %2 searched", count(finite(view.searched)), count(finite(view.tasks)));
  const failed = finite(view.failed) ? ` · ${t("%1 failed", count(finite(view.failed)))}` : "";
  return `${answer} · ${searched}${failed}`;
}

/** @param {any} view of kind "image" @returns {string} */
export function imageLine(view, t = plain) {
  const parts = [t("%1 × %2 pixels", count(finite(view.width)), count(finite(view.height)))];
  if (finite(view.step) > 1) parts.push(t("shown at 1:%1", finite(view.step)));
  const [least, greatest] = list(view.range).map((limit) => visible(limit, 30));
  if (greatest) parts.push(least === greatest ? t("all values %1", least) : t("values %1 to %2", least, greatest));
  if (finite(view.odd)) parts.push(t("%1 not drawn; %2", count(view.odd), visible(view.first_odd)));
  return parts.join(" · ");
}

/** @param {any} view of kind "table" @returns {(string[] | string)[]} its rows; a text stands for rows left out */
export function tableRows(view, t = plain) {
  return list(view.rows)
    .slice(0, ROWS_MAX)
    .map((row) =>
      Array.isArray(row)
        ? row.slice(0, COLUMNS_MAX).map((cell) => visible(cell, 100))
        : finite(row) > 0
          ? t("… %1 more", count(row))
          : "…",
    );
}

/**
 * Bring outputs into the form in which they are shown: the newest ones, cleaned, with prints of one stream together.
 * @param {any} outputs of the document @param {boolean} [hasColours] keep those of the prints
 * @returns {({name: string, text: string} | {data: Record<string, unknown>})[]}
 */
export function outputBlocks(outputs, hasColours = false) {
  let [left, displays] = [TEXT_MAX, DISPLAYS_MAX];
  let size = DATA_MAX;
  /** @type {any[]} */
  const kept = [];
  for (const output of list(outputs).slice(-20_000).reverse()) {
    if (output?.type === "stream" && left > 0) {
      const name = output.name === "stderr" ? "stderr" : "stdout";
      const last = kept[kept.length - 1];
      const piece = text(output.text).slice(-left);
      left -= piece.length;
      if (last?.name === name) last.pieces.push(piece);
      else kept.push({ name, pieces: [piece] });
    } else if (output?.type === "display" && displays > 0 && output.data && typeof output.data === "object") {
      size -= JSON.stringify(output.data).length;
      if (size > 0) kept.push({ data: output.data });
      displays -= 1;
    }
  }
  return kept
    .reverse()
    .map((block) =>
      block.pieces
        ? { name: block.name, text: visibleLines(block.pieces.reverse().join(""), TEXT_MAX, hasColours) }
        : block,
    );
}

/** @param {unknown} data base64 @returns {string} without white space; '' if it is none, or too long */
export function base64Of(data) {
  const packed = typeof data === "string" && data.length <= DATA_MAX ? data.replace(/\s+/g, "") : "";
  return /^[A-Za-z0-9+/]+={0,2}$/.test(packed) ? packed : "";
}

/** @param {Record<string, unknown>} data a MIME bundle @returns {string} the URI of its picture, or '' */
export function pictureUri(data) {
  for (const type of PICTURES) {
    const given = Array.isArray(data[type]) ? list(data[type]).join("") : data[type];
    if (typeof given !== "string" || given.length > DATA_MAX) continue;
    // A picture that is an <img> runs no script and loads nothing, an SVG either.
    if (type === "image/svg+xml") return `data:${type},${encodeURIComponent(given.replace(/[\ud800-\udfff]/gu, ""))}`;
    const packed = base64Of(given);
    if (packed) return `data:${type};base64,${packed}`;
  }
  return "";
}

/**
 * Have as many children as there are things to show.
 * @param {Element} place @param {number} wanted @param {() => Node} make
 */
function fit(place, wanted, make) {
  while (place.children.length > wanted) place.lastChild?.remove();
  while (place.children.length < wanted) place.append(make());
}

/** @param {Element} row @param {number} at @returns {HTMLElement} */
const child = (row, at) => /** @type {HTMLElement} */ (row.children[at]);

/** The view of one job, as elements that are updated in place: what is open, scrolled or has the focus stays so. */
export class JobView {
  /** @param {Translate} [t] */
  constructor(t = plain) {
    this.t = t;
    /** @type {ReturnType<typeof outputBlocks>} the outputs that are shown */
    this.blocks = [];
    /** @type {Record<string, string>} JSON of the parts that are shown */
    this.shown = {};
    this.reports = element("div", "cnb-reports");
    this.moreReports = element("p", "cnb-muted");
    this.errors = element("div", "cnb-errors");
    this.moreErrors = element("p", "cnb-muted");
    this.picture = element("img", "cnb-picture", "", { alt: t("Picture made by the tasks so far") });
    this.strip = element("canvas", "cnb-strip", "", { role: "img" });
    this.hit = element("span", "cnb-hit");
    this.ends = element("div", "cnb-ends cnb-muted", [element("span", "cnb-clip"), element("span", "cnb-clip")]);
    this.search = element("div", "cnb-search", [this.strip, this.hit, this.ends]);
    this.table = element("table", "cnb-table cnb-results");
    const scroll = { tabindex: "0", role: "group" };
    this.tablePlace = element("div", "cnb-scroll", [this.table], { ...scroll, "aria-label": t("Results") });
    this.line = element("p", "cnb-muted");
    this.dropped = element("p", "cnb-muted");
    this.outputs = element("div", "cnb-outputs", "", { ...scroll, "aria-label": t("Output of the tasks") });
    this.element = element("div", "cnb-view", [
      this.reports,
      this.moreReports,
      this.errors,
      this.moreErrors,
      element("div", "", [this.picture, this.search, this.tablePlace, this.line]),
      this.dropped,
      this.outputs,
    ]);
    this.clear();
  }

  clear() {
    this.shown = {};
    this.blocks = [];
    this.errors.replaceChildren();
    this.outputs.replaceChildren();
    this.show({});
    this.element.hidden = true;
  }

  /** @param {any} view the document */
  show(view) {
    this.element.hidden = false;
    this.#part("bars", view.bars, (part) => this.#showReports(part));
    this.#part("errors", view.errors, (part) => this.#showErrors(part));
    this.#part("view", view.view, (part) => this.#showResults(part));
    this.#part("outputs", [view.outputs, view.dropped_bytes], ([outputs, dropped]) => {
      const size = finite(dropped);
      this.dropped.hidden = !size;
      setText(this.dropped, this.t("The first %1 of the output are left out here.", bytes(size)));
      this.#showOutputs(outputBlocks(outputs));
    });
  }

  /** @param {string} name @param {any} part @param {(part: any) => void} show */
  #part(name, part, show) {
    const json = JSON.stringify(part) ?? "";
    if (this.shown[name] === json) return;
    this.shown[name] = json;
    show(part ?? {});
  }

  /** @param {any} reports */
  #showReports(reports) {
    const [place, bars, more] = [this.reports, list(reports.bars).slice(0, BARS_MAX), finite(reports.more)];
    setText(this.moreReports, more > 0 ? this.t("%1 more have reported", count(more)) : "");
    place.hidden = !bars.length;
    fit(place, bars.length, () => {
      const bar = element("div", "cnb-progress", [element("div")], { role: "progressbar", "aria-valuemax": "100" });
      return element("div", "cnb-report", [element("span", "cnb-clip"), bar, element("span", "cnb-clip cnb-muted")]);
    });
    bars.forEach((one, at) => {
      const [label, share, report, state] = list(one);
      const row = place.children[at];
      const isKnown = typeof share === "number" && Number.isFinite(share);
      const part = isKnown && state !== DONE ? Math.min(1, Math.max(0, share)) : 1;
      setForeign(child(row, 0), text(label));
      const bar = child(row, 1);
      setAttribute(bar, "aria-label", visible(text(label) || this.t("Progress")));
      if (isKnown || state === DONE) setAttribute(bar, "aria-valuenow", String(Math.round(100 * part)));
      else bar.removeAttribute("aria-valuenow");
      setAttribute(bar.children[0], "class", `is-${STATES[state] ?? "running"}`);
      bar.classList.toggle("is-unknown", !isKnown && state === RUNNING);
      child(bar, 0).style.width = `${(100 * part).toFixed(1)}%`;
      const done = isKnown && state !== DONE ? [percent(share)] : [];
      setForeign(child(row, 2), [...done, text(report)].filter(Boolean).join(" · "), 200);
    });
  }

  /** @param {any} errors */
  #showErrors(errors) {
    const kinds = list(errors.kinds).slice(0, KINDS_MAX);
    this.errors.hidden = !kinds.length;
    const more = finite(errors.more);
    setText(this.moreErrors, more > 0 ? this.t("%1 more errors of other kinds", count(more)) : "");
    fit(this.errors, kinds.length, () => {
      const names = [element("b", "cnb-bad"), element("span"), element("span", "cnb-muted")];
      return element("details", "cnb-error", [element("summary", "", names), element("pre", "cnb-print")]);
    });
    kinds.forEach((kind, at) => {
      const [head, trace] = this.errors.children[at].children;
      setForeign(child(head, 0), text(kind?.type));
      setForeign(child(head, 1), text(kind?.message) ? `: ${kind.message}` : "", 200);
      setText(child(head, 2), errorTasks(kind, this.t));
      setText(trace, visibleLines(kind?.text));
    });
  }

  /** @param {any} view */
  #showResults(view) {
    const { t } = this;
    const png = view.kind === "image" ? base64Of(view.png) : "";
    this.picture.hidden = !png;
    this.search.hidden = view.kind !== "search";
    this.tablePlace.hidden = view.kind !== "table" || !list(view.rows).length;
    if (png) this.#showPicture(view, png);
    if (view.kind === "search") this.#showSearch(view);
    if (view.kind === "table") this.#showTable(view);
    const lines = new Map([
      ["image", () => imageLine(view, t)],
      ["search", () => searchLine(view, t)],
      ["table", () => (this.tablePlace.hidden ? t("no results yet") : visible(view.limits, 400))],
    ]);
    setText(this.line, lines.get(view.kind)?.() ?? "");
  }

  /** @param {any} view @param {string} png */
  #showPicture(view, png) {
    const [width, height] = [Math.max(1, finite(view.width)), Math.max(1, finite(view.height))];
    // Small pictures are enlarged, and their pixels stay sharp.
    const wide = Math.min(768, Math.max(width, Math.min(384, (384 * width) / height)));
    this.picture.style.width = `${Math.round(wide)}px`;
    this.picture.style.aspectRatio = `${width} / ${height}`;
    this.picture.classList.toggle("is-small", width < 384);
    this.picture.src = `data:image/png;base64,${png}`;
  }

  /** @param {any} view */
  #showSearch(view) {
    const cells = text(view.cells).slice(0, CELLS_MAX);
    const { strip, hit, ends } = this;
    strip.width = Math.max(1, cells.length);
    strip.height = 1;
    const context = strip.getContext("2d");
    [...cells].forEach((state, at) => {
      if (!context) return;
      context.fillStyle = COLOURS[Number(state)] ?? COLOURS[0];
      context.fillRect(at, 0, 1, 1);
    });
    strip.setAttribute("aria-label", searchLine(view, this.t));
    hit.hidden = !view.hit;
    const place = (finite(view.hit?.index) + 0.5) / Math.max(1, finite(view.tasks));
    hit.style.left = `${(100 * Math.min(1, place)).toFixed(2)}%`;
    setForeign(child(ends, 0), text(view.first));
    setForeign(child(ends, 1), text(view.last));
  }

  /** @param {any} view */
  #showTable(view) {
    const names = list(view.columns).slice(0, COLUMNS_MAX);
    const side = (/** @type {number} */ at) => (list(view.right)[at] === true ? "" : "is-text");
    const best = new Set(list(view.best).map(String));
    const cells = names.map((name, at) => element("th", side(at), visible(name, 40), { scope: "col" }));
    const rows = tableRows(view, this.t).map((row) => {
      if (typeof row === "string") {
        const whole = element("td", "is-text", row, { colspan: String(Math.max(1, names.length)) });
        return element("tr", "cnb-muted", [whole]);
      }
      const mark = row[row.length - 1] === "failed" ? "is-failed" : best.has(row[0]) ? "is-best" : "";
      const made = row.map((cell, at) => element("td", side(at), cell));
      return element("tr", mark, made);
    });
    this.table.replaceChildren(element("thead", "", [element("tr", "", cells)]), element("tbody", "", rows));
  }

  /** @param {ReturnType<typeof outputBlocks>} blocks */
  #showOutputs(blocks) {
    const place = this.outputs;
    place.hidden = !blocks.length;
    const isAtEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 24;
    const scrolled = place.scrollTop;
    let same = 0;
    while (same < blocks.length && same < this.blocks.length && this.#isSame(this.blocks[same], blocks[same], same)) {
      same += 1;
    }
    while (place.children.length > same) place.lastChild?.remove();
    for (const block of blocks.slice(same)) place.append(this.#blockOf(block));
    this.blocks = blocks;
    place.scrollTop = isAtEnd ? place.scrollHeight : scrolled;
  }

  /**
   * Say whether a block is shown already; one that only has grown grows there, so that a selection in it stays.
   * @param {any} before @param {any} block @param {number} at
   */
  #isSame(before, block, at) {
    if (!("text" in block)) return JSON.stringify(before) === JSON.stringify(block);
    if (before.name !== block.name || !block.text.startsWith(before.text)) return false;
    if (block.text.length > before.text.length) this.outputs.children[at].append(block.text.slice(before.text.length));
    return true;
  }

  /** @param {any} block @returns {HTMLElement} */
  #blockOf(block) {
    if ("text" in block) {
      return element("pre", `cnb-print ${block.name === "stderr" ? "is-stderr" : ""}`.trim(), block.text);
    }
    const { data } = block;
    const uri = pictureUri(data);
    if (uri) {
      return element("img", "cnb-display", "", { src: uri, alt: visible(data["text/plain"]) || this.t("Picture") });
    }
    const words = visibleLines(data["text/plain"]);
    const others = Object.keys(data).filter((type) => type !== "text/plain");
    const note = others.length ? this.t("%1 output is not shown here", visible(others[0], 60)) : "";
    return element("div", "cnb-display", [
      ...(words ? [element("pre", "cnb-print", words)] : []),
      ...(note ? [element("p", "cnb-muted", note)] : []),
    ]);
  }
}
