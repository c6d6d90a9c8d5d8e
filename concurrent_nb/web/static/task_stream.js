// @ts-check
// The task stream: a timeline of each worker that moves on, and can be paused, zoomed, searched for failures and read
// as a table.

import { button, element, plain, setForeign, setText, throttled } from "./dom.js";
import {
  LaneTable,
  WAITING_COLOUR,
  FAILED_COLOUR,
  coloursOf,
  markAt,
  paintMarks,
  pixel,
  statusWord,
  summarize,
  summarizeLanes,
  tickStep,
} from "./stream_paint.js";
import { clock, count, duration, percent, visible } from "./text.js";

/** @typedef {import('./feed_model.js').FeedModel} FeedModel */
/** @typedef {import('./stream_paint.js').Row} Row */

const SPANS_S = [10, 30, 60, 300, 600];
const LEAST_SPAN_S = 0.002;
const MOST_SPAN_S = 3600;
const [AXIS, TOP] = [22, 18]; // heights: the time axis below, event marks above
const [ROW_LEAST, ROW_MOST] = [6, 24];
const FUNCTIONS_SHOWN = 12;
const TABLE_ROWS = 200;

export class TaskStream {
  /**
   * @param {FeedModel} model
   * @param {{translate?: import('./dom.js').Translate, now?: () => number, height?: number}} [options]
   *   now: seconds since 1970; height: pixels that the rows may take
   */
  constructor(model, options = {}) {
    this.model = model;
    this.t = options.translate ?? plain;
    this.now = options.now ?? (() => Date.now() / 1000);
    this.most = options.height ?? 320;
    this.table = new LaneTable();
    this.span_s = 60;
    this.to_s = 0;
    this.isFollowing = true;
    this.failedOnly = false;
    this.withWaiting = true;
    this.rowOffset = 0;
    /** frames drawn, and how long the last one took: read by tests and benchmarks */
    this.frames = 0;
    this.lastFrame_ms = 0;
    /** @type {Row[]} */
    this.rows = [];
    this.rowsAt_ms = -Infinity;
    /** @type {string[]} those for which the rows were chosen */
    this.rowLanes = [];
    /** @type {string[] | null} */
    this.colourNames = null;
    /** @type {string[]} */
    this.colours = [];
    this.pixelColours = new Uint32Array(0);
    this.pixels = new Uint32Array(0);
    /** @type {ImageData | null} */
    this.image = null;
    this.layer = document.createElement("canvas");
    this.isDirty = true;
    this.isSeen = true;
    this.size = { width: 0, height: 0, gutter: 96, ratio: 1, row: 14, shown: 0 };
    this.style = { fg: "#222", muted: "#666", line: "#ddd", font: "11px sans-serif" };
    this.styleAt_ms = -Infinity;
    this.lastDraw_ms = -Infinity;
    /** @type {{x: number, y: number} | null} */
    this.pointer = null;
    const { t } = this;
    this.canvas = element("canvas", "cnb-stream-canvas", "", {
      tabindex: "0",
      role: "img",
      "aria-label": t("Task stream: time to the right, one row for each worker. The table below has the same as text."),
    });
    this.tip = element("div", "cnb-tip", "", { "aria-hidden": "true" });
    this.tip.hidden = true;
    this.pauseButton = button(t("Pause"), () => this.setFollowing(!this.isFollowing), "cnb-stream-pause");
    this.failedButton = button(t("Failed only"), () => this.setFailedOnly(!this.failedOnly));
    this.waitingButton = button(
      t("Waiting"),
      () => this.setWaiting(!this.withWaiting),
      "",
      t("Show when a task waited, and was on the way to its worker, while that was free"),
    );
    this.failedButton.setAttribute("aria-pressed", "false");
    this.waitingButton.setAttribute("aria-pressed", "true");
    this.spanSelect = element("select", "cnb-select", "", { "aria-label": t("Time shown") });
    for (const span of SPANS_S) {
      const label = span < 60 ? t("%1 s", span) : t("%1 min", span / 60);
      this.spanSelect.append(element("option", "", label, { value: String(span) }));
    }
    this.spanSelect.append(element("option", "", t("zoomed"), { value: "" }));
    this.spanSelect.value = "60";
    this.spanSelect.addEventListener("change", () => {
      if (this.spanSelect.value) this.#zoomTo(Number(this.spanSelect.value), 1);
    });
    const zoomIn = button("+", () => this.#zoom(0.5, this.isFollowing ? 1 : 0.5), "cnb-square");
    const zoomOut = button("−", () => this.#zoom(2, this.isFollowing ? 1 : 0.5), "cnb-square");
    zoomIn.setAttribute("aria-label", t("Zoom in"));
    zoomOut.setAttribute("aria-label", t("Zoom out"));
    this.status = element("span", "cnb-muted cnb-stream-status");
    const legend = element(
      "span",
      "cnb-legend cnb-muted",
      ["running", "failed", "waiting", "transfer"].map((kind) =>
        element("span", "", [element("i", `cnb-key is-${kind}`), t(kind)]),
      ),
    );
    const bar = element(
      "div",
      "cnb-toolbar",
      [this.pauseButton, zoomOut, zoomIn, this.spanSelect, this.failedButton, this.waitingButton, this.status, legend],
      {
        role: "toolbar",
        "aria-label": t("Task stream"),
      },
    );
    const area = element("div", "cnb-stream-area", [this.canvas, this.tip]);
    this.functionBody = element("tbody");
    const columns = ["Function", "tasks", "failed", "min", "25 %", "median", "75 %", "max", "total"];
    const functions = element("table", "cnb-table cnb-functions", [
      element("caption", "cnb-visually-hidden", t("Run times of the functions in the time shown")),
      element("thead", "", [
        element(
          "tr",
          "",
          columns.map((name) => element("th", "", t(name), { scope: "col" })),
        ),
      ]),
      this.functionBody,
    ]);
    this.twinBody = element("tbody");
    this.twin = element("details", "cnb-details", [
      element("summary", "", t("Rows as a table")),
      element(
        "div",
        "cnb-scroll",
        [
          element("table", "cnb-table", [
            element("thead", "", [
              element(
                "tr",
                "",
                ["Slave", "Worker", "tasks", "failed", "busy", "longest"].map((name) =>
                  element("th", "", t(name), { scope: "col" }),
                ),
              ),
            ]),
            this.twinBody,
          ]),
        ],
        { tabindex: "0", role: "region", "aria-label": t("Rows as a table") },
      ),
    ]);
    this.twin.addEventListener("toggle", () => this.summary());
    const hint = element(
      "p",
      "cnb-muted cnb-hint",
      t("Drag or arrow keys move, + and − or Ctrl and wheel zoom, Space pauses, F shows failures, End is now."),
    );
    this.element = element("div", "cnb-stream", [
      bar,
      area,
      element("div", "cnb-scroll", [functions], { tabindex: "0", role: "region", "aria-label": t("Functions") }),
      this.twin,
      hint,
    ]);
    this.#listen();
    this.summary = throttled(() => this.#showSummary(), 2000);
    // Tests and benchmarks find the stream by its canvas.
    Object.assign(this.canvas, { stream: this });
    this.observer = new ResizeObserver(() => {
      this.isDirty = true;
    });
    this.observer.observe(this.canvas);
    this.seen = new IntersectionObserver((entries) => {
      this.isSeen = entries.some((entry) => entry.isIntersecting);
      this.isDirty = true;
    });
    this.seen.observe(this.canvas);
    this.frame = requestAnimationFrame((at) => this.#tick(at));
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const action = {
        ArrowLeft: () => this.#pan(-0.1),
        ArrowRight: () => this.#pan(0.1),
        ArrowUp: () => this.#scrollRows(-1),
        ArrowDown: () => this.#scrollRows(1),
        PageUp: () => this.#scrollRows(-this.size.shown),
        PageDown: () => this.#scrollRows(this.size.shown),
        "+": () => this.#zoom(0.5, 0.5),
        "=": () => this.#zoom(0.5, 0.5),
        "-": () => this.#zoom(2, 0.5),
        End: () => this.setFollowing(true),
        " ": () => this.setFollowing(!this.isFollowing),
        f: () => this.setFailedOnly(!this.failedOnly),
        w: () => this.setWaiting(!this.withWaiting),
      }[event.key];
      if (!action) return;
      event.preventDefault();
      event.stopPropagation();
      action();
    });
    canvas.addEventListener(
      "wheel",
      (event) => {
        // A page must scroll past the stream: the wheel zooms with Ctrl, or once the stream has been clicked.
        const isMeant = event.ctrlKey || event.metaKey || document.activeElement === canvas;
        if (!isMeant || (!event.deltaX && !event.deltaY)) return;
        event.preventDefault();
        if (event.shiftKey) this.#scrollRows(Math.sign(event.deltaY || event.deltaX) * 2);
        else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.#pan(event.deltaX / 600);
        else this.#zoom(1.0015 ** event.deltaY, this.isFollowing ? 1 : this.#shareOf(event.offsetX));
      },
      { passive: false },
    );
    /** @type {{x: number, y: number, to_s: number, row: number, moved: boolean} | null} */
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      drag = { x: event.offsetX, y: event.offsetY, to_s: this.#to(), row: this.rowOffset, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = { x: event.offsetX, y: event.offsetY };
      if (drag && (drag.moved || Math.abs(event.offsetX - drag.x) > 4 || Math.abs(event.offsetY - drag.y) > 8)) {
        drag.moved = true;
        this.pointer = null;
        if (Math.abs(event.offsetX - drag.x) > 4) {
          this.setFollowing(false);
          this.to_s = drag.to_s - ((event.offsetX - drag.x) / this.#plotWidth()) * this.span_s;
        }
        this.rowOffset = drag.row - Math.round((event.offsetY - drag.y) / this.size.row);
      }
      this.isDirty = true;
    });
    const end = () => {
      drag = null;
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.isDirty = true;
    });
  }

  /** Draw what the model has new; call it after each message. */
  update() {
    this.isDirty = true;
    this.summary();
  }

  /** @param {boolean} isFollowing */
  setFollowing(isFollowing) {
    if (!isFollowing && this.isFollowing) this.to_s = this.#to();
    this.isFollowing = isFollowing;
    setText(this.pauseButton, isFollowing ? this.t("Pause") : this.t("Follow"));
    this.isDirty = true;
    this.summary();
  }

  /** @param {boolean} failedOnly */
  setFailedOnly(failedOnly) {
    this.failedOnly = failedOnly;
    this.failedButton.setAttribute("aria-pressed", String(failedOnly));
    this.isDirty = true;
  }

  /** @param {boolean} withWaiting */
  setWaiting(withWaiting) {
    this.withWaiting = withWaiting;
    this.waitingButton.setAttribute("aria-pressed", String(withWaiting));
    this.isDirty = true;
  }

  dispose() {
    cancelAnimationFrame(this.frame);
    this.observer.disconnect();
    this.seen.disconnect();
    this.summary.cancel();
    this.element.remove();
  }

  #to() {
    return this.isFollowing ? this.model.now_s(this.now()) : this.to_s;
  }

  #plotWidth() {
    return Math.max(1, this.size.width - this.size.gutter);
  }

  /** @param {number} x @returns {number} */
  #shareOf(x) {
    return Math.min(1, Math.max(0, (x - this.size.gutter) / this.#plotWidth()));
  }

  /** @param {number} share */
  #pan(share) {
    const to_s = this.#to() + share * this.span_s;
    const now_s = this.model.now_s(this.now());
    this.setFollowing(false);
    if (to_s >= now_s) this.setFollowing(true);
    else this.to_s = to_s;
  }

  /** @param {number} rows */
  #scrollRows(rows) {
    this.rowOffset += rows;
    this.isDirty = true;
  }

  /** @param {number} factor @param {number} about share of the width that stays where it is */
  #zoom(factor, about) {
    this.#zoomTo(this.span_s * factor, about);
  }

  /** @param {number} span_s @param {number} about */
  #zoomTo(span_s, about) {
    const span = Math.min(MOST_SPAN_S, Math.max(LEAST_SPAN_S, span_s));
    this.to_s = this.#to() - (1 - about) * (this.span_s - span);
    this.span_s = span;
    this.spanSelect.value = SPANS_S.includes(span) ? String(span) : "";
    this.isDirty = true;
    this.summary();
  }

  /** @param {number} at_ms */
  #tick(at_ms) {
    this.frame = requestAnimationFrame((at) => this.#tick(at));
    if (!this.isSeen || document.hidden || !this.canvas.clientWidth) return;
    // A stream that follows moves on by itself, by a pixel at a time.
    const isMoving =
      this.isFollowing && at_ms - this.lastDraw_ms >= Math.max(30, (1000 * this.span_s) / this.#plotWidth());
    if (!this.isDirty && !isMoving) return;
    this.lastDraw_ms = at_ms;
    this.isDirty = false;
    const begun = performance.now();
    this.draw();
    this.lastFrame_ms = performance.now() - begun;
    this.frames += 1;
  }

  draw() {
    const { model, table, canvas } = this;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const now_s = model.now_s(this.now());
    const to_s = this.#to();
    const from_s = to_s - this.span_s;
    this.#readStyle();
    this.#chooseColours();
    table.follow(model.marks);
    const placed = table.place(model.running, model.lanes);
    // Rows come and go as time moves on, but not with each frame; a new lane takes the place of a row at once.
    const begun = performance.now();
    if (begun - this.rowsAt_ms > 400 || !this.isFollowing || this.rowLanes !== model.lanes) {
      this.rows = table.rows(model.lanes, placed, from_s, to_s);
      this.rowsAt_ms = begun;
      this.rowLanes = model.lanes;
    }
    const { rows, size } = this;
    size.ratio = Math.min(2, window.devicePixelRatio || 1);
    size.width = canvas.clientWidth;
    size.gutter = size.width < 560 ? 76 : 116;
    size.row = Math.min(ROW_MOST, Math.max(ROW_LEAST, Math.floor(this.most / Math.max(1, rows.length))));
    size.shown = Math.max(1, Math.min(rows.length, Math.floor(this.most / size.row)));
    this.rowOffset = Math.max(0, Math.min(this.rowOffset, rows.length - size.shown));
    const height = TOP + Math.max(3 * ROW_MOST, size.shown * size.row) + AXIS;
    if (size.height !== height) canvas.style.height = `${(size.height = height)}px`;
    const [full, tall] = [Math.round(size.width * size.ratio), Math.round(height * size.ratio)];
    if (canvas.width !== full || canvas.height !== tall) [canvas.width, canvas.height] = [full, tall];
    context.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    context.clearRect(0, 0, size.width, height);
    context.font = this.style.font;

    const shown = rows.slice(this.rowOffset, this.rowOffset + size.shown);
    const rowOf = new Int32Array(model.lanes.length).fill(-1);
    /** @type {Map<string, number>} */
    const extra = new Map();
    shown.forEach((row, at) => {
      if (row.lane >= 0) rowOf[row.lane] = at;
      else extra.set(`${row.slave}/${-row.extra}`, at);
    });
    this.#drawGrid(context, shown, from_s, to_s);
    const running = [];
    for (const { task, place } of placed) {
      const row = place >= 0 ? rowOf[place] : extra.get(`${task.slave}/${place}`);
      if (row === undefined || row < 0) continue;
      running.push({ row, start_s: task.started_s, colour: pixel(this.#colourOfJob(task.job)) });
    }
    const width = Math.round(this.#plotWidth() * size.ratio);
    this.#reserve(width, shown.length);
    if (this.image && shown.length) {
      const view = { from_s, to_s, width, failedOnly: this.failedOnly, withWaiting: this.withWaiting };
      paintMarks(this.pixels, rowOf, shown.length, model.marks, this.pixelColours, view, running, now_s);
      const layer = /** @type {CanvasRenderingContext2D} */ (this.layer.getContext("2d"));
      layer.putImageData(this.image, 0, 0);
      context.imageSmoothingEnabled = false;
      const gap = size.row > 8 ? 2 : 1;
      context.save();
      context.beginPath();
      shown.forEach((_, at) => context.rect(size.gutter, TOP + at * size.row, this.#plotWidth(), size.row - gap));
      context.clip();
      context.drawImage(
        this.layer,
        0,
        0,
        width,
        shown.length,
        size.gutter,
        TOP,
        this.#plotWidth(),
        shown.length * size.row,
      );
      context.restore();
    }
    if (!rows.length) {
      context.fillStyle = this.style.muted;
      context.textAlign = "center";
      context.fillText(this.t("no tasks in this time"), size.gutter + this.#plotWidth() / 2, TOP + 40);
      context.textAlign = "left";
    }
    this.#drawEvents(context, from_s, to_s, height);
    this.#showTip(from_s, placed, rowOf, extra, now_s);
    const hidden = rows.length - size.shown;
    const left = model.skipped ? this.t("%1 tasks left out", count(model.skipped)) : "";
    const note = [
      hidden > 0 ? this.t("rows %1 to %2 of %3", this.rowOffset + 1, this.rowOffset + size.shown, rows.length) : "",
      left,
    ];
    setText(/** @type {HTMLElement} */ (this.status), note.filter(Boolean).join(" · "));
  }

  #chooseColours() {
    const { functions } = this.model;
    if (this.colourNames === functions) return;
    this.colourNames = functions;
    this.colours = coloursOf(functions);
    this.pixelColours = Uint32Array.from(this.colours, (colour) => pixel(colour));
  }

  /**
   * The feed has the job of a running task, not its function: the one that bears the job's name, or has it in its own.
   * @param {string} id
   * @returns {string}
   */
  #colourOfJob(id) {
    const { functions, jobs } = this.model;
    const name = jobs.get(id)?.name ?? "";
    let at = functions.indexOf(name);
    if (at < 0 && name) at = functions.findIndex((one) => one.includes(name));
    return at >= 0 ? this.colours[at] : coloursOf([name])[0];
  }

  #readStyle() {
    const at = performance.now();
    if (at - this.styleAt_ms < 500) return;
    this.styleAt_ms = at;
    const style = getComputedStyle(this.element);
    const read = (/** @type {string} */ name, /** @type {string} */ other) =>
      style.getPropertyValue(name).trim() || other;
    this.style = {
      fg: read("--cnb-fg", "#222"),
      muted: read("--cnb-muted", "#666"),
      line: read("--cnb-line", "#ddd"),
      font: `11px ${style.fontFamily || "sans-serif"}`,
    };
  }

  /** @param {number} width @param {number} rows */
  #reserve(width, rows) {
    if (!rows || (this.image && this.image.width === width && this.image.height === rows)) return;
    this.layer.width = width;
    this.layer.height = rows;
    this.image = new ImageData(width, rows);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  /** @param {CanvasRenderingContext2D} context @param {Row[]} shown @param {number} from_s @param {number} to_s */
  #drawGrid(context, shown, from_s, to_s) {
    const { size, style } = this;
    const plot = this.#plotWidth();
    const bottom = size.height - AXIS;
    const step = tickStep(to_s - from_s, plot / 90);
    const offset_s = this.model.offset_s;
    const digits = step < 0.01 ? 3 : step < 1 ? 2 : 0;
    context.strokeStyle = style.line;
    context.lineWidth = 1;
    context.fillStyle = style.muted;
    context.textBaseline = "middle";
    context.beginPath();
    for (let wall_s = Math.ceil((from_s + offset_s) / step) * step; wall_s <= to_s + offset_s; wall_s += step) {
      const x = Math.round(size.gutter + ((wall_s - offset_s - from_s) / (to_s - from_s)) * plot) + 0.5;
      context.moveTo(x, TOP);
      context.lineTo(x, bottom + 4);
      const text = clock(wall_s + 1e-6, digits);
      const half = context.measureText(text).width / 2;
      context.fillText(text, Math.min(size.width - 2 * half - 1, Math.max(size.gutter - half, x - half)), bottom + 13);
    }
    context.moveTo(size.gutter, bottom + 0.5);
    context.lineTo(size.width, bottom + 0.5);
    context.stroke();
    let slave = "";
    shown.forEach((row, at) => {
      const y = TOP + at * size.row;
      const isFirst = row.slave !== slave;
      slave = row.slave;
      if (isFirst && at) {
        context.fillStyle = style.line;
        context.fillRect(0, y - 1, size.gutter, 1);
      }
      const room = size.gutter - 8;
      if (isFirst && (size.row >= 10 || !at || shown[at + 1]?.slave === slave)) {
        context.fillStyle = style.fg;
        this.#drawClipped(
          context,
          visible(row.slave, 40),
          0,
          y + Math.max(size.row, 12) / 2 - 1,
          size.row >= 12 && size.gutter > 80 && row.worker ? room - 44 : room,
        );
      }
      if (size.row >= 12 && size.gutter > 80 && row.worker) {
        context.fillStyle = style.muted;
        context.textAlign = "right";
        context.fillText(visible(row.worker, 7), size.gutter - 6, y + size.row / 2 - 1);
        context.textAlign = "left";
      }
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {string} text
   * @param {number} x
   * @param {number} y
   * @param {number} room
   */
  #drawClipped(context, text, x, y, room) {
    let shown = text;
    while (shown.length > 1 && context.measureText(shown).width > room) {
      shown = `${shown.replace(/…$/, "").slice(0, -1)}…`;
    }
    context.fillText(shown, x, y);
  }

  /** @param {CanvasRenderingContext2D} context @param {number} from_s @param {number} to_s @param {number} height */
  #drawEvents(context, from_s, to_s, height) {
    const { size, style } = this;
    const plot = this.#plotWidth();
    let free = size.gutter;
    for (const event of this.model.events) {
      if (event.at_s < from_s || event.at_s > to_s) continue;
      const x = size.gutter + ((event.at_s - from_s) / (to_s - from_s)) * plot;
      const isBad = /died|lost|failed|quarantined|killed/.test(event.kind);
      context.fillStyle = isBad ? FAILED_COLOUR : style.muted;
      context.globalAlpha = 0.5;
      context.fillRect(Math.round(x), TOP - 3, 1, height - AXIS - TOP + 3);
      context.globalAlpha = 1;
      context.beginPath();
      context.moveTo(x - 4, TOP - 9);
      context.lineTo(x + 5, TOP - 9);
      context.lineTo(x + 0.5, TOP - 2);
      context.fill();
      const text = visible(event.text || event.kind, 48);
      const width = context.measureText(text).width;
      if (x + 8 > free && x + 8 + width < size.width) {
        context.fillStyle = style.fg;
        context.fillText(text, x + 8, TOP - 10);
        free = x + width + 20;
      }
    }
  }

  /**
   * @param {number} from_s @param {{task: import('./feed_model.js').RunningTask, place: number}[]} placed
   * @param {Int32Array} rowOf @param {Map<string, number>} extra @param {number} now_s
   */
  #showTip(from_s, placed, rowOf, extra, now_s) {
    const lines = this.pointer ? this.#describe(this.pointer, from_s, placed, rowOf, extra, now_s) : null;
    this.tip.hidden = !lines;
    if (!lines || !this.pointer) return;
    const text = lines.join("\n");
    setText(this.tip, text);
    const width = this.tip.offsetWidth;
    const x = this.pointer.x + 14 + width > this.size.width ? this.pointer.x - width - 10 : this.pointer.x + 14;
    this.tip.style.left = `${Math.max(0, x)}px`;
    this.tip.style.top = `${this.pointer.y + 14}px`;
  }

  /**
   * @param {{x: number, y: number}} pointer @param {number} from_s
   * @param {{task: import('./feed_model.js').RunningTask, place: number}[]} placed @param {Int32Array} rowOf
   * @param {Map<string, number>} extra @param {number} now_s @returns {string[] | null}
   */
  #describe({ x, y }, from_s, placed, rowOf, extra, now_s) {
    const { model, size, t } = this;
    if (x < size.gutter) {
      const row = this.rows[this.rowOffset + Math.floor((y - TOP) / size.row)];
      return row && y >= TOP
        ? [visible(row.slave, 200), row.worker ? t("worker %1", visible(row.worker)) : ""].filter(Boolean)
        : null;
    }
    const second = this.span_s / this.#plotWidth();
    const at_s = from_s + (x - size.gutter) * second;
    if (y < TOP) {
      const near = model.events.filter((event) => Math.abs(event.at_s - at_s) < 6 * second);
      return near.length
        ? near.map((event) => `${clock(event.wall_s)} ${visible(event.kind, 60)}: ${visible(event.text, 300)}`)
        : null;
    }
    const at = Math.floor((y - TOP) / size.row);
    const row = at < size.shown ? this.rows[this.rowOffset + at] : undefined;
    if (!row) return null;
    const where = `${visible(row.slave, 60)}${row.worker ? ` · ${t("worker %1", visible(row.worker))}` : ""}`;
    for (const { task, place } of placed) {
      if (
        (place >= 0 ? rowOf[place] : extra.get(`${task.slave}/${place}`)) !== at ||
        at_s < task.started_s ||
        at_s > now_s + 3 * second
      ) {
        continue;
      }
      const name = visible(model.jobs.get(task.job)?.name || task.job, 80);
      return [`${name} [${task.index}]`, t("running for %1", duration(now_s - task.started_s)), where];
    }
    const slot = row.lane < 0 ? -1 : markAt(model.marks, row.lane, at_s, 3 * second);
    if (slot < 0) return null;
    const { marks } = model;
    return [
      visible(model.functions[marks.fn[slot]] ?? "", 120),
      `${t(statusWord(marks.status[slot]))} · ${t("ran %1", duration(marks.run[slot]))}`,
      t(
        "waited %1, then %2 to its worker",
        duration(Math.max(0, marks.wait[slot] - marks.shipped[slot])),
        duration(marks.shipped[slot]),
      ),
      `${t("started %1", clock(marks.start[slot] + model.offset_s, 3))}`,
      where,
    ];
  }

  #showSummary() {
    if (!this.isSeen || !this.canvas.clientWidth) return;
    const { model, t } = this;
    this.#chooseColours();
    const to_s = this.#to();
    const from_s = to_s - this.span_s;
    const found = summarize(model.marks, from_s, to_s);
    const shown = found.slice(0, FUNCTIONS_SHOWN);
    fillRows(this.functionBody, shown.length + (found.length > shown.length ? 1 : 0), 9, (cells, at) => {
      const row = shown[at];
      if (!row) {
        cells.forEach((cell, column) => setText(cell, column ? "" : t("and %1 more", found.length - shown.length)));
        return;
      }
      const name = model.functions[row.fn] ?? "";
      if (cells[0].dataset.name !== name || !cells[0].firstChild) {
        cells[0].dataset.name = name;
        const label = element("span", "cnb-clip");
        setForeign(label, name);
        cells[0].replaceChildren(element("span", "cnb-function", [element("span", "cnb-chip"), label]));
      }
      /** @type {HTMLElement} */ (cells[0].firstChild?.firstChild ?? cells[0]).style.backgroundColor =
        this.colours[row.fn] ?? WAITING_COLOUR;
      const values = [
        count(row.count),
        row.failed ? count(row.failed) : "–",
        ...[row.min_s, row.q1_s, row.median_s, row.q3_s, row.max_s, row.total_s].map(duration),
      ];
      values.forEach((value, column) => setText(cells[column + 1], value));
      cells[2].classList.toggle("cnb-bad", row.failed > 0);
    });
    if (this.twin.open) this.#showTwin(from_s, to_s);
  }

  /** @param {number} from_s @param {number} to_s */
  #showTwin(from_s, to_s) {
    const lanes = summarizeLanes(this.model.marks, from_s, to_s);
    const rows = this.rows.slice(0, TABLE_ROWS);
    fillRows(this.twinBody, rows.length, 6, (cells, at) => {
      const row = rows[at];
      const sum = lanes.get(row.lane);
      const values = [
        visible(row.slave, 80),
        row.worker ? visible(row.worker) : this.t("running"),
        count(sum?.count ?? 0),
        count(sum?.failed ?? 0),
        percent((sum?.busy_s ?? 0) / this.span_s),
        duration(sum?.longest_s ?? 0),
      ];
      values.forEach((value, column) => setText(cells[column], value));
    });
  }
}

/**
 * Make a table body have so many rows, and fill them; rows are used again.
 * @param {HTMLTableSectionElement} body @param {number} rows @param {number} columns
 * @param {(cells: HTMLTableCellElement[], at: number) => void} fill
 */
function fillRows(body, rows, columns, fill) {
  while (body.rows.length > rows) body.deleteRow(-1);
  while (body.rows.length < rows) {
    const row = body.insertRow();
    row.append(
      ...Array.from({ length: columns }, (_, at) => (at ? element("td") : element("th", "", "", { scope: "row" }))),
    );
  }
  for (let at = 0; at < rows; at += 1) fill(/** @type {HTMLTableCellElement[]} */ ([...body.rows[at].cells]), at);
}
